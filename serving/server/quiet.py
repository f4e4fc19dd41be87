"""Keeps TensorFlow's start-up lines from the user, without losing a failure's own words."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import Iterator


@contextlib.contextmanager
def quiet_start(explained: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Holds back what is written to standard error inside; shows it where the block fails.

    TensorFlow's libraries write some lines to the file descriptor itself, before any log level
    applies.

    Args:
        explained: tuple of exception types that say themselves what is wrong: nothing is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except explained:
            raise
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
