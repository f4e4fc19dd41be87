"""What the commands share: a parser whose help starts with a line to paste, and clean endings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tfdare.errors import UsageError
from tfdare.schema import SchemaError


class Parser(argparse.ArgumentParser):
    """Argument parser of ``tfdare <name>``; `example` is the line to paste."""

    def __init__(self, name: str, example: str, description: str):
        super().__init__(
            prog=f"tfdare {name}",
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        self.example = example

    def format_help(self) -> str:
        return f"{self.example}\n\n{super().format_help()}"


def run(parser: Parser, argv: Sequence[str] | None, action: Callable) -> int:
    """Parses `argv`, calls ``action(options)``; 0 when it returns, 2 when it raises a
    :class:`UsageError` or :class:`SchemaError`, whose message is printed."""
    options = parser.parse_args(argv)
    try:
        action(options)
    except (UsageError, SchemaError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped", file=sys.stderr)
        return 130
    return 0


def positive_int(text: str) -> int:
    """An argument that must be an integer of at least 1."""
    return at_least(text, 1)


def non_negative_int(text: str) -> int:
    """An argument that must be an integer of at least 0."""
    return at_least(text, 0)


def at_least(text: str, minimum: int) -> int:
    """``text`` as an integer of at least ``minimum``.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < minimum:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least {minimum}. Received: {text!r}"
        )
    return value
