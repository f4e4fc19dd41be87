"""Hides the messages that TensorFlow writes when it starts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_SILENT = "3"  # errors of TensorFlow reach Python as exceptions
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::|To enable the following instructions"
    rb"|[IWE]\d{4} [\d:. ]+ \S+\] |\d{4}-\d\d-\d\d [\d:.]+: [IWE] "
)


@contextlib.contextmanager
def quiet(explained: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Collects standard error in the block; afterwards writes it without TensorFlow's messages.

    TensorFlow's libraries write lines to the file descriptor itself, before any log level
    applies. If the block fails, everything is written. Does nothing if the user has set
    ``TF_CPP_MIN_LOG_LEVEL``.

    Args:
        explained: tuple of exception types after which TensorFlow's messages stay hidden, too.
    """
    if os.environ.setdefault(_LEVEL, _SILENT) != _SILENT:
        yield
        return
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all: nothing to keep clean
        yield
        return
    whole = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            whole = not isinstance(error, explained)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            held.seek(0)
            for line in held:
                if whole or not _CHATTER.match(line):
                    os.write(kept, line)
            os.close(kept)
