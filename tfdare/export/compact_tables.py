"""Attention tables in fewer bytes, for search servers that hold as much of the catalog as fits."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfdare.compat import raw, tf
from tfdare.models import TwoStageModel

DTYPES = ("float32", "float16", "bfloat16", "int8")
_TABLES = ("attention_position_table", "attention_time_gap_table")


class CompactTable(tf.Module):
    """A table as it is stored, and its rows as numbers again.

    As int8 each row has a scale of its own, so that the largest of the row is 127.

    Args:
        values: float32 ``[rows, columns]``.
        dtype: str. One of :data:`DTYPES`.
        name: str. Of the variable; ``<name>_scale`` is that of the scales.
    """

    def __init__(self, values: np.ndarray, dtype: str, name: str):
        super().__init__(name=name)
        self.scale = None
        if dtype == "int8":
            scale = np.abs(values).max(axis=1) / 127
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            self.scale = tf.Variable(scale, trainable=False, name=f"{name}_scale")
            values = np.rint(values / scale[:, np.newaxis])
        self.values = tf.Variable(tf.cast(values, dtype), trainable=False, name=name)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """float32 ``[..., columns]``."""
        found = tf.cast(tf.gather(self.values, ids), tf.float32)
        if self.scale is None:
            return found
        return found * tf.gather(self.scale, ids)[..., tf.newaxis]

    def whole(self) -> tf.Tensor:
        """float32 ``[rows, columns]``."""
        return self.rows(tf.range(self.values.shape[0]))

    @property
    def bytes(self) -> int:
        """What its variables take."""
        return sum(v.shape.num_elements() * v.dtype.size for v in self.variables)


class CompactAttention:
    """A model's attention tables in another type, and what that costs.

    Args:
        model: TwoStageModel, whose attention tables are its own: see
            :func:`tfdare.export.signatures.check_apart`.
        dtype: str. One of :data:`DTYPES`.

    Raises:
        ValueError: no such type.
    """

    def __init__(self, model: TwoStageModel, dtype: str):
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {DTYPES}. Received: {dtype!r}")
        self.model, self.dtype = model, dtype
        self._weights = _attention_tables(model.embedding)
        self._before = [raw(weight).numpy() for weight in self._weights]
        self.tables = [
            CompactTable(values, dtype, weight.name.split("/")[-1].removesuffix(":0"))
            for values, weight in zip(self._before, self._weights)
        ]

    @contextlib.contextmanager
    def rounded(self) -> Iterator[None]:
        """Inside, the model's own tables hold what the compact ones stand for."""
        for weight, table in zip(self._weights, self.tables):
            weight.assign(table.whole())
        try:
            yield
        finally:
            for weight, values in zip(self._weights, self._before):
                weight.assign(values)

    @contextlib.contextmanager
    def stored(self) -> Iterator[None]:
        """Inside, what is traced reads the compact tables. float32 tables are those there are."""
        embedding = self.model.embedding
        if self.dtype == "float32":
            yield
            return
        instead = {id(raw(weight)): table for weight, table in zip(self._weights, self.tables)}
        embedding.compact = types.MappingProxyType(instead)  # a dict would be tracked by Keras
        try:
            yield
        finally:
            embedding.compact = None

    def report(self, requests: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
        """Bytes, and how much of what float32 tables find the compact ones find, too.

        Args:
            requests: mapping of name to array, over row ids, for the model's search.
            source: str. What they are.
        """
        before = self.model.search(requests)
        with self.rounded():
            after = self.model.search(requests)
        whole, part = (found["behavior_index"].numpy() for found in (before, after))
        there = whole >= 0
        real = np.full(whole.shape[:2], True)
        if "target_length" in requests:
            real = np.arange(whole.shape[1]) < np.array(requests["target_length"])[:, np.newaxis]
        there &= real[..., np.newaxis]
        kept = (whole[..., :, np.newaxis] == part[..., np.newaxis, :]).any(-1) & there
        bytes_before = sum(values.nbytes for values in self._before)
        slots = self.model.search_layer.slots
        return {
            "attention_dtype": self.dtype,
            "bytes": bytes_before if self.dtype == "float32" else sum(t.bytes for t in self.tables),
            "bytes_float32": bytes_before,
            f"recall@{slots}": float(kept.sum() / max(there.sum(), 1)),
            "targets": int(real.sum()),
            "measured_on": source,
        }


def _attention_tables(embedding) -> list:
    """Every weight that answers for attention, once each."""
    found = [
        embedding.table_of("attention", name, role)
        for name in embedding.schema.names
        for role in ("history", "target")
    ]
    found += [table for name in _TABLES if (table := getattr(embedding, name)) is not None]
    return list({id(raw(weight)): weight for weight in found}.values())
