"""``tfdare simulate``: an event log in Taobao's published format with planted interests."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from tfdare.commands.parser import Parser, run
from tfdare.errors import UsageError
from tfdare.simulation import (
    SimulatorOptions,
    parameters,
    simulate,
    write_causes,
    write_log,
    write_truth,
)
from tfdare.simulation.fit import fit, views_of
from tfdare.simulation.logs import NAMES, read_sample
from tfdare.simulation.options import RANGES
from tfdare.simulation.plot import plot_beside
from tfdare.simulation.statistics import measure
from tfdare.text import text_table


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare simulate``; returns the exit code."""
    parser = Parser(
        "simulate",
        "tfdare simulate --output log.csv --users 2000 --items 5000 --categories 100 "
        "--mean_events 300 --seed 1 --bad_rows 20\n"
        "tfdare simulate --output log.csv.gz --like taobao --users 10000 --workers 2",
        "Writes an event log with planted interests in Taobao's format, and these interests to "
        "OUTPUT.truth.json. With --fit, finds options with which it resembles a log of yours, for "
        "--like.",
    )
    add = parser.add_argument
    add("--output", help="file to write: the log, .gz compresses it; with --fit the options")
    add(
        "--like",
        metavar="NAME",
        help="start from fitted options, which those below replace: one of "
        f"{', '.join(parameters.names())}, or a file written by --fit",
    )
    add("--fit", nargs="+", metavar="LOG", help="fit the options to this log (CSV, gzip is fine)")
    add(
        "--columns",
        metavar="NAME=COLUMN,...",
        help=f"of --fit: {', '.join(NAMES)}, for a log "
        "with a header; without, it is in Taobao's format",
    )
    add("--rounds", type=int, default=3, help="of --fit; 0 only compares --like with the log")
    add(
        "--max_views",
        type=int,
        default=150_000,
        help="of --fit: page views to fit to; of larger logs users are sampled",
    )
    add(
        "--plot",
        metavar="PNG",
        help="plot a simulated log together with the one of --fit or --like",
    )
    add("--workers", type=int, default=1, help="processes; the log does not depend on it")
    add(
        "--causes",
        action="store_true",
        help="also write the cause of each page view to OUTPUT.causes.csv.gz",
    )
    for field in dataclasses.fields(SimulatorOptions):
        low, high = RANGES[field.name]
        bounds = f"{low} or more" if high >= 10**6 else f"{low} to {high}"
        add(
            f"--{field.name}",
            type=type(field.default),
            default=argparse.SUPPRESS,
            help=f"{bounds} (default: {field.default})",
        )
    add("--bad_rows", type=int, default=0, help="malformed rows to add")
    add("--quiet", action="store_true", help="no progress bar")
    return run(parser, argv, _run)


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.output and not arguments.plot:
        raise UsageError("Nothing to do: give --output, --plot, or both")
    for name in filter(None, (arguments.output, arguments.plot)):
        if os.path.isdir(name):
            which = "output" if name == arguments.output else "plot"
            raise UsageError(
                f"`--{which}` must be a file, not a folder. Received: --{which} {name}"
            )
        try:
            os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
        except OSError as error:
            raise UsageError(f"{name} has no usable folder: {error}") from error
    try:
        known = parameters.read(arguments.like) if arguments.like else None
        start = known.options if known else SimulatorOptions()
        changes = {name: value for name, value in vars(arguments).items() if name in RANGES}
        options = dataclasses.replace(start, **changes)
        if arguments.fit:
            _fit(arguments, options if known or changes else None)
            return
        if arguments.output:
            _write(arguments, options)
        if arguments.plot:
            if known is None or known.real is None:
                raise UsageError("--plot needs a log to compare with: --like or --fit")
            simulated = measure(
                views_of(simulate(dataclasses.replace(options, users=known.real["users"])))
            )
            _plot(arguments, known.real, simulated, f"simulated --like {arguments.like}")
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _write(arguments: argparse.Namespace, options: SimulatorOptions) -> None:
    output, how = arguments.output, {"workers": arguments.workers, "progress": not arguments.quiet}
    counts = write_log(output, options, bad_rows=arguments.bad_rows, **how)
    write_truth(f"{output}.truth.json", options)
    if arguments.causes:
        write_causes(f"{output}.causes.csv.gz", options, **how)
    print(
        f"{output}: {counts.rows:,} rows ({counts.page_views:,} page views, {counts.bad_rows} "
        f"malformed) of {counts.users:,} users, {counts.long_users:,} with 210 page views or more"
    )
    print(f"{output}.truth.json: the planted interests")
    if arguments.causes:
        print(f"{output}.causes.csv.gz: the cause of each page view")


def _fit(arguments: argparse.Namespace, options: SimulatorOptions | None) -> None:
    sample = read_sample(
        arguments.fit,
        columns=_columns(arguments.columns),
        max_views=arguments.max_views,
        progress=not arguments.quiet,
    )
    print(
        f"{sample.rows:,} rows, {sample.unreadable:,} unreadable; fitted to "
        f"{sample.views.user.size:,} page views of {sample.users:,} users",
        flush=True,
    )

    def say(line: str) -> None:
        print(f"  {line}", flush=True)

    fitted = fit(
        sample.views,
        other_behaviors=sample.other_behaviors,
        users=sample.users,
        options=options,
        rounds=arguments.rounds,
        say=say,
    )
    print(text_table([[name, f"off by {error:.2f}"] for name, error in fitted.error.items()]))
    if arguments.output:
        parameters.write(arguments.output, fitted)
        print(f"{arguments.output}: options for --like")
    if arguments.plot:
        name = " ".join(map(os.path.basename, arguments.fit))
        _plot(arguments, fitted.real, fitted.simulated, f"{name}, and a log simulated like it")


def _plot(arguments, real, simulated, title) -> None:
    plot_beside(real, simulated, arguments.plot, title)
    print(f"{arguments.plot}: the log and a simulated one")


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    columns = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    if not set(columns) <= set(NAMES) or not all(columns.values()):
        raise UsageError(
            f"--columns takes {', '.join(NAMES)}, each as name=column. Received: {text}"
        )
    return columns


if __name__ == "__main__":
    sys.exit(main())
