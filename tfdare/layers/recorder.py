"""Recording of look-ups, so that gradients of attention and representation can be told apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from tfdare.compat import tf


class Lookup(NamedTuple):
    """One look-up into a table.

    Attributes:
        side: str. ``"attention"`` or ``"representation"``.
        name: str. Of the feature, or ``"position"``, ``"time_gap"``.
        ids: int ``[...]``. Rows of the table.
        rows: float ``[..., D]``. Their values; the gradient of this tensor is the one that this
            side sends to the table.
    """

    side: str
    name: str
    ids: tf.Tensor
    rows: tf.Tensor


class LookupRecorder:
    """Keeps the look-ups of an embedding while :meth:`recorded` is entered."""

    def __init__(self) -> None:
        self._lookups: list[Lookup] | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Lookup]]:
        """Gives the list to which look-ups inside are added."""
        lookups: list[Lookup] = []
        self._lookups = lookups
        try:
            yield lookups
        finally:
            self._lookups = None

    def add(self, rows: tf.Tensor, ids: tf.Tensor, side: str, name: str) -> tf.Tensor:
        """Records a look-up, if asked to, and returns the rows to go on with."""
        if self._lookups is None:
            return rows
        rows = tf.identity(rows)  # a tensor for each side, where both were read at once
        self._lookups.append(Lookup(side, name, ids, rows))
        return rows
