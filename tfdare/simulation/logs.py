"""Reads a log, or a sample of the users of a large one, to fit the simulator to it."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from tqdm import tqdm

from tfdare.simulation.statistics import Views

NAMES = ("user", "item", "category", "time")
_TAOBAO = ("user", "item", "category", "behavior", "time")
_BLOCK = 16 << 20


@dataclass(frozen=True)
class LogSample:
    """Page views of some users of a log, and counts of the whole log.

    Attributes:
        views: Views. Page views of the users that were kept.
        users: int. Users of the whole log; approximate where not all were kept.
        rows: int. Rows of the whole log that could be read.
        unreadable: int. Rows with missing columns or a time that is not an integer.
        other_behaviors: float. Rows that are not page views, per page view.
    """

    views: Views
    users: int
    rows: int
    unreadable: int
    other_behaviors: float


def read_sample(
    paths: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    max_views: int = 150_000,
    progress: bool = True,
) -> LogSample:
    """Reads a log block by block; memory does not grow with its size.

    A user is kept with all page views or with none: whenever there are too many page views, half of
    the users are dropped, by a hash of the id.

    Args:
        paths: sequence of str. CSV files, gzip included.
        columns: mapping or None. Which column holds ``user``, ``item``, ``category`` and ``time``
            (unix seconds), for files with a header. None reads Taobao's format: no header, user,
            item, category, behavior, time; page views are the behavior ``pv``.
        max_views: int. Page views to keep at most. Defaults to 150,000.
        progress: bool. Whether to count rows on a terminal's stderr. Defaults to True.

    Raises:
        ValueError: a column is missing, a file is not CSV, or it has no readable page view.
        OSError: a file cannot be opened.
    """
    kept: list[list[np.ndarray]] = []
    rows = unreadable = others = views = doublings = 0
    with tqdm(
        unit="row",
        unit_scale=True,
        desc="read",
        file=sys.stderr,
        disable=None if progress else True,
    ) as bar:
        for path in paths:
            for table, bad in _blocks(path, columns):
                rows, unreadable = rows + table.num_rows, unreadable + bad
                bar.update(table.num_rows + bad)
                if columns is None:
                    pages = pc.equal(table["behavior"], "pv")
                    others += table.num_rows - pc.sum(pages).as_py()
                    table = table.filter(pages)
                views += table.num_rows
                kept.append(_sample_users(_to_numbers(table, first_row=rows), doublings))
                while sum(part[0].size for part in kept) > max_views:
                    doublings += 1
                    kept = [_sample_users(part, doublings) for part in kept]
    if not views:
        raise ValueError(f"No page view can be read from {', '.join(map(str, paths))}")
    user, item, category, time, row = map(np.concatenate, zip(*kept))
    order = np.lexsort((row, time, user))
    sample = Views(*(column[order] for column in (user, item, category, time)))
    users = np.unique(user).size * 2**doublings
    return LogSample(sample, users, rows, unreadable, others / views)


def _blocks(path: str, columns) -> Iterator[tuple[pa.Table, int]]:
    """Reads rows as text, by block, and counts those of the block that could not be read."""
    short = 0

    def skip(row) -> str:
        nonlocal short
        short += 1
        return "skip"

    wanted = (
        dict(zip(_TAOBAO, _TAOBAO))
        if columns is None
        else {name: columns.get(name, name) for name in NAMES}
    )
    names = _TAOBAO if columns is None else None
    try:
        reader = csv.open_csv(
            path,
            csv.ReadOptions(column_names=names, block_size=_BLOCK),
            csv.ParseOptions(invalid_row_handler=skip),
            csv.ConvertOptions(
                column_types={column: pa.string() for column in wanted.values()},
                include_columns=list(wanted.values()),
            ),
        )
        with reader:
            for batch in reader:
                table = pa.table(dict(zip(wanted, batch.columns)))
                whole = pc.match_substring_regex(table["time"], r"^[0-9]{1,18}$")
                for name in ("user", "item"):
                    whole = pc.and_(whole, pc.not_equal(table[name], ""))
                table = table.filter(whole)
                yield table, batch.num_rows - table.num_rows + short
                short = 0
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _to_numbers(table: pa.Table, first_row: int) -> list[np.ndarray]:
    """Returns ids as stable hashes of their text, time as seconds, and the row in the log."""
    columns = []
    for name in ("user", "item", "category"):
        coded = table[name].combine_chunks().dictionary_encode()
        text = coded.dictionary.to_pylist()
        hashes = np.array([_hash(value) for value in text], np.int64)
        columns.append(hashes[coded.indices.to_numpy()] if text else np.empty(0, np.int64))
    time = table["time"].cast(pa.int64()).to_numpy()
    return [*columns, time, first_row + np.arange(table.num_rows)]


def _hash(text: str) -> int:
    data = text.encode()
    return zlib.crc32(data) << 31 | zlib.crc32(data[::-1]) >> 1


def _sample_users(part: list[np.ndarray], doublings: int) -> list[np.ndarray]:
    """Selects one in ``2 ** doublings`` of the users."""
    keep = (part[0] >> 31) % (1 << doublings) == 0
    return [column[keep] for column in part]
