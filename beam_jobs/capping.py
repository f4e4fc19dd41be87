"""NewestEvents: the events of a bucket gathered by a combiner that keeps each user's newest.

Bots and shared accounts may have millions of events. A combiner that lets go of what is too old
while it gathers never holds them all, on any worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.rows import Events

_ROWS = 1 << 20  # gathered before the first look; then whenever twice as many are there


@dataclass
class Gathered:
    """Events of a bucket so far.

    Attributes:
        parts: list of Events.
        rows: int. Their rows.
        look_at: int. Rows at which they are looked through.
        cut: int. Rows let go of.
    """

    parts: list[Events] = field(default_factory=list)
    rows: int = 0
    look_at: int = _ROWS
    cut: int = 0


class NewestEvents(beam.CombineFn):
    """Events -> :class:`Gathered`, with at most ``most`` events of each user: the latest by
    (time, place in the log), whatever the order in which they come.

    Args:
        most: int. Events of a user that are kept.
        rows: int. Rows that may gather before they are looked through.
    """

    def __init__(self, most: int, rows: int = _ROWS):
        self._most, self._rows = most, rows

    def create_accumulator(self) -> Gathered:
        return Gathered(look_at=self._rows)

    def add_input(self, gathered: Gathered, events: Events) -> Gathered:
        if len(events.line):
            gathered.parts.append(events)
            gathered.rows += len(events.line)
        return self._compacted(gathered) if gathered.rows >= gathered.look_at else gathered

    def merge_accumulators(self, several: Iterable[Gathered]) -> Gathered:
        merged = self.create_accumulator()
        for gathered in several:
            merged.parts += gathered.parts
            merged.rows += gathered.rows
            merged.cut += gathered.cut
            if merged.rows >= merged.look_at:
                merged = self._compacted(merged)
        return merged

    def extract_output(self, gathered: Gathered) -> Gathered:
        # Fewer rows than a user may have: no one can have too many.
        return self._compacted(gathered) if gathered.rows > self._most else gathered

    def _compacted(self, gathered: Gathered) -> Gathered:
        parts, cut = keep_newest(gathered.parts, self._most)
        rows = gathered.rows - cut
        return Gathered(parts, rows, max(self._rows, 2 * rows), gathered.cut + cut)


def keep_newest(parts: list[Events], most: int) -> tuple[list[Events], int]:
    """Parts without the events of a user that ``most`` later ones follow, and how many those were.

    Args:
        parts: list of Events, not empty ones.
        most: int.
    """
    user = pa.chunked_array([part.user for part in parts]).combine_chunks().dictionary_encode()
    code = user.indices.to_numpy(zero_copy_only=False)
    many = np.bincount(code, minlength=len(user.dictionary)) > most
    if not many.any():
        return parts, 0
    keep = np.ones(len(code), bool)
    rows = np.flatnonzero(many[code])
    time = np.concatenate([part.columns["time"] for part in parts])[rows]
    order = np.concatenate([part.line for part in parts])[rows]
    newest_first = np.lexsort((-order, -time, code[rows]))
    code = code[rows][newest_first]
    start = np.searchsorted(code, code)  # where the user begins
    keep[rows[newest_first[np.arange(len(code)) - start >= most]]] = False
    ends = np.cumsum([len(part.line) for part in parts])
    kept = []
    for part, some in zip(parts, np.split(keep, ends[:-1])):
        if some.all():
            kept.append(part)
        elif some.any():
            columns = {name: column[some] for name, column in part.columns.items()}
            kept.append(Events(part.user.filter(pa.array(some)), columns, part.line[some]))
    return kept, int((~keep).sum())
