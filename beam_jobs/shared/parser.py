"""What the commands of all jobs share: their own options beside Beam's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.shared.errors import InputError

DEFAULT_RUNNER = "FnApiRunner"


class JobParser(argparse.ArgumentParser):
    """Parser of a job that reads a folder and makes another: its help starts with `example`."""

    def __init__(self, prog: str, example: str, description: str):
        super().__init__(
            prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._example = example
        self.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
        self.add_argument(
            "--overwrite", action="store_true", help="replace the output, once the new one is whole"
        )

    def format_help(self) -> str:
        return f"{self._example}\n\n{super().format_help()}"


def parse_job(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options, and Beam's, with the default runner among them.

    Raises:
        InputError: an option is neither the job's nor Beam's.
    """
    asked, rest = parser.parse_known_args(argv)
    check_beam(rest)
    return asked, with_runner(rest)


def with_runner(rest: Sequence[str]) -> list[str]:
    """Beam's options, the default runner among them where none is named."""
    if any(arg.startswith("--runner") for arg in rest):
        return list(rest)
    return [*rest, f"--runner={DEFAULT_RUNNER}"]


def check_beam(rest: Sequence[str]) -> None:
    """Refuses what is no option of Beam either.

    Raises:
        InputError: with those options.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for part in PipelineOptions.__subclasses__():
        part._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(rest))
    if unknown:
        raise InputError(f"Neither an option of this job nor of Beam: {' '.join(unknown)}")
