"""The parts that a schema lists: features, position, time gap, context. No TensorFlow here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

PADDING_ID = 0
"""Row that stands for "no behavior here"; its gradient is 0, and no real id has it."""
OOV_ID = 1
"""Row that stands for every id that is not in the vocabulary."""
FIRST_ID = 2
"""Row of the most frequent id of a vocabulary."""
MAX_GAP = 2**31 - 1
"""Longest time gap that a request carries, in the log's unit of time; longer ones are clipped."""

INT64 = "int64"
"""`dtype` of a feature whose raw ids are integers."""
STRING = "string"
"""`dtype` of a feature whose raw ids are text."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RESERVED = {"length", "time", "time_gap", "index", "position", "score"}


class SchemaError(ValueError):
    """A schema, or a folder described by one, that cannot be used as it is."""


@dataclass(frozen=True)
class Feature:
    """One feature that every behavior and every target carries, such as item or category.

    Args:
        name: str. Lower-case identifier; tensors are called ``history_<name>``, ``target_<name>``.
        vocabulary_size: int. Rows of the embedding table, padding and out-of-vocabulary included.
        attention_dim: int. Columns of the attention table. Defaults to 16.
        representation_dim: int. Columns of the representation table. Defaults to 16.
        vocabulary: str or None. Vocabulary file, relative to the folder of ``schema.json``: one
            ``raw_id<TAB>count`` per line; line ``i`` (from 0) is row ``i + 2``.
        digest: str or None. SHA-256 of that file.
        max_values: int. Values that one behavior carries at most. With more than 1 (such as tags)
            the tensors have a last axis of that length, padded with 0 at its end. Defaults to 1.
        hash_buckets: int. Rows that raw ids share by their hash
            (:func:`tfdare.schema.id_hash.hash_rows`), instead of a vocabulary; the table has
            2 more. Defaults to 0: no hash.
        dtype: str. Of raw ids: ``"int64"`` or ``"string"``. Defaults to ``"int64"``.

    Raises:
        SchemaError: the name, a size, a dimension or the dtype is not usable.
    """

    name: str
    vocabulary_size: int
    attention_dim: int = 16
    representation_dim: int = 16
    vocabulary: str | None = None
    digest: str | None = None
    max_values: int = 1
    hash_buckets: int = 0
    dtype: str = INT64

    def __post_init__(self):
        check_name("feature", self.name)
        owner = f"feature {self.name!r}"
        _check_dtype(self, owner)
        set_int(self, owner, "vocabulary_size", FIRST_ID)
        _check_hash(self, owner)
        set_int(self, owner, "attention_dim", 1)
        set_int(self, owner, "representation_dim", 1)
        set_int(self, owner, "max_values", 1)


@dataclass(frozen=True)
class Position:
    """How a behavior's distance to the target maps to rows of a small table.

    Position 0 is the target itself, 1 the newest behavior. Positions up to ``exact`` have a row
    each; beyond, every doubling of the distance is cut into ``per_octave`` rows. A history of
    20,000 behaviors needs 308 rows with the defaults.

    Args:
        exact: int. Positions that keep a row of their own. Defaults to 256.
        per_octave: int. Rows for each doubling beyond. Defaults to 8.
        attention_dim: int. Columns in the attention table; 0 leaves position out of it.
            Defaults to 16.
        representation_dim: int. Columns in the representation table; 0 leaves it out.
            Defaults to 16.
    """

    exact: int = 256
    per_octave: int = 8
    attention_dim: int = 16
    representation_dim: int = 16

    def __post_init__(self):
        set_int(self, "position", "exact", 1)
        set_int(self, "position", "per_octave", 1)
        set_int(self, "position", "attention_dim", 0)
        set_int(self, "position", "representation_dim", 0)

    def buckets(self, window: int) -> np.ndarray:
        """Computes the rows of positions ``0 .. window``: int32 ``[window + 1]``, ascending."""
        position = np.arange(window + 1, dtype=np.float64)
        beyond = np.log2(np.maximum(position, self.exact) / self.exact) * self.per_octave
        return np.where(
            position <= self.exact, position, self.exact + np.ceil(beyond - 1e-9)
        ).astype(np.int32)

    def size(self, window: int) -> int:
        """Counts the rows of the position table for histories of ``window`` behaviors."""
        return int(self.buckets(window)[-1]) + 1


@dataclass(frozen=True)
class TimeGap:
    """How the time between a behavior and the request maps to rows of a small table.

    Row 0 is the target itself and "no behavior", row 1 a gap shorter than ``unit``. From there
    each doubling of gap / unit is cut into ``per_octave`` rows, ``octaves`` doublings long; longer
    gaps share the last row. Gaps are whole numbers, so rows that no gap could reach are left out:
    the defaults give 49 rows, not 50.

    Args:
        unit: int. Gaps shorter than this share row 1, in the log's unit of time. Defaults to 1.
        per_octave: int. Rows for each doubling. Defaults to 2.
        octaves: int. Doublings of ``unit`` that have rows. Defaults to 24.
        attention_dim: int. Columns in the attention table; 0 leaves the gap out of it.
            Defaults to 16.
        representation_dim: int. Columns in the representation table; 0 leaves it out.
            Defaults to 16.

    Raises:
        SchemaError: a number is not usable.

    Example:
        >>> TimeGap(unit=60, per_octave=1, octaves=4).boundaries()
        array([ 60, 120, 240, 480])
    """

    unit: int = 1
    per_octave: int = 2
    octaves: int = 24
    attention_dim: int = 16
    representation_dim: int = 16

    def __post_init__(self):
        set_int(self, "time gap", "unit", 1)
        set_int(self, "time gap", "per_octave", 1)
        set_int(self, "time gap", "octaves", 1)
        set_int(self, "time gap", "attention_dim", 0)
        set_int(self, "time gap", "representation_dim", 0)
        if self.unit > MAX_GAP:
            raise SchemaError(
                f"`unit` of time gap must be at most {MAX_GAP}. Received: unit={self.unit}"
            )

    def boundaries(self) -> np.ndarray:
        """Computes the gaps at which the next row starts, as int64 ``[size - 2]``, ascending.

        The row of a gap ``g >= 0`` is ``1 + searchsorted(boundaries, g, side="right")``. None
        exceeds :data:`MAX_GAP`.
        """
        steps = min(self.octaves, 31) * self.per_octave
        edges = np.ceil(self.unit * np.exp2(np.arange(steps) / self.per_octave))
        return np.unique(edges[edges <= MAX_GAP].astype(np.int64))

    @property
    def size(self) -> int:
        """Rows of the time-gap table."""
        return len(self.boundaries()) + 2


@dataclass(frozen=True)
class CategoricalContext:
    """A categorical feature of the request or its user that no behavior carries: the hour, a city.

    Args:
        name: str. Lower-case identifier; the tensor is called ``context_<name>``.
        vocabulary_size: int. Rows of the embedding table, padding and out-of-vocabulary included.
        dim: int. Columns of the table. Defaults to 8.
        vocabulary: str or None. Vocabulary file, as for :class:`Feature`.
        digest: str or None. SHA-256 of that file.
        max_values: int. Values that a request carries at most; with more than 1 the tensor is
            ``[U, max_values]``, padded with 0 at the end of the last axis. Defaults to 1.
        hash_buckets: int. As for :class:`Feature`.
        dtype: str. As for :class:`Feature`.

    Raises:
        SchemaError: the name, a size, the dimension or the dtype is not usable.
    """

    name: str
    vocabulary_size: int
    dim: int = 8
    vocabulary: str | None = None
    digest: str | None = None
    max_values: int = 1
    hash_buckets: int = 0
    dtype: str = INT64

    def __post_init__(self):
        check_name("context feature", self.name)
        owner = f"context feature {self.name!r}"
        _check_dtype(self, owner)
        set_int(self, owner, "vocabulary_size", FIRST_ID)
        _check_hash(self, owner)
        set_int(self, owner, "dim", 1)
        set_int(self, owner, "max_values", 1)


@dataclass(frozen=True)
class NumericContext:
    """A number of the request or its user: a price, an age. NaN stands for unknown.

    Args:
        name: str. Lower-case identifier; the float32 tensor ``context_<name>`` holds raw values.
        mean: float. Mean of the known values of the training period. Defaults to 0.
        deviation: float. Their standard deviation, above 0. Defaults to 1.

    Raises:
        SchemaError: the name is not usable, or a number is not finite.
    """

    name: str
    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self):
        check_name("context feature", self.name)
        for name in ("mean", "deviation"):
            value = getattr(self, name)
            real = isinstance(value, (int, float, np.integer, np.floating))
            if not real or isinstance(value, bool) or not math.isfinite(value):
                raise SchemaError(
                    f"`{name}` of context feature {self.name!r} must be a finite number. "
                    f"Received: {name}={value!r}"
                )
            object.__setattr__(self, name, float(value))
        if self.deviation <= 0:
            raise SchemaError(
                f"`deviation` of context feature {self.name!r} must be positive. "
                f"Received: deviation={self.deviation!r}"
            )


def _check_dtype(part: Feature | CategoricalContext, owner: str) -> None:
    if part.dtype not in (INT64, STRING):
        raise SchemaError(
            f"`dtype` of {owner} must be {INT64!r} or {STRING!r}. Received: dtype={part.dtype!r}"
        )


def _check_hash(part: Feature | CategoricalContext, owner: str) -> None:
    set_int(part, owner, "hash_buckets", 0)
    if not part.hash_buckets:
        return
    if part.vocabulary or part.vocabulary_size != part.hash_buckets + FIRST_ID:
        raise SchemaError(
            f"{owner} is hashed: it has no vocabulary file, and `vocabulary_size` is "
            f"`hash_buckets` + {FIRST_ID}. Received: hash_buckets={part.hash_buckets}, "
            f"vocabulary_size={part.vocabulary_size}, vocabulary={part.vocabulary!r}"
        )


def check_name(kind: str, name: Any) -> None:
    """Checks that a name can be part of the names of tensors and files.

    Args:
        kind: str. What the name is for, for the message.
        name: the name.

    Raises:
        SchemaError: the name is not a lower-case identifier, or is reserved.
    """
    if not isinstance(name, str) or not _NAME.match(name) or name in _RESERVED:
        raise SchemaError(
            f"A {kind}'s `name` must be a lower-case identifier and none of "
            f"{sorted(_RESERVED)}. Received: name={name!r}"
        )


def set_int(part: Any, owner: str, name: str, minimum: int) -> None:
    """Checks an integer field and converts it to a Python int, since JSON takes no NumPy integers.

    Raises:
        SchemaError: it is not an integer, or below `minimum`.
    """
    value = getattr(part, name)
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or value < minimum:
        raise SchemaError(
            f"`{name}` of {owner} must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    object.__setattr__(part, name, int(value))
