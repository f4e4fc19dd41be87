"""Records look-ups, so that gradients of attention and representation are measured separately."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from tfdare.compat import tf


class Lookup(NamedTuple):
    """One look-up into a table.

    Attributes:
        side: str. ``"attention"`` or ``"representation"``.
        name: str. Name of the feature, or ``"position"``, ``"time_gap"``.
        ids: int ``[...]``. Rows of the table.
        rows: float ``[..., D]``. Their values; the gradient of this tensor is the one that this
            side sends to the table.
    """

    side: str
    name: str
    ids: tf.Tensor
    rows: tf.Tensor


class LookupRecorder:
    """Keeps the look-ups of an embedding inside :meth:`recorded`."""

    def __init__(self) -> None:
        self._lookups: list[Lookup] | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Lookup]]:
        """Yields the list to which look-ups inside are added."""
        lookups: list[Lookup] = []
        self._lookups = lookups
        try:
            yield lookups
        finally:
            self._lookups = None

    def add(self, rows: tf.Tensor, ids: tf.Tensor, side: str, name: str) -> tf.Tensor:
        """Records a look-up inside :meth:`recorded`, and returns the rows to compute with."""
        if self._lookups is None:
            return rows
        rows = tf.identity(rows)  # a tensor for each side, also where one read served both
        self._lookups.append(Lookup(side, name, ids, rows))
        return rows
