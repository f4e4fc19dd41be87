"""The tables of an embedding, by side and role.

A *side* is what an embedding is for, ``"attention"`` or ``"representation"``. A *role* is what is
embedded: a behavior of the ``"history"``, or a ``"target"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdare.compat import raw, tf
from tfdare.schema import Schema

HISTORY, TARGET = "history", "target"
"""Roles: a behavior of the history, or a candidate."""
TIME_GAP = "time_gap"
POSITION = "position"
SIDES = ("attention", "representation")


class EmbeddingTables(tf.keras.layers.Layer):
    """Base of the embeddings: a table for each feature, side and role.

    A subclass creates the tables (:meth:`make_tables`). Unless it overrides :meth:`table_of`,
    history and target share a table. Tables start at N(0, `initializer_stddev`^2): a row-sparse
    optimizer leaves rare rows near their initial values, so these must be small.

    Args:
        schema: Schema or its dict. Features, vocabulary sizes, dimensions, window, position.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    Attributes:
        attention_given: bool. Whether attention embeddings are given, never trained: what search
            finds is the same at every step.
    """

    attention_given = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], initializer_stddev: float = 0.02, **kwargs
    ):
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        if not initializer_stddev > 0:
            raise ValueError(
                "`initializer_stddev` must be positive. "
                f"Received: initializer_stddev={initializer_stddev}"
            )
        self.initializer_stddev = initializer_stddev

    def build(self, input_shape=None):
        if self.built:
            return
        self.position_buckets = self.schema.position.buckets(self.schema.window)
        self.attention_time_gap_table = self.representation_time_gap_table = None
        self.make_tables()
        self.built = True

    def make_tables(self) -> None:
        """Creates the weights.

        Sets `attention_tables` and `representation_tables`, mappings of feature name to weight
        (unless :meth:`table_of` is overridden), and the tables of position and time gap, weight or
        None.
        """
        raise NotImplementedError

    def table(self, name: str, rows: int, columns: int, given: bool = False):
        """Adds a ``[rows, columns]`` weight; a given one is not trained, its rows of length 1."""
        stddev = columns**-0.5 if given else self.initializer_stddev
        return self.add_weight(
            name=name,
            shape=(rows, columns),
            initializer=tf.keras.initializers.RandomNormal(stddev=stddev),
            trainable=not given,
        )

    def start_from(self, vectors: Mapping[str, np.ndarray], sides: Sequence[str] = SIDES) -> None:
        """Sets the tables of features to given vectors; call it after :meth:`build`.

        A table with fewer columns than the vectors holds their projection to the directions of
        largest variance (:func:`fit_columns`); in one with more, the further columns keep their
        initial values. Features without vectors keep their tables.

        Args:
            vectors: mapping of feature name to float ``[vocabulary_size, D]``.
            sides: sequence of str. Which sides are set. Defaults to both.

        Raises:
            ValueError: a name that is no feature, another number of rows, or a value that is not
                finite.
        """
        for name, values in vectors.items():
            self._check_vectors(name, values)
            for side in sides:
                for role in (HISTORY, TARGET):
                    self._set_columns(self.table_of(side, name, role), values)

    def _check_vectors(self, name, values):
        sizes = {feature.name: feature.vocabulary_size for feature in self.schema.features}
        if name not in sizes:
            raise ValueError(f"`vectors` must be of {', '.join(sizes)}. Received: {name!r}")
        if values.ndim != 2 or len(values) != sizes[name]:
            raise ValueError(
                f"`vectors` of {name!r} must have {sizes[name]} rows. Received: shape "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise ValueError(
                f"`vectors` of {name!r} must be finite. Received: {values[row]}, row {row}"
            )

    @staticmethod
    def _set_columns(table, values):
        columns = table.shape[1]
        values = fit_columns(values, columns)
        if values.shape[1] < columns:
            values = np.concatenate([values, raw(table).numpy()[:, values.shape[1] :]], axis=1)
        raw(table).assign(values)

    def make_distance_tables(self, prefix: str, side: str) -> None:
        """Sets the tables of position and of time gap for one side, None where `dim` is 0."""
        schema, dim = self.schema, f"{side}_dim"
        columns = getattr(schema.position, dim)
        rows = schema.position.size(schema.window)
        table = self.table(f"{prefix}_position", rows, columns) if columns else None
        setattr(self, f"{side}_position_table", table)
        if schema.time_gap is not None and getattr(schema.time_gap, dim):
            gap = schema.time_gap
            table = self.table(f"{prefix}_{TIME_GAP}", gap.size, getattr(gap, dim))
            setattr(self, f"{side}_{TIME_GAP}_table", table)

    def table_of(self, side: str, name: str, role: str):
        """Returns the weight with a feature's embeddings of a side, in a role."""
        tables = self.attention_tables if side == "attention" else self.representation_tables
        return tables[name]

    def shares(self, name: str) -> bool:
        """Returns whether a feature (or position, time gap) has one table for both sides."""
        if name in (POSITION, TIME_GAP):
            attention, representation = (getattr(self, f"{side}_{name}_table") for side in SIDES)
            return attention is not None and attention is representation
        return all(
            self.table_of("attention", name, role) is self.table_of("representation", name, role)
            for role in (HISTORY, TARGET)
        )

    @property
    def attention_dim(self) -> int:
        """Columns of all features on the attention side; position and time gap left out."""
        return sum(feature.attention_dim for feature in self.schema.features)

    @property
    def representation_dim(self) -> int:
        """Columns of all features, position and time gap on the representation side."""
        gap = self.schema.time_gap
        features = sum(feature.representation_dim for feature in self.schema.features)
        distances = self.schema.position.representation_dim
        return features + distances + (gap.representation_dim if gap is not None else 0)

    def get_config(self):
        config = super().get_config()
        config.update(schema=self.schema.to_dict(), initializer_stddev=self.initializer_stddev)
        return config


def fit_columns(vectors: np.ndarray, columns: int) -> np.ndarray:
    """Projects vectors to at most `columns` columns, so that inner products change least.

    Rows keep their lengths.

    Args:
        vectors: float ``[rows, D]``.
        columns: int.

    Returns:
        float32 ``[rows, min(columns, D)]``.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.shape[1] <= columns:
        return vectors
    _, directions = np.linalg.eigh(vectors.T @ vectors)  # ascending
    projected = vectors @ directions[:, : -columns - 1 : -1]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    shorter = np.linalg.norm(projected, axis=1, keepdims=True)
    return projected * np.divide(length, shorter, out=np.zeros_like(length), where=shorter > 0)
