"""Reads embedding tables: from the weights or, while an export is traced, from compact copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tfdare.compat import raw, tf


class CompactCopy(Protocol):
    """A copy of a table in fewer bytes; see :mod:`tfdare.export.compact_tables`."""

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns rows, float32 ``[..., D]``."""

    def whole(self) -> tf.Tensor:
        """Returns the whole table, float32 ``[rows, D]``."""


class TableReader:
    """Reads tables.

    Attributes:
        compact: mapping of ``id(raw(weight))`` to the copy that is read instead. Set while an
            export is traced, empty otherwise.
    """

    def __init__(self) -> None:
        self.compact: Mapping[int, CompactCopy] = {}

    def rows(self, table, ids: tf.Tensor) -> tf.Tensor:
        """Returns rows ``[..., D]`` of a table."""
        copy = self.compact.get(id(raw(table)))
        # Gathered from the variable, not from a tensor read from it: the gradient stays sparse.
        return tf.gather(raw(table), ids) if copy is None else copy.rows(ids)

    def whole(self, table) -> tf.Tensor:
        """Returns a table ``[rows, D]``."""
        copy = self.compact.get(id(raw(table)))
        return tf.convert_to_tensor(raw(table)) if copy is None else copy.whole()
