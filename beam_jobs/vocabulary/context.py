"""Context: features of a request other than its history and candidates; their counts and values.

A categorical value is a raw id from the target's own row of the log (or of the impressions), or the
hour or day of its time; a numeric one is a number from that row. Mean and deviation come from exact
sums, so that neither the order of the log nor the runner changes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from beam_jobs.reading.formats import DAY, HOUR, Format
from beam_jobs.shared.vocabulary_file import Vocabulary, sum_counts
from beam_jobs.vocabulary.catalog import Hashed

_MANTISSA_BITS = 24  # of a float32


@dataclass(frozen=True)
class Moments:
    """Exact sums over float32 numbers.

    Attributes:
        count: int. How many numbers, NaN left out.
        total, squares: Fraction. Their sum, and the sum of their squares.
    """

    count: int = 0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Sums a column that is NaN where a value is missing."""
        values = values[~np.isnan(values)].astype(np.float32)
        fraction, exponent = np.frexp(values.astype(np.float64))
        # value = mantissa * 2**exponent, mantissa a whole number of 24 bits and a sign
        mantissa = np.ldexp(fraction, _MANTISSA_BITS).astype(np.int64)
        exponent = exponent.astype(np.int64) - _MANTISSA_BITS
        total, squares = Fraction(0), Fraction(0)
        for power in np.unique(exponent).tolist():
            whole = mantissa[exponent == power]
            square = whole * whole  # 48 bits: added up in two halves, or the sum would overflow
            high, low = square >> _MANTISSA_BITS, square & ((1 << _MANTISSA_BITS) - 1)
            scale = Fraction(2) ** power
            total += int(whole.sum()) * scale
            squares += ((int(high.sum()) << _MANTISSA_BITS) + int(low.sum())) * scale * scale
        return cls(len(values), total, squares)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        """The mean, 0 where there are no numbers."""
        return float(self.total / self.count) if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation, 1 where all numbers are the same or there are none."""
        if not self.count:
            return 1.0
        mean = self.total / self.count
        return math.sqrt(self.squares / self.count - mean * mean) or 1.0


@dataclass(frozen=True)
class ContextCounts:
    """Counts of every context feature in the training period.

    Attributes:
        ids: mapping of categorical feature to its raw ids and their counts.
        moments: mapping of numeric feature to its sums.
    """

    ids: Mapping[str, tuple[np.ndarray, np.ndarray]]
    moments: Mapping[str, Moments]

    def vocabularies(
        self, min_count: int, max_size: Mapping[str, int] | None = None
    ) -> dict[str, Vocabulary]:
        """Returns the vocabulary of every categorical feature."""
        return {
            name: Vocabulary.of(*pair, min_count).most_frequent((max_size or {}).get(name))
            for name, pair in self.ids.items()
        }


def count_context(form: Format, columns: Mapping[str, np.ndarray]) -> ContextCounts:
    """Counts the context of events."""
    ids = {
        name: np.unique(raw_values(source, name, columns, form.clock.ticks), return_counts=True)
        for name, source in form.context.items()
    }
    return ContextCounts(ids, {name: Moments.of(columns[name]) for name in form.numeric})


def merge_context(parts: Iterable[ContextCounts]) -> ContextCounts:
    """Adds up counts."""
    parts = list(parts)
    ids = {
        name: sum_counts(*(np.concatenate(arrays) for arrays in zip(*(p.ids[name] for p in parts))))
        for name in parts[0].ids
    }
    moments = {
        name: sum((part.moments[name] for part in parts), Moments()) for name in parts[0].moments
    }
    return ContextCounts(ids, moments)


def raw_values(
    source: str, name: str, columns: Mapping[str, np.ndarray], ticks: int = 1
) -> np.ndarray:
    """Returns raw ids of a categorical feature, int64; hours 0 to 23, days 0 (Monday) to 6.

    Args:
        source: str. ``HOUR``, ``DAY``, or a column.
        name: str. Of the feature.
        columns: mapping of name to int64 ``[E]``.
        ticks: int. Of the clock in a second.
    """
    if source == HOUR:
        return columns["time"] // (3600 * ticks) % 24
    if source == DAY:
        return (columns["time"] // (86_400 * ticks) + 3) % 7  # day 0 of the clock was a Thursday
    return columns[name]


def context_of(
    form: Format,
    vocabularies: Mapping[str, Vocabulary | Hashed],
    columns: Mapping[str, np.ndarray],
    event: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the context of the requests whose targets are the events ``event``.

    Returns:
        Mapping of feature, in the form's order, to int32 row ids (out of vocabulary where the row
        is empty) or float32.
    """
    needed = {
        name: values[event]
        for name, values in columns.items()
        if name == "time" or name in form.context or name in form.numeric
    }
    context: dict[str, np.ndarray] = {
        name: vocabularies[name].rows(raw_values(source, name, needed, form.clock.ticks))
        for name, source in form.context.items()
    }
    context.update({name: needed[name].astype(np.float32) for name in form.numeric})
    return context
