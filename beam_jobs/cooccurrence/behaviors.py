"""Behaviors: the rows of what users did in the training period, the only events that count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa

from beam_jobs.histories.histories import Histories
from beam_jobs.histories.splits import Protocol, training_events
from beam_jobs.reading.rows import pack, unpack
from beam_jobs.shared.hashing import hash_strings
from tfdare.sequences.record import UserRecord


@dataclass
class Behaviors:
    """Behaviors of some users in the training period, every user's oldest first.

    Attributes:
        user_hash: uint64 ``[U]``.
        length: int64 ``[U]``. Behaviors of every user.
        time: int64 ``[E]``. By the clock of the log.
        rows: mapping of feature to int32 ``[E]`` row ids.
    """

    user_hash: np.ndarray
    length: np.ndarray
    time: np.ndarray
    rows: dict[str, np.ndarray]

    def __getstate__(self):
        return self.user_hash, self.length, pack(self.time), self.rows

    def __setstate__(self, state):
        self.user_hash, self.length, time, self.rows = state
        self.time = unpack(time)

    @cached_property
    def position(self) -> np.ndarray:
        """Number of the user's behaviors before each behavior, int64 ``[E]``."""
        start = np.cumsum(self.length) - self.length
        return np.arange(len(self.time)) - np.repeat(start, self.length)

    def split(self, events: int) -> Iterator[Behaviors]:
        """Yields behaviors of some users after those of others, about ``events`` at once."""
        ends = np.append(0, np.cumsum(self.length))
        cuts = np.flatnonzero(np.diff(ends[1:] // events)) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(self.length)]):
            part = slice(ends[first], ends[last])
            yield Behaviors(
                self.user_hash[first:last],
                self.length[first:last],
                self.time[part],
                {name: rows[part] for name, rows in self.rows.items()},
            )


def training_behaviors(
    histories: Histories, rows: Mapping[str, np.ndarray], protocol: Protocol, names: Sequence[str]
) -> Behaviors:
    """Selects the behaviors before every user's first held-out event.

    Args:
        histories: Histories.
        rows: mapping of feature to int32 ``[E]`` row ids of all events.
        protocol: Protocol.
        names: sequence of str. Features to keep.
    """
    period, keep = training_events(protocol, histories.length, histories.columns["time"])
    return Behaviors(
        hash_strings(pa.array(histories.users, pa.string())),
        period.astype(np.int64),
        histories.columns["time"][keep],
        {name: rows[name][keep].astype(np.int32) for name in names},
    )


def behaviors_of_records(records: Sequence[UserRecord], names: Sequence[str]) -> Behaviors:
    """Collects the histories of training records, which end before the user's last target."""
    return Behaviors(
        hash_strings(pa.array([record.user for record in records], pa.string())),
        np.array([len(record.history_time) for record in records], np.int64),
        np.concatenate([np.zeros(0, np.int64), *(record.history_time for record in records)]),
        {name: join([record.history[name] for record in records]) for name in names},
    )


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins arrays of row ids, of which there may be none, to an int32 array."""
    return np.concatenate([np.zeros(0, np.int32), *parts])
