"""``tfdare <command>``: finds an installed command and runs it.

Commands are entry points of the group ``tfdare.commands`` (see setup.py), so that this package
imports neither ``beam_jobs`` nor ``serving``, and each command imports only what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from importlib import metadata

from tfdare import __version__
from tfdare.quiet import quiet
from tfdare.text import text_table

_SUMMARY = {
    "simulate": "write an event log with known, planted interests",
    "prepare": "event log -> sequences (a Beam pipeline)",
    "inspect": "what a folder of sequences holds; a user's behaviors and requests",
    "train": "sequences -> trained model and its metrics",
    "evaluate": "metrics of a trained model on one split",
    "compare": "several models side by side, trained and tuned the same way",
    "analyze": "what the paper measures, on trained models, as one page",
    "export": "trained model -> SavedModel for TensorFlow Serving",
    "renew-attention": "newer attention vectors for a trained run, without training",
    "serve": "serve SavedModels over gRPC (development server)",
    "query": "rank a user's candidates through a server",
    "verify": "compare served scores with those of the trained model",
    "demo": "every step once, on a simulated log or on your own",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command that `argv` names; returns its exit code."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    commands = {entry.name: entry for entry in metadata.entry_points(group="tfdare.commands")}
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(commands))
        return 0
    if argv[0] == "--version":
        print(f"tfdare {__version__}")
        return 0
    if argv[0] not in commands:
        print(f"tfdare: no command {argv[0]!r}\n\n{_help(commands)}", file=sys.stderr)
        return 2
    with quiet():
        command = commands[argv[0]].load()
    return command(argv[1:])


def _help(commands: Collection[str]) -> str:
    known = [name for name in _SUMMARY if name in commands]
    names = [*known, *sorted(set(commands) - set(known))]
    return "\n".join(
        [
            "tfdare demo --output build/demo",
            "",
            "usage: tfdare COMMAND [OPTIONS]",
            "",
            text_table([(name, _SUMMARY.get(name, "")) for name in names], "<"),
            "",
            "Options of a command: tfdare COMMAND --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
