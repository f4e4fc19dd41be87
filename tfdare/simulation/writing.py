"""Writes a simulated log, cohort by cohort, in one or several processes."""

from __future__ import annotations

import collections
import contextlib
import functools
import gzip
import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv
from tqdm import tqdm

from tfdare.files import replacing
from tfdare.simulation.events import BEHAVIORS, CAUSES, Events, cohort_causes, cohort_events
from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.world import BAD, World

LONG = 210
"""Least number of page views of a user in the paper's logs."""


@dataclass(frozen=True)
class LogCounts:
    """Counts of the log that :func:`write_log` wrote.

    Attributes:
        rows: int. Rows in the file, malformed ones included.
        bad_rows: int. Malformed rows.
        page_views: int. Rows with behavior ``pv``, malformed ones left out.
        users: int. Users in the log.
        long_users: int. Users with at least 210 page views, as in the paper's logs.
    """

    rows: int
    bad_rows: int
    page_views: int
    users: int
    long_users: int


class _Part(NamedTuple):
    """Bytes and counts of one cohort in the file."""

    data: bytes
    rows: int
    page_views: int
    users: int
    long_users: int


class _PartMaker:
    """Generates parts of the file; each process has one."""

    def __init__(self, options: SimulatorOptions, bad_rows: int, gz: bool):
        self.world = World(options)
        rng = np.random.default_rng([options.seed, BAD])
        self.victims = np.sort(rng.integers(0, options.users, bad_rows))
        self.gz = gz

    def log(self, number: int) -> _Part:
        events = cohort_events(self.world, number)
        starts = np.flatnonzero(np.diff(events.user, prepend=-1))
        views = np.add.reduceat((events.behavior == 0).astype(np.int64), starts)
        data = _csv(events)
        done = number * self.world.options.cohort_users
        first, last = np.searchsorted(self.victims, [done, done + starts.size])
        if first < last:
            data = _with_bad_rows(data, starts[self.victims[first:last] - done], int(first))
        return _Part(
            self._packed(data),
            events.user.size,
            int(views.sum()),
            starts.size,
            int((views >= LONG).sum()),
        )

    def causes(self, number: int) -> _Part:
        causes = cohort_causes(self.world, number)
        table = pa.table(
            {
                "user": causes.user,
                "position": causes.position,
                "cause": pa.array(CAUSES).take(pa.array(causes.cause)),
                "distance": causes.distance,
                "favorite": causes.favorite.astype(np.int8),
            }
        )
        users = int((causes.position == 0).sum())
        return _Part(
            self._packed(_lines(table, number == 0)), causes.user.size, causes.user.size, users, 0
        )

    def _packed(self, data: bytes) -> bytes:
        # One gzip member per part, for parallel work; without name and time, for equal bytes.
        return gzip.compress(data, 4, mtime=0) if self.gz else data


_cached_maker = functools.lru_cache(maxsize=1)(_PartMaker)  # each process builds its world once


def _make_part(arguments: tuple, kind: str, number: int) -> _Part:
    return getattr(_cached_maker(*arguments), kind)(number)


def write_log(
    path: str | os.PathLike,
    options: SimulatorOptions,
    *,
    bad_rows: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> LogCounts:
    """Writes the log as CSV without a header: user, item, category, behavior, unix seconds.

    The file appears under its name only when it is complete. Memory does not grow with the users.

    Args:
        path: str. File to write; compressed if it ends in ``.gz``.
        options: SimulatorOptions. What to simulate.
        bad_rows: int. Malformed rows to add, for testing how a reader rejects them: a missing
            column, a time that is not a number, a negative item, in turn. Defaults to 0.
        workers: int. Processes; the bytes do not depend on it. A program that passes more than 1
            must be importable (``if __name__ == "__main__"``). Defaults to 1.
        progress: bool. Whether to show a progress bar on a terminal's stderr. Defaults to True.

    Raises:
        ValueError: ``bad_rows`` is negative, or ``workers`` is not positive.
        OSError: the file cannot be written.
    """
    if bad_rows < 0:
        raise ValueError(f"`bad_rows` must not be negative. Received: bad_rows={bad_rows!r}")
    return _write(path, options, "log", bad_rows, workers, progress)


def write_causes(
    path: str | os.PathLike, options: SimulatorOptions, *, workers: int = 1, progress: bool = True
) -> None:
    """Writes :func:`tfdare.simulation.planted.causes` as CSV, one row per page view, in log order.

    Columns: ``user``; ``position``, its index among the user's page views from 0; ``cause``, a name
    of :data:`tfdare.simulation.events.CAUSES`; ``distance``, the number of page views back to the
    one that caused it (0: no single one); ``favorite``, 1 where the item is one of the user's
    favorites.

    Args:
        path: str. File to write; compressed if it ends in ``.gz``.
        options: SimulatorOptions. Options of the log.
        workers: int. As for :func:`write_log`.
        progress: bool. As for :func:`write_log`.
    """
    _write(path, options, "causes", 0, workers, progress)


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that gets its name when the block ends, and is removed if the block fails."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file


def _write(path, options, kind, bad_rows, workers, progress) -> LogCounts:
    if workers < 1:
        raise ValueError(f"`workers` must be positive. Received: workers={workers!r}")
    totals = np.zeros(4, np.int64)
    with atomic(path) as file, contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=options.users,
                unit="user",
                desc="simulate" if kind == "log" else kind,
                file=sys.stderr,
                disable=None if progress else True,
            )
        )
        maker = (options, bad_rows, os.fspath(path).endswith(".gz"))
        for part in _parts(maker, kind, workers, stack):
            file.write(part.data)
            totals += part[1:]
            bar.update(part.users)
    rows, page_views, users, long_users = totals.tolist()
    return LogCounts(rows + bad_rows, bad_rows, page_views, users, long_users)


def _parts(maker, kind: str, workers: int, stack: contextlib.ExitStack) -> Iterator[_Part]:
    """Yields all parts in order; with several workers, at most two per worker wait."""
    if workers == 1:
        make: Callable[[int], _Part] = getattr(_PartMaker(*maker), kind)
        yield from map(make, range(maker[0].cohorts))
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    stack.callback(pool.shutdown, cancel_futures=True)
    waiting: collections.deque = collections.deque()
    for number in range(maker[0].cohorts):
        waiting.append(pool.submit(_make_part, maker, kind, number))
        if len(waiting) > 2 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _csv(events: Events) -> bytes:
    return _lines(
        pa.table(
            {
                "user": events.user,
                "item": events.item,
                "category": events.category,
                "behavior": pa.array(BEHAVIORS).take(pa.array(events.behavior)),
                "time": events.time,
            }
        ),
        header=False,
    )


def _lines(table: pa.Table, header: bool) -> bytes:
    buffer = io.BytesIO()
    if header:
        buffer.write(",".join(table.column_names).encode() + b"\n")
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False, quoting_style="none"))
    return buffer.getvalue()


def _with_bad_rows(data: bytes, rows: np.ndarray, number: int) -> bytes:
    """Adds a malformed copy after each of ``rows``; earlier blocks had ``number`` of them."""
    lines = data.split(b"\n")
    for count, row in enumerate(rows.tolist(), start=number):
        fields = lines[row].partition(b"\n")[0].split(b",")
        spoiled = (
            fields[:4],
            [*fields[:4], b"yesterday"],
            [fields[0], b"-" + fields[1], *fields[2:]],
        )[count % 3]
        lines[row] += b"\n" + b",".join(spoiled)
    return b"\n".join(lines)
