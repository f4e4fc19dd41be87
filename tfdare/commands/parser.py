"""Argument parsing, error messages and exit codes of all commands."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from tfdare.errors import UsageError
from tfdare.schema import SchemaError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter that appends an option's default to its help, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser of ``tfdare <name>``; `example` is a command, printed above the help."""

    def __init__(self, name: str, example: str, description: str):
        super().__init__(
            prog=f"tfdare {name}",
            description=description,
            formatter_class=HelpFormatter,
        )
        self.example = example

    def format_help(self) -> str:
        return f"{self.example}\n\n{super().format_help()}"


def run(parser: Parser, argv: Sequence[str] | None, action: Callable) -> int:
    """Parses `argv`, calls ``action(options)``, and returns the exit code.

    That is 0 when the action returns, 130 when it is interrupted, and 2 when it raises a
    :class:`UsageError` or :class:`SchemaError`: its message is printed, with dashes instead of
    backquotes around names of options.
    """
    options = parser.parse_args(argv)
    try:
        action(options)
    except (UsageError, SchemaError) as error:
        print(f"{parser.prog}: {_with_dashes(str(error), options)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped", file=sys.stderr)
        return 130
    return 0


def _with_dashes(message: str, options: argparse.Namespace) -> str:
    def dashed(name: re.Match[str]) -> str:
        return f"--{name[1]}" if name[1] in options else name[0]

    return re.sub(r"`(\w+)`", dashed, message)


def positive_int(text: str) -> int:
    """Reads an integer of at least 1."""
    return at_least(text, 1)


def non_negative_int(text: str) -> int:
    """Reads an integer of at least 0."""
    return at_least(text, 0)


def at_least(text: str, minimum: int) -> int:
    """Reads an integer of at least ``minimum``.

    Raises:
        argparse.ArgumentTypeError: `text` is not such an integer.
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
