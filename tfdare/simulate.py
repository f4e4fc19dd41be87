"""An event log in Taobao's published format whose interests are planted, and therefore known.

The real logs may not be handed on, and nobody knows what is true in them. This one can be made
anywhere in seconds, at any size, and comes with its truth:

* items and categories are popular by Zipf's law, and part of all events follows popularity alone;
* every user has lifelong categories that keep coming back, interests that drift from era to era,
  and favorite items in each category; events come in sessions, runs in one category;
* every category ``c`` has a partner ``r(c)`` and a lag: an event in ``c`` pulls, with probability
  ``relation``, the user's page view ``lag`` positions later into ``r(c)``. That is the
  semantic-temporal correlation which search has to find: neither popularity nor counts show it.

Options can be fitted to a log of one's own (``tfdare simulate --fit``), and come fitted to two
public ones (``--like taobao``, ``--like checkins``): then users return to single items, come in
visits with a daily rhythm, and differ as those users do.

Lags count page views (``pv``), the behaviors that sequences are built of; ``buy``, ``cart`` and
``fav`` rows repeat the page view they follow. What was planted is had as data from
:mod:`tfdare.planted`. This module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from tfdare.command import Parser, UsageError, run
from tfdare.planted import user_truth, world_truth
from tfdare.simulation import parameters
from tfdare.simulation.events import BEHAVIORS, Events, blocks
from tfdare.simulation.fit import Fit, fit, views_of
from tfdare.simulation.logs import NAMES, read_sample
from tfdare.simulation.options import RANGES, SimulatorOptions
from tfdare.simulation.plot import plot_beside
from tfdare.simulation.statistics import measure
from tfdare.simulation.world import World
from tfdare.simulation.writing import LogCounts, atomic, write_causes, write_log

__all__ = [
    "BEHAVIORS",
    "Events",
    "Fit",
    "LogCounts",
    "SimulatorOptions",
    "fit",
    "like",
    "measure",
    "read_sample",
    "simulate",
    "truth",
    "views_of",
    "write_causes",
    "write_log",
    "write_truth",
]


def simulate(options: SimulatorOptions, *, block_users: int | None = None) -> Iterator[Events]:
    """The log, block by block; only a block is held in memory.

    Args:
        options: SimulatorOptions. What to simulate.
        block_users: int or None. Users of a block; the last one may hold fewer. None leaves the
            size to the simulator. The rows do not depend on it.

    Raises:
        ValueError: ``block_users`` is not positive.

    Example:
        >>> log = list(simulate(SimulatorOptions(users=30, mean_events=20), block_users=10))
        >>> [len(set(events.user.tolist())) for events in log]
        [10, 10, 10]
    """
    if block_users is not None and block_users < 1:
        raise ValueError(f"`block_users` must be positive. Received: block_users={block_users!r}")
    return blocks(options, block_users)


def like(name: str | os.PathLike, **changes) -> SimulatorOptions:
    """Options that were fitted to a log: ``"taobao"``, ``"checkins"``, or a file of ``--fit``.

    Args:
        name: str. Of the set, or a path.
        **changes: options to change, such as ``users``.

    Raises:
        ValueError: there is none of this name, or a value is out of range.

    Example:
        >>> like("taobao", users=50).users
        50
    """
    return dataclasses.replace(parameters.read(name).options, **changes)


def truth(options: SimulatorOptions) -> dict[str, Any]:
    """What was planted, in the raw ids of the log, ready for JSON.

    ``categories`` gives each category's ``partner``, ``lag`` (in page views) and number of
    ``items``; ``users`` each user's lifelong categories and the favorite items in them. Favorites
    in other categories, and the eras, are left out.
    """
    world = World(options)
    return {**world_truth(world), "users": dict(_users(world))}


def write_truth(path: str | os.PathLike, options: SimulatorOptions) -> None:
    """Writes :func:`truth` as JSON, user by user and atomically."""
    world = World(options)
    with atomic(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(world_truth(world), indent=1)[:-2] + ',\n "users": {')
        for number, (user, planted) in enumerate(_users(world)):
            file.write(f"{',' if number else ''}\n  {json.dumps(user)}: {json.dumps(planted)}")
        file.write("\n }\n}\n")


def _users(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(world.options.cohorts):
        yield from user_truth(world, number)


def main(argv: list[str] | None = None) -> int:
    """``tfdare simulate``: writes a log and its truth, or fits the options to a log."""
    parser = Parser(
        "simulate",
        "tfdare simulate --output log.csv --users 2000 --items 5000 --categories 100 "
        "--mean_events 300 --seed 1 --bad_rows 20\n"
        "tfdare simulate --output log.csv.gz --like taobao --users 10000 --workers 2",
        "Writes an event log with planted interests in Taobao's format, and what was planted to "
        "OUTPUT.truth.json. With --fit, finds the options under which it looks like a log of "
        "yours, for --like.",
    )
    add = parser.add_argument
    add("--output", help="file to write: the log, .gz compresses it; with --fit the options")
    add(
        "--like",
        metavar="NAME",
        help="options fitted to a log, which those below change: "
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
    add("--plot", metavar="PNG", help="draw a simulated log beside the one of --fit or --like")
    add("--workers", type=int, default=1, help="processes; the log does not depend on it")
    add(
        "--causes",
        action="store_true",
        help="also write why each page view happened, to OUTPUT.causes.csv.gz",
    )
    for field in dataclasses.fields(SimulatorOptions):
        low, high = RANGES[field.name]
        shown = f"{low} or more" if high >= 10**6 else f"{low} to {high}"
        add(
            f"--{field.name}",
            type=type(field.default),
            default=argparse.SUPPRESS,
            help=f"{shown} (default: {field.default})",
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
                raise UsageError("--plot needs a log to show beside: --like or --fit")
            found = measure(
                views_of(simulate(dataclasses.replace(options, users=known.real["users"])))
            )
            _plot(arguments, known.real, found, f"simulated --like {arguments.like}")
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
    print(f"{output}.truth.json: what was planted")
    if arguments.causes:
        print(f"{output}.causes.csv.gz: why each page view happened")


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

    found = fit(
        sample.views,
        other_behaviors=sample.other_behaviors,
        users=sample.users,
        options=options,
        rounds=arguments.rounds,
        say=say,
    )
    for name, error in found.error.items():
        print(f"  {name:<16} off by {error:.2f}")
    if arguments.output:
        parameters.write(arguments.output, found)
        print(f"{arguments.output}: options for --like")
    if arguments.plot:
        name = " ".join(map(os.path.basename, arguments.fit))
        _plot(arguments, found.real, found.simulated, f"{name}, and a log simulated like it")


def _plot(arguments, real, simulated, title) -> None:
    plot_beside(real, simulated, arguments.plot, title)
    print(f"{arguments.plot}: the log beside a simulated one")


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    found = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    unknown = sorted(set(found) - set(NAMES))
    if unknown or not all(found.values()):
        raise UsageError(
            f"--columns takes {', '.join(NAMES)}, each as name=column. Received: {text}"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
