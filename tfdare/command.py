"""What the commands share: a parser whose help starts with a line to paste, and clean endings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tfdare.schema import SchemaError


class UsageError(Exception):
    """Something the person at the terminal can mend; shown without a traceback, exit code 2."""


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
