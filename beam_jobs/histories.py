"""SortHistories: the events of a bucket of users -> every user's events, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.capping import NewestEvents
from beam_jobs.events import REJECTED, RejectedRows, unpack_order
from beam_jobs.formats import MISSING, Format
from beam_jobs.rows import Events, Rejected, pack, unpack
from beam_jobs.tallies import TALLY, tagged

HISTORIES = "histories"
DUPLICATE = "duplicate of an earlier row"


@dataclass
class Histories:
    """Users of a bucket and their events, sorted by (user, time, place in the log).

    Attributes:
        bucket: int.
        users: list of str, sorted by their UTF-8 bytes.
        length: int64. Events of every user.
        columns: mapping of name to int64: the features (``[E, V]`` with several values), ``time``
            and ``order``, and what context needs, which may be float64.
    """

    bucket: int
    users: list[str]
    length: np.ndarray
    columns: dict[str, np.ndarray]

    def __getstate__(self):
        columns = {name: pack(column) for name, column in self.columns.items()}
        return self.bucket, self.users, self.length, columns

    def __setstate__(self, state):
        self.bucket, self.users, self.length, columns = state
        self.columns = {name: unpack(column) for name, column in columns.items()}

    @property
    def start(self) -> np.ndarray:
        """Index of every user's first event."""
        return np.cumsum(self.length) - self.length


