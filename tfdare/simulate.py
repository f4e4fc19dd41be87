"""An event log in Taobao's published format whose interests are planted, and therefore known.

The real logs may not be handed on, and nobody knows what is true in them. This one can be made
anywhere in seconds, at any size, and comes with its truth:

* items and categories are popular by Zipf's law, and part of all events follows popularity alone;
* every user has lifelong categories that keep coming back, interests that drift from era to era,
  and favorite items in each category; events come in sessions, runs in one category;
* every category ``c`` has a partner ``r(c)`` and a lag: an event in ``c`` pulls, with probability
  ``relation``, the user's page view ``lag`` positions later into ``r(c)``. That is the
  semantic-temporal correlation which search has to find: neither popularity nor counts show it.

Lags count page views (``pv``), the behaviors that sequences are built of; ``buy``, ``cart`` and
``fav`` rows repeat the page view they follow. This module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, Iterator

import numpy as np
import pyarrow as pa
from pyarrow import csv
from tqdm import tqdm

from tfdare.command import Parser, UsageError, run
from tfdare.planted import user_truth, world_truth
from tfdare.simulation.events import BEHAVIORS, Events, blocks
from tfdare.simulation.options import RANGES, SimulatorOptions
from tfdare.simulation.world import BAD, World

__all__ = [
    "BEHAVIORS", "Events", "LogCounts", "SimulatorOptions", "simulate", "truth", "write_log",
    "write_truth",
]


@dataclass(frozen=True)
class LogCounts:
    """What :func:`write_log` wrote.

    Attributes:
        rows: int. Rows in the file, malformed ones included.
        bad_rows: int. Malformed rows.
        page_views: int. Rows with behavior ``pv``, malformed ones left out.
        users: int. Users in the log.
        long_users: int. Users with 210 page views or more, the paper's bound.
    """

    rows: int
    bad_rows: int
    page_views: int
    users: int
    long_users: int


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
    with _atomic(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(world_truth(world), indent=1)[:-2] + ',\n "users": {')
        for number, (user, planted) in enumerate(_users(world)):
            file.write(f"{',' if number else ''}\n  {json.dumps(user)}: {json.dumps(planted)}")
        file.write("\n }\n}\n")


def write_log(
    path: str | os.PathLike, options: SimulatorOptions, *, bad_rows: int = 0, progress: bool = True
) -> LogCounts:
    """Writes the log as CSV without a header: user, item, category, behavior, unix seconds.

    The file appears under its name only when it is complete.

    Args:
        path: str. Where to; compressed if it ends in ``.gz``.
        options: SimulatorOptions. What to simulate.
        bad_rows: int. Malformed rows to add, for trying out how a reader rejects them: a missing
            column, a time that is no number, a negative item, in turn. Defaults to 0.
        progress: bool. Whether to show a progress bar on a terminal's stderr. Defaults to True.

    Raises:
        ValueError: ``bad_rows`` is negative.
        OSError: the file cannot be written.
    """
    if bad_rows < 0:
        raise ValueError(f"`bad_rows` must not be negative. Received: bad_rows={bad_rows!r}")
    rng = np.random.default_rng([options.seed, BAD])
    victims = np.sort(rng.integers(0, options.users, bad_rows))
    done = rows = page_views = long_users = 0
    with _atomic(path) as raw, contextlib.ExitStack() as stack:
        file = raw
        if os.fspath(path).endswith(".gz"):  # no name and no time inside: equal bytes
            file = stack.enter_context(gzip.GzipFile("", "wb", 4, fileobj=raw, mtime=0))
        bar = tqdm(
            total=options.users,
            unit="user",
            desc="simulate",
            file=sys.stderr,
            disable=None if progress else True,
        )
        stack.enter_context(bar)
        for events in simulate(options):
            starts = np.flatnonzero(np.diff(events.user, prepend=-1))
            views = np.add.reduceat((events.behavior == 0).astype(np.int64), starts)
            data = _csv(events)
            first, last = np.searchsorted(victims, [done, done + starts.size])
            if first < last:
                data = _with_bad_rows(data, starts[victims[first:last] - done], int(first))
            file.write(data)
            done += starts.size
            rows += events.user.size
            page_views += int(views.sum())
            long_users += int((views >= 210).sum())
            bar.update(starts.size)
    return LogCounts(rows + bad_rows, bad_rows, page_views, done, long_users)


def main(argv: list[str] | None = None) -> int:
    """``tfdare simulate``: writes a log and, beside it, its truth."""
    parser = Parser(
        "simulate",
        "tfdare simulate --output log.csv --users 2000 --items 5000 --categories 100 "
        "--mean_events 300 --seed 1 --bad_rows 20",
        "Writes an event log with planted interests in Taobao's format, and what was planted to "
        "OUTPUT.truth.json.",
    )
    parser.add_argument("--output", required=True, help="file to write; .gz compresses it")
    for field in dataclasses.fields(SimulatorOptions):
        kind = float if isinstance(field.default, float) else int
        low, high = RANGES[field.name]
        shown = f"{low} or more" if high >= 10**6 else f"{low} to {high}"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=shown)
    parser.add_argument("--bad_rows", type=int, default=0, help="malformed rows to add")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(parser, argv, _write)


def _write(arguments: argparse.Namespace) -> None:
    names = {field.name for field in dataclasses.fields(SimulatorOptions)}
    output = arguments.output
    if os.path.isdir(output):
        raise UsageError(f"`--output` must be a file, not a folder. Received: --output {output}")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    except OSError as error:
        raise UsageError(f"`--output` has no usable folder: {error}") from error
    try:
        options = SimulatorOptions(**{k: v for k, v in vars(arguments).items() if k in names})
        counts = write_log(
            output, options, bad_rows=arguments.bad_rows, progress=not arguments.quiet
        )
        write_truth(f"{output}.truth.json", options)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(
        f"{output}: {counts.rows:,} rows ({counts.page_views:,} page views, {counts.bad_rows} "
        f"malformed) of {counts.users:,} users, {counts.long_users:,} with 210 page views or more"
    )
    print(f"{output}.truth.json: what was planted")


def _users(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(world.cohorts):
        yield from user_truth(world, number)


def _csv(events: Events) -> bytes:
    table = pa.table(
        {
            "user": events.user,
            "item": events.item,
            "category": events.category,
            "behavior": pa.array(BEHAVIORS).take(pa.array(events.behavior)),
            "time": events.time,
        }
    )
    buffer = io.BytesIO()
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False, quoting_style="none"))
    return buffer.getvalue()


def _with_bad_rows(data: bytes, rows: np.ndarray, number: int) -> bytes:
    """Adds a spoiled copy after each of ``rows``, after ``number`` bad rows in earlier blocks."""
    lines = data.split(b"\n")
    for place, row in enumerate(rows.tolist(), start=number):
        fields = lines[row].partition(b"\n")[0].split(b",")
        spoiled = (
            fields[:4],
            [*fields[:4], b"yesterday"],
            [fields[0], b"-" + fields[1], *fields[2:]],
        )[place % 3]
        lines[row] += b"\n" + b",".join(spoiled)
    return b"\n".join(lines)


@contextlib.contextmanager
def _atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends, and vanishes if the block fails."""
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


if __name__ == "__main__":
    sys.exit(main())
