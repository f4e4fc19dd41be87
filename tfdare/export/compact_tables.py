"""Attention tables in types of fewer bytes, so that a search server can hold a larger catalog."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfdare.compat import raw, tf
from tfdare.models import TwoStageModel

DTYPES = ("float32", "float16", "bfloat16", "int8")
_TABLES = ("attention_position_table", "attention_time_gap_table")


class CompactTable(tf.Module):
    """A table in a compact type, whose rows are read as float32.

    int8 has a scale for each row, so that the row's largest absolute value becomes 127.

    Args:
        values: float32 ``[rows, columns]``.
        dtype: str. One of :data:`DTYPES`.
        name: str. Name of the variable; the scales are called ``<name>_scale``.
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
        """Returns the rows of `ids`, float32 ``[..., columns]``."""
        values = tf.cast(tf.gather(self.values, ids), tf.float32)
        if self.scale is None:
            return values
        return values * tf.gather(self.scale, ids)[..., tf.newaxis]

    def whole(self) -> tf.Tensor:
        """Returns the whole table, float32 ``[rows, columns]``."""
        return self.rows(tf.range(self.values.shape[0]))

    @property
    def bytes(self) -> int:
        """Size of its variables in bytes."""
        return sum(v.shape.num_elements() * v.dtype.size for v in self.variables)


class CompactAttention:
    """A model's attention tables in a compact type.

    Args:
        model: TwoStageModel. Its attention tables must not be shared with representation: see
            :func:`tfdare.export.signatures.check_separable`.
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
        """Rounds the model's own tables, inside the context, to the values of the compact ones."""
        for weight, table in zip(self._weights, self.tables):
            weight.assign(table.whole())
        try:
            yield
        finally:
            for weight, values in zip(self._weights, self._before):
                weight.assign(values)

    @contextlib.contextmanager
    def stored(self) -> Iterator[None]:
        """Makes graphs traced inside the context read the compact tables (float32: the model's)."""
        reader = self.model.embedding.reader
        if self.dtype == "float32":
            yield
            return
        instead = {id(raw(weight)): table for weight, table in zip(self._weights, self.tables)}
        reader.compact = instead
        try:
            yield
        finally:
            reader.compact = {}

    def report(self, requests: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
        """Reports the size of the tables, and the recall of search against float32 tables.

        Args:
            requests: mapping of name to array, over row ids, for the model's search.
            source: str. Where the requests come from.

        Returns:
            The type, bytes with it and with float32, recall of the behaviors that search finds
            with float32 tables, the number of targets it is measured on, and `source`.
        """
        before = self.model.search(requests)["behavior_index"].numpy()
        with self.rounded():
            after = self.model.search(requests)["behavior_index"].numpy()
        real = np.full(before.shape[:2], True)
        if "target_length" in requests:
            real = np.arange(before.shape[1]) < np.array(requests["target_length"])[:, np.newaxis]
        relevant = (before >= 0) & real[..., np.newaxis]
        kept = (before[..., :, np.newaxis] == after[..., np.newaxis, :]).any(-1) & relevant
        bytes_before = sum(values.nbytes for values in self._before)
        slots = self.model.search_layer.slots
        return {
            "attention_dtype": self.dtype,
            "bytes": bytes_before if self.dtype == "float32" else sum(t.bytes for t in self.tables),
            "bytes_float32": bytes_before,
            f"recall@{slots}": float(kept.sum() / max(relevant.sum(), 1)),
            "targets": int(real.sum()),
            "measured_on": source,
        }


def _attention_tables(embedding) -> list:
    """Returns every weight that attention reads, once each."""
    tables = [
        embedding.table_of("attention", name, role)
        for name in embedding.schema.names
        for role in ("history", "target")
    ]
    tables += [table for name in _TABLES if (table := getattr(embedding, name)) is not None]
    return list({id(raw(weight)): weight for weight in tables}.values())
