"""Parsing of jobs' command lines: their own options and Beam's, and bounds of numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from beam_jobs.shared.errors import InputError

DEFAULT_RUNNER = "FnApiRunner"


class JobParser(argparse.ArgumentParser):
    """Parser of a job that writes a folder: its help starts with `example`."""

    def __init__(self, prog: str, example: str, description: str):
        super().__init__(
            prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._example = example
        self.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
        self.add_argument(
            "--overwrite",
            action="store_true",
            help="replace an earlier output once the new one is complete",
        )

    def format_help(self) -> str:
        return f"{self._example}\n\n{super().format_help()}"


def parse_job(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Parses the job's own options, and Beam's, to which the default runner is added.

    Raises:
        InputError: an option is neither the job's nor Beam's.
    """
    args, beam_args = parser.parse_known_args(argv)
    check_beam(beam_args)
    return args, with_runner(beam_args)


def check_bounds(args: argparse.Namespace, bounds: Iterable[tuple[str, float, float]]) -> None:
    """Checks that numbers lie within their bounds.

    Args:
        args: Namespace. An option that is None passes.
        bounds: iterable of (name of an option, least value, largest value).

    Raises:
        InputError: a number is too small or too large.
    """
    for name, least, most in bounds:
        value = getattr(args, name)
        if value is None or least <= value <= most:
            continue
        limit = f"at most {most}" if value > most else f"at least {least}"
        raise InputError(f"--{name} must be {limit}. Received: {value}")


def with_runner(beam_args: Sequence[str]) -> list[str]:
    """Adds the default runner to Beam's options unless they name one."""
    if any(arg.startswith("--runner") for arg in beam_args):
        return list(beam_args)
    return [*beam_args, f"--runner={DEFAULT_RUNNER}"]


def check_beam(beam_args: Sequence[str]) -> None:
    """Checks that Beam knows the options.

    Raises:
        InputError: with those that it does not know.
    """
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for part in PipelineOptions.__subclasses__():
        part._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        raise InputError(f"Neither an option of this job nor of Beam: {' '.join(unknown)}")
