"""Counts over the records of a folder of sequences; counts of parts can be added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tfdare.schema import OOV_ID, PADDING_ID, Schema
from tfdare.sequences.record import UserRecord

_GAP_BINS = 64


@dataclass
class Measures:
    """Counts of some users of one split.

    Attributes:
        totals: mapping of name to int: ``users``, ``behaviors``, ``requests``, ``candidates``,
            ``positives``.
        history_length: int64. At index n, the number of requests with a history of n behaviors.
        user_requests: int64. At index n, the number of users with n requests.
        gap: int64 ``[64]``. Times between successive behaviors: number of 0, 1, 2 to 3, 4 to 7, ...
        behaviors: mapping of feature to int64 ``[rows]``: how often each row occurs in histories.
        positives: the same for clicked candidates.
        repeats: mapping of feature of one value to int: number of clicked candidates whose value
            occurs in the history before them.
    """

    totals: dict[str, int] = field(default_factory=dict)
    history_length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    user_requests: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    gap: np.ndarray = field(default_factory=lambda: np.zeros(_GAP_BINS, np.int64))
    behaviors: dict[str, np.ndarray] = field(default_factory=dict)
    positives: dict[str, np.ndarray] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Measures) -> Measures:
        return Measures(
            _add_by_name(self.totals, other.totals),
            _add_padded(self.history_length, other.history_length),
            _add_padded(self.user_requests, other.user_requests),
            self.gap + other.gap,
            _add_by_name(self.behaviors, other.behaviors),
            _add_by_name(self.positives, other.positives),
            _add_by_name(self.repeats, other.repeats),
        )


def measure(records: Iterable[UserRecord], schema: Schema, batch: int = 512) -> Measures:
    """Counts records.

    Args:
        records: iterable of UserRecord.
        schema: Schema.
        batch: int. Records that are counted at once.
    """
    total, gathered = Measures(), []
    for record in records:
        gathered.append(record)
        if len(gathered) == batch:
            total += _measure(gathered, schema)
            gathered = []
    return total + _measure(gathered, schema) if gathered else total


def _measure(records: list[UserRecord], schema: Schema) -> Measures:
    label = np.concatenate([record.label for record in records])
    position = np.concatenate([record.position for record in records])
    requests = np.array([record.position.size for record in records])
    behaviors, positives, repeats = {}, {}, {}
    for feature in schema.features:
        rows = np.concatenate([record.history[feature.name] for record in records])
        clicked = np.concatenate([record.target[feature.name] for record in records])
        clicked = clicked.reshape(label.size, feature.max_values)[label > 0]
        size = feature.vocabulary_size
        behaviors[feature.name] = np.bincount(rows, minlength=size)
        positives[feature.name] = np.bincount(clicked.reshape(-1), minlength=size)
        for counts in (behaviors[feature.name], positives[feature.name]):
            counts[PADDING_ID] = 0
        if feature.max_values == 1:
            repeats[feature.name] = sum(_repeats(record, feature.name) for record in records)
    gap = np.zeros(_GAP_BINS, np.int64)
    for record in records:
        between = np.maximum(np.diff(record.history_time), 0)
        # the bin is the number of bits of the gap: 0; 1; 2 to 3; 4 to 7; ...
        gap += np.bincount(np.frexp(between.astype(np.float64))[1], minlength=_GAP_BINS)
    return Measures(
        {
            "users": len(records),
            "behaviors": sum(record.history_time.size for record in records),
            "requests": int(requests.sum()),
            "candidates": int(label.size),
            "positives": int((label > 0).sum()),
        },
        np.bincount(position),
        np.bincount(requests),
        gap,
        behaviors,
        positives,
        repeats,
    )


def _repeats(record: UserRecord, name: str) -> int:
    """Counts the clicked candidates whose value occurs in an earlier behavior of the user."""
    request = np.repeat(np.arange(record.position.size), record.target_length)
    clicked = record.label > 0
    values, before = record.target[name][clicked], record.position[request[clicked]]
    seen, first = np.unique(record.history[name], return_index=True)
    if not seen.size:
        return 0
    index = np.minimum(np.searchsorted(seen, values), seen.size - 1)
    known = (seen[index] == values) & (values > OOV_ID)
    return int((known & (first[index] < before)).sum())


def _add_by_name(first: dict, second: dict) -> dict:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _add_padded(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Adds counts of different lengths."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    for counts in (first, second):
        total[: len(counts)] += counts
    return total