def sort_events(
    bucket: int,
    parts: Iterable[Events],
    names: tuple[str, ...],
    several: Mapping[str, int] | None = None,
) -> Histories:
    """Sorts the events of one bucket; the order in which ``parts`` come does not matter.

    ``names`` are the columns but the order, ``several`` the values of those that have some.
    """
    parts = sorted((part for part in parts if len(part.line)), key=lambda part: part.line[0])
    names = (*names, "order")
    if not parts:
        nothing = np.zeros(0, np.int64)
        columns = {name: nothing for name in names}
        for name, width in (several or {}).items():
            columns[name] = np.zeros((0, width), np.int64)
        return Histories(bucket, [], nothing, columns)
    user = pa.chunked_array([part.user for part in parts]).combine_chunks().dictionary_encode()
    columns = {
        name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    columns["order"] = np.concatenate([part.line for part in parts])
    rank = np.empty(len(user.dictionary), np.int64)
    users = user.dictionary.to_pylist()
    # code points and UTF-8 bytes sort alike
    by_name = sorted(range(len(users)), key=users.__getitem__)
    rank[by_name] = np.arange(len(users))
    rank = rank[user.indices.to_numpy(zero_copy_only=False)]
    rows = _sorting(rank, columns["time"], columns["order"])
    columns = {name: column[rows] for name, column in columns.items()}
    length = np.bincount(rank, minlength=len(users))
    return Histories(bucket, [users[i] for i in by_name], length, columns)


def _sorting(rank: np.ndarray, time: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows by (rank, time, order); one stable pass where the log's order is at hand."""
    if not (order[1:] > order[:-1]).all():
        return np.lexsort((order, time, rank))
    first, last = int(time.min()), int(time.max())
    if (int(rank.max()) + 1) * (last - first + 1) >= 2**63:
        return np.lexsort((time, rank))
    return np.argsort(rank * (last - first + 1) + (time - first), kind="stable")


def find_duplicates(histories: Histories) -> np.ndarray:
    """Indices of the events that equal an earlier one of the same user in all but the order."""
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
    """Columns of integers that are equal where the values are, missing numbers too."""
    if column.dtype.kind == "f":
        column = np.where(np.isnan(column), np.nan, column).view(np.int64)
    return [column] if column.ndim == 1 else list(column.T)


def keep_events(histories: Histories, keep: np.ndarray) -> Histories:
    """The histories with only the events of the mask ``keep``; users without events go."""
    user = np.repeat(np.arange(len(histories.users)), histories.length)
    length = np.bincount(user[keep], minlength=len(histories.users))
    return Histories(
        histories.bucket,
        [name for name, count in zip(histories.users, length) if count],
        length[length > 0],
        {name: column[keep] for name, column in histories.columns.items()},
    )


class _SortBucket(beam.DoFn):
    def __init__(self, form: Format, min_events: int, drop_duplicates: bool):
        self._names = (*form.features, "time", *form.values[len(form.features) :])
        self._several = form.multi_hot
        self._min_events = min_events
        self._drop = drop_duplicates

    def process(self, element) -> Iterator[Any]:
        bucket, gathered = element
        histories = sort_events(bucket, gathered.parts, self._names, self._several)
        tally = {"rows_cut": gathered.cut}
        if self._drop:
            repeated = find_duplicates(histories)
            if len(repeated):
                yield from self._reject(histories, repeated)
                tally[f"rows_rejected/{DUPLICATE}"] = len(repeated)
                keep = np.ones(len(histories.columns["order"]), bool)
                keep[repeated] = False
                histories = keep_events(histories, keep)
        histories.columns.pop("behavior", None)
        long = histories.length >= self._min_events
        tally |= {
            "rows_kept": histories.length.sum(),
            "users_seen": len(long),
            "users_kept": long.sum(),
            "users_too_short": (~long).sum(),
            "events_kept": histories.length[long].sum(),
            "events_too_short": histories.length[~long].sum(),
            "longest_history": histories.length.max(initial=0),
        }
        yield tagged(tally)
        yield keep_events(histories, np.repeat(long, histories.length))

    def _reject(self, histories: Histories, repeated: np.ndarray) -> Iterator[Any]:
        chunk, line = unpack_order(histories.columns["order"][repeated])
        user = np.repeat(np.arange(len(histories.users)), histories.length)[repeated]
        values = [_as_text(histories.columns[name][repeated]) for name in self._names]
        rows = np.array(
            [
                Rejected(place, DUPLICATE, ",".join((histories.users[u], *row)))
                for u, place, *row in zip(user.tolist(), line.tolist(), *values)
            ],
            object,
        )
        for number in np.unique(chunk).tolist():
            some = tuple(rows[chunk == number])
            yield beam.pvalue.TaggedOutput(REJECTED, RejectedRows(number, some))


def _as_text(column: np.ndarray) -> list[str]:
    """Values as a row of text has them."""
    if column.ndim > 1:
        return ["|".join(str(one) for one in row if one != MISSING) for row in column.tolist()]
    return ["" if one != one or one == MISSING else str(one) for one in column.tolist()]


class SortHistories(beam.PTransform):
    """(bucket, Events) -> ``histories`` of users that are long enough, ``rejected``, ``tally``.

    Every bucket gives exactly one element, also where no user falls into it.
    """

    def __init__(
        self, form: Format, buckets: int, min_events: int, max_events: int, drop_duplicates: bool
    ):
        super().__init__()
        self._buckets, self._newest = buckets, NewestEvents(max_events)
        self._sort = _SortBucket(form, min_events, drop_duplicates)

    def expand(self, events):
        nothing = Events(pa.array([], pa.string()), {}, np.zeros(0, np.int64))
        every = (
            events.pipeline
            | "EveryBucket" >> beam.Create(range(self._buckets))
            | "NoEvents"
            >> beam.Map(lambda bucket: (bucket, nothing)).with_output_types(tuple[int, Any])
        )
        keyed = events | "KeyByBucket" >> beam.Map(lambda pair: pair).with_output_types(
            tuple[int, Any]
        )
        return (
            (keyed, every)
            | beam.Flatten()
            | "GatherByBucket" >> beam.CombinePerKey(self._newest)
            | "SortBucket"
            >> beam.ParDo(self._sort)
            .with_outputs(REJECTED, TALLY, main=HISTORIES)
            .with_output_types(Any)
        )
