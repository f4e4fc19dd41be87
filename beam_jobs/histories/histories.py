"""Histories: the events of a bucket of users, every user's oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from beam_jobs.reading.rows import Events, pack, unpack


@dataclass
class Impressions:
    """Candidates that were shown to the users of a bucket, sorted by (user, time, request, order).

    Attributes:
        user: int64 ``[T]``. Index into the users of the bucket.
        columns: mapping of name to ``[T]``: the item and other features, ``label``, ``request``,
            ``time``, ``order``, and context.
    """

    user: np.ndarray
    columns: dict[str, np.ndarray]


@dataclass
class Histories:
    """Users of a bucket and their events, sorted by (user, time, order in the log).

    Attributes:
        bucket: int.
        users: list of str, sorted by their UTF-8 bytes.
        length: int64. Events of every user.
        columns: mapping of name to int64: the features (``[E, V]`` with several values), ``time``
            and ``order``, and the columns that context needs, which may be float64.
        impressions: Impressions or None. Impressions of these users, where the log has any.
    """

    bucket: int
    users: list[str]
    length: np.ndarray
    columns: dict[str, np.ndarray]
    impressions: Impressions | None = None

    def __getstate__(self):
        columns = {name: pack(column) for name, column in self.columns.items()}
        return self.bucket, self.users, self.length, columns, self.impressions

    def __setstate__(self, state):
        self.bucket, self.users, self.length, columns, self.impressions = state
        self.columns = {name: unpack(column) for name, column in columns.items()}

    @property
    def start(self) -> np.ndarray:
        """Index of every user's first event."""
        return np.cumsum(self.length) - self.length


def sort_events(
    bucket: int,
    parts: Iterable[Events],
    names: tuple[str, ...],
    multi_hot: Mapping[str, int] | None = None,
) -> Histories:
    """Sorts the events of one bucket; the order in which ``parts`` come does not matter.

    Args:
        bucket: int.
        parts: iterable of Events.
        names: tuple of str. All columns except ``order``.
        multi_hot: mapping of multi-hot feature to its number of values.
    """
    parts = sorted((part for part in parts if len(part.line)), key=lambda part: part.line[0])
    names = (*names, "order")
    if not parts:
        nothing = np.zeros(0, np.int64)
        columns = dict.fromkeys(names, nothing)
        for name, width in (multi_hot or {}).items():
            columns[name] = np.zeros((0, width), np.int64)
        return Histories(bucket, [], nothing, columns)
    user = pa.chunked_array([part.user for part in parts]).combine_chunks().dictionary_encode()
    columns = {
        name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    columns["order"] = np.concatenate([part.line for part in parts])
    rank = np.empty(len(user.dictionary), np.int64)
    users = user.dictionary.to_pylist()
    # code points and UTF-8 bytes give the same order
    by_name = sorted(range(len(users)), key=users.__getitem__)
    rank[by_name] = np.arange(len(users))
    rank = rank[user.indices.to_numpy(zero_copy_only=False)]
    rows = _sorted_rows(rank, columns["time"], columns["order"])
    columns = {name: column[rows] for name, column in columns.items()}
    length = np.bincount(rank, minlength=len(users))
    return Histories(bucket, [users[i] for i in by_name], length, columns)


def seen_before(histories: Histories, coarse_clock: bool) -> np.ndarray:
    """Counts, for each event as a target, the behaviors that its request sees.

    These are the behaviors of a strictly earlier time and, where the clock is coarse, those of the
    same time that come earlier in the log.

    Returns:
        int64 ``[E]``.
    """
    start = np.repeat(histories.start, histories.length)
    position = np.arange(len(start)) - start
    if coarse_clock or not len(start):
        return position
    time, fresh = histories.columns["time"], np.ones(len(start), bool)
    fresh[1:] = (time[1:] != time[:-1]) | (position[1:] == 0)
    return position[np.maximum.accumulate(np.where(fresh, np.arange(len(start)), 0))]


def _sorted_rows(rank: np.ndarray, time: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sorts rows by (rank, time, order); one stable pass where they come in the log's order."""
    if not (order[1:] > order[:-1]).all():
        return np.lexsort((order, time, rank))
    first, last = int(time.min()), int(time.max())
    if (int(rank.max()) + 1) * (last - first + 1) >= 2**63:
        return np.lexsort((time, rank))
    return np.argsort(rank * (last - first + 1) + (time - first), kind="stable")


def find_duplicates(histories: Histories) -> np.ndarray:
    """Returns the indices of events that equal an earlier one of the user in all but ``order``."""
    columns = histories.columns
    user = np.repeat(np.arange(len(histories.users)), histories.length)
    tie = (user[1:] == user[:-1]) & (columns["time"][1:] == columns["time"][:-1])
    if not tie.any():
        return np.zeros(0, np.int64)
    near = np.flatnonzero(np.concatenate([[False], tie]) | np.concatenate([tie, [False]]))
    names = [name for name in columns if name not in ("order", "time")]
    keys = [user[near], columns["time"][near]]
    for name in names:
        keys += _as_keys(columns[name][near])
    order = np.lexsort((columns["order"][near], *reversed(keys)))
    same = np.ones(len(order) - 1, bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    return np.sort(near[order[1:][same]])


def _as_keys(column: np.ndarray) -> list[np.ndarray]:
    """Returns columns of integers that are equal where the values are, missing ones included."""
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.nan, column).view(np.int64)
    return [column] if column.ndim == 1 else list(column.T)


def keep_events(histories: Histories, keep: np.ndarray) -> Histories:
    """Keeps only the events of the mask ``keep``, and only users that have any."""
    user = np.repeat(np.arange(len(histories.users)), histories.length)
    length = np.bincount(user[keep], minlength=len(histories.users))
    return Histories(
        histories.bucket,
        [name for name, count in zip(histories.users, length) if count],
        length[length > 0],
        {name: column[keep] for name, column in histories.columns.items()},
    )
