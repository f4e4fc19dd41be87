"""InputError, whose message is shown to the user of a command, and the exit codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from tfdare.schema import SchemaError

_OPEN, _CLOSE = "{[input] ", " [/input]}"


class InputError(Exception):
    """The log, or an option, cannot be used; the message says what was received.

    Workers raise it, too. Runners report a worker's exception as text within other text, so the
    message is enclosed in marks that :func:`find_message` looks for.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{_OPEN}{self.message}{_CLOSE}"

    def __reduce__(self):
        return InputError, (self.message,)


def find_message(error: BaseException) -> str | None:
    """Finds the message of an :class:`InputError` inside ``error``, however a runner wrapped it."""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        if isinstance(chain, InputError):
            return chain.message
        match = re.search(re.escape(_OPEN) + "(.*?)" + re.escape(_CLOSE), str(chain), re.DOTALL)
        if match:
            return re.sub(r" \[while running '[^']*'\]$", "", match.group(1))
        seen.add(id(chain))
        chain = chain.__cause__ or chain.__context__
    return None


def exit_code(action: Callable[[], None]) -> int:
    """Runs a command and returns its exit code; unexpected errors are raised.

    It is 0, 2 with a message on stderr for InputError and SchemaError, 130 after an interrupt, or
    argparse's own.
    """
    try:
        action()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse has printed why
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        message = str(error) if isinstance(error, SchemaError) else find_message(error)
        if message is None:
            raise
        print(f"error: {printable(message)}", file=sys.stderr)
        return 2
    return 0


def printable(text: str) -> str:
    """Replaces characters that a terminal would act upon."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )
