"""NewestEvents: a combiner that gathers the events of a bucket and keeps each user's newest.

Bots and shared accounts may have millions of events. The combiner drops those that are too old
while it gathers, so that no worker ever holds them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.reading.rows import Events
from tfdare.schema.id_hash import mix

_ROWS = 1 << 20  # rows at which old events are first dropped; then each time the rows double


@dataclass
class Gathered:
    """Events of a bucket so far.

    Attributes:
        parts: list of Events.
        rows: int. Their rows.
        limit: int. Rows at which old events are dropped.
        cut: int. Rows that were dropped.
    """

    parts: list[Events] = field(default_factory=list)
    rows: int = 0
    limit: int = _ROWS
    cut: int = 0


class NewestEvents(beam.CombineFn):
    """Events -> :class:`Gathered`, with the ``most`` newest events of each user.

    The result does not depend on the order in which events arrive: the newest are chosen by (time,
    order in the log), or, where repeated rows are to be dropped later, by (time, content), so that
    a row and its repeats count once. Up to ``most`` repeats are kept as well, to be reported as
    rejected rows.

    Args:
        most: int. Events of a user that are kept.
        repeats: bool. Whether repeated rows count as separate events.
        rows: int. Rows that may gather before old events are dropped.
    """

    def __init__(self, most: int, repeats: bool, rows: int = _ROWS):
        self._most, self._repeats, self._rows = most, repeats, rows

    def create_accumulator(self) -> Gathered:
        return Gathered(limit=self._rows)

    def add_input(self, gathered: Gathered, events: Events) -> Gathered:
        if len(events.line):
            gathered.parts.append(events)
            gathered.rows += len(events.line)
        return self._drop_old(gathered) if gathered.rows >= gathered.limit else gathered

    def merge_accumulators(self, accumulators: Iterable[Gathered]) -> Gathered:
        merged = self.create_accumulator()
        for gathered in accumulators:
            merged.parts += gathered.parts
            merged.rows += gathered.rows
            merged.cut += gathered.cut
            if merged.rows >= merged.limit:
                merged = self._drop_old(merged)
        return merged

    def extract_output(self, gathered: Gathered) -> Gathered:
        # no user can have more events than there are rows
        return self._drop_old(gathered) if gathered.rows > self._most else gathered

    def _drop_old(self, gathered: Gathered) -> Gathered:
        parts, cut = keep_newest(gathered.parts, self._most, self._repeats)
        rows = gathered.rows - cut
        return Gathered(parts, rows, max(self._rows, 2 * rows), gathered.cut + cut)


def keep_newest(parts: list[Events], most: int, repeats: bool) -> tuple[list[Events], int]:
    """Drops all but the ``most`` newest events of each user.

    Args:
        parts: list of Events, each with at least one row.
        most: int.
        repeats: bool. See :class:`NewestEvents`.

    Returns:
        The parts with the events that are left, and how many were dropped.
    """
    user = pa.chunked_array([part.user for part in parts]).combine_chunks().dictionary_encode()
    code = user.indices.to_numpy(zero_copy_only=False)
    many = np.bincount(code, minlength=len(user.dictionary)) > most
    if not many.any():
        return parts, 0
    rows = np.flatnonzero(many[code])
    columns = {
        name: np.concatenate([part.columns[name] for part in parts])[rows]
        for name in (parts[0].columns if not repeats else ["time"])
    }
    order = np.concatenate([part.line for part in parts])[rows]
    content = -order if repeats else _hash_rows(columns)
    keep = np.ones(len(code), bool)
    keep[rows] = _newest(code[rows], columns["time"], content, order, most)
    ends = np.cumsum([len(part.line) for part in parts])
    kept = []
    for part, mask in zip(parts, np.split(keep, ends[:-1])):
        if mask.all():
            kept.append(part)
        elif mask.any():
            columns = {name: column[mask] for name, column in part.columns.items()}
            kept.append(Events(part.user.filter(pa.array(mask)), columns, part.line[mask]))
    return kept, int((~keep).sum())


def _newest(user, time, content, order, most) -> np.ndarray:
    """Returns a mask, bool ``[E]``: each user's ``most`` newest, and as many of their repeats."""
    newest_first = np.lexsort((order, content, -time, user))
    user, time, content = (column[newest_first] for column in (user, time, content))
    fresh = np.ones(len(user), bool)
    fresh[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1]) | (content[1:] != content[:-1])
    start = np.searchsorted(user, user)  # where the user begins
    number = np.cumsum(fresh)
    near = number - number[start] < most
    again = np.flatnonzero(near & ~fresh)
    again = again[np.lexsort((order[newest_first[again]], user[again]))]
    rank = np.arange(len(again)) - np.searchsorted(user[again], user[again])
    near[again[rank >= most]] = False
    keep = np.empty(len(user), bool)
    keep[newest_first] = near
    return keep


def _hash_rows(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Hashes every row's values to an int64."""
    code = np.zeros(len(columns["time"]), np.uint64)
    for name in sorted(columns):
        column = columns[name]
        if column.dtype.kind == "f":
            column = np.where(np.isnan(column), np.nan, column).view(np.int64)
        for values in column.reshape(len(column), -1).T:
            code = mix(code ^ values.astype(np.uint64))
    return code.view(np.int64)
