"""Base of the embeddings: which table answers for which side, attention or representation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfdare.compat import raw, tf
from tfdare.layers.lookups import Together
from tfdare.schema import Feature, Schema

HISTORY, TARGET = "history", "target"
"""Who is looked up: a behavior of the history, or a candidate."""
TIME_GAP = "time_gap"
POSITION = "position"
_SIDES = ("attention", "representation")


class Lookup(NamedTuple):
    """One look-up into a table.

    Attributes:
        side: str. ``"attention"`` or ``"representation"``.
        name: str. Of the feature, or ``"position"``, ``"time_gap"``.
        ids: int ``[...]``. Rows of the table.
        rows: float ``[..., D]``. What was found there; the gradient that reaches it is the one
            that this side sends to the table.
    """

    side: str
    name: str
    ids: tf.Tensor
    rows: tf.Tensor


class _Recorder:
    def __init__(self):
        self.lookups: list[Lookup] = []


class RoleEmbedding(tf.keras.layers.Layer):
    """Base of the embeddings: tables per feature, asked for by side and by role.

    A subclass says which tables exist (:meth:`make_tables`). Unless it says otherwise
    (:meth:`table_of`), history and target share a table. Tables start at
    N(0, `initializer_stddev`^2): a row-sparse optimizer leaves rare rows where they started, so
    they must start small.

    Args:
        schema: Schema or its dict. Features, vocabulary sizes, dimensions, window, position.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.
    """

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
        self._recorder = self._together = None
        self.compact = None

    def build(self, input_shape=None):
        if self.built:
            return
        self.position_buckets = self.schema.position.buckets(self.schema.window)
        self.attention_time_gap_table = self.representation_time_gap_table = None
        self.make_tables()
        self.built = True

    def make_tables(self) -> None:
        """Fills `attention_tables`, `representation_tables` (feature name to weight), and the
        tables of position and time gap (weight or None)."""
        raise NotImplementedError

    def table_of(self, side: str, name: str, role: str):
        """The weight that answers for a feature on a side (``"attention"`` or
        ``"representation"``) in a role (``"history"`` or ``"target"``)."""
        tables = self.attention_tables if side == "attention" else self.representation_tables
        return tables[name]

    def shares(self, name: str) -> bool:
        """Whether one table answers for a feature (or position, time gap) on both sides."""
        if name in (POSITION, TIME_GAP):
            of_side = [getattr(self, f"{side}_{name}_table") for side in _SIDES]
            return of_side[0] is not None and of_side[0] is of_side[1]
        return all(
            self.table_of("attention", name, role) is self.table_of("representation", name, role)
            for role in (HISTORY, TARGET)
        )

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Lookup]]:
        """Keeps every look-up that is made inside, for measurements.

        Example:
            >>> from tfdare.layers import SharedEmbedding
            >>> from tfdare.schema import Feature, Schema
            >>> embedding = SharedEmbedding(Schema((Feature("item", 9),), window=5))
            >>> embedding.build()
            >>> with embedding.recorded() as lookups:
            ...     parts = embedding.attention_parts({"item": tf.constant([[2, 3]])})
            >>> lookups[0].side, lookups[0].name, lookups[0].rows is parts[0]
            ('attention', 'item', True)
        """
        self._recorder = _Recorder()
        try:
            yield self._recorder.lookups
        finally:
            self._recorder = None

    @contextlib.contextmanager
    def looked_up_once(
        self, history: Mapping[str, tf.Tensor], target: Mapping[str, tf.Tensor]
    ) -> Iterator[None]:
        """Reads each table once for all look-ups inside, both roles and both sides.

        Args:
            history, target: mappings of feature name to int ids, the very tensors that will be
                looked up; other tensors are looked up as they come.
        """
        groups = []
        for name in self.schema.names:
            both = history[name], target[name]
            one_table = all(
                self.table_of(side, name, HISTORY) is self.table_of(side, name, TARGET)
                for side in _SIDES
            )
            groups += [both] if one_table else [(ids,) for ids in both]
        self._together = Together(groups)
        try:
            yield
        finally:
            self._together = None

    def table(self, name: str, rows: int, columns: int):
        """A trainable ``[rows, columns]`` weight."""
        return self.add_weight(
            name=name,
            shape=(rows, columns),
            initializer=tf.keras.initializers.RandomNormal(stddev=self.initializer_stddev),
            trainable=True,
        )

    def make_distance_tables(self, prefix: str, side: str) -> None:
        """Sets the tables of position and of time gap for one side, None without columns."""
        schema, dim = self.schema, f"{side}_dim"
        columns = getattr(schema.position, dim)
        rows = schema.position.size(schema.window)
        table = self.table(f"{prefix}_position", rows, columns) if columns else None
        setattr(self, f"{side}_position_table", table)
        if schema.time_gap is not None and getattr(schema.time_gap, dim):
            gap = schema.time_gap
            table = self.table(f"{prefix}_{TIME_GAP}", gap.size, getattr(gap, dim))
            setattr(self, f"{side}_{TIME_GAP}_table", table)

    @property
    def attention_dim(self) -> int:
        """Columns of the attention side, features side by side; position and gap left out."""
        return sum(feature.attention_dim for feature in self.schema.features)

    @property
    def representation_dim(self) -> int:
        """Columns of the representation side, features side by side, position and gap included."""
        gap = self.schema.time_gap
        features = sum(feature.representation_dim for feature in self.schema.features)
        distances = self.schema.position.representation_dim
        return features + distances + (gap.representation_dim if gap is not None else 0)

    def attention_parts(self, ids: Mapping[str, tf.Tensor], role: str = HISTORY):
        """e^Att, a tensor ``[..., attention_dim of the feature]`` for each feature.

        Kept apart, they need no copy to lie side by side: inner products of the parts add up.
        """
        return self._parts("attention", ids, role)

    def attention(self, ids: Mapping[str, tf.Tensor], role: str = HISTORY) -> tf.Tensor:
        """e^Att of behaviors or targets.

        Args:
            ids: mapping of feature name to integer row ids, all of one shape ``[...]``; with a
                last axis more where a feature has several values.
            role: str. ``"history"`` (default) or ``"target"``.

        Returns:
            float ``[..., attention_dim]``.
        """
        return tf.concat(self.attention_parts(ids, role), axis=-1)

    def position_score(self, position: tf.Tensor) -> tf.Tensor | None:
        """The time part of the attention score, one number per position: <p_i, p_0> / sqrt(d).

        Args:
            position: int ``[...]``. Distance to the target, 1 for the newest behavior.

        Returns:
            float ``[...]``, or None where the schema gives position no attention columns.
        """
        return self._distance_score(POSITION, self.attention_position_table, self.bucket(position))

    def time_gap_score(self, time_gap: tf.Tensor) -> tf.Tensor | None:
        """The same for the time between a behavior and the request.

        Args:
            time_gap: int ``[...]``, of the log's clock.

        Returns:
            float ``[...]``, or None where the schema gives the gap no attention columns.
        """
        if self.attention_time_gap_table is None:
            return None
        return self._distance_score(
            TIME_GAP, self.attention_time_gap_table, self.gap_bucket(time_gap)
        )

    def representation_parts(
        self, ids: Mapping[str, tf.Tensor], position: tf.Tensor, role: str = HISTORY
    ) -> list[tf.Tensor]:
        """e^Repr, a tensor for each feature, then position and gap where the schema has them.

        The part of position has the shape of `position`, whatever the shape of the ids.
        """
        side = "representation"
        parts = self._parts(side, ids, role)
        if self.representation_position_table is not None:
            row = self.bucket(position)
            parts.append(self._gather(self.representation_position_table, row, side, POSITION))
        if self.representation_time_gap_table is not None:
            gap = ids.get(TIME_GAP)
            row = tf.zeros_like(position) if gap is None else self.gap_bucket(gap)
            parts.append(self._gather(self.representation_time_gap_table, row, side, TIME_GAP))
        return parts

    def representation(
        self, ids: Mapping[str, tf.Tensor], position: tf.Tensor, role: str = HISTORY
    ) -> tf.Tensor:
        """e^Repr of behaviors or targets.

        Args:
            ids: mapping of feature name to integer row ids, all of one shape ``[...]``; behaviors
                carry ``time_gap``, too, where the schema has it.
            position: int, a shape that broadcasts to ``[...]``. Distance to the target; 0 for
                targets.
            role: str. ``"history"`` (default) or ``"target"``.

        Returns:
            float ``[..., representation_dim]``.
        """
        parts = self.representation_parts(ids, position, role)
        shape = tf.shape(parts[0])[:-1]
        return tf.concat(
            [
                part
                if part.shape.rank == parts[0].shape.rank
                else tf.broadcast_to(part, tf.concat([shape, tf.shape(part)[-1:]], axis=0))
                for part in parts
            ],
            axis=-1,
        )

    def bucket(self, position: tf.Tensor) -> tf.Tensor:
        """Table row of a position; what lies beyond the window shares its last row."""
        buckets = tf.constant(self.position_buckets)
        return tf.gather(buckets, tf.clip_by_value(position, 0, self.schema.window))

    def gap_bucket(self, time_gap: tf.Tensor) -> tf.Tensor:
        """Table row of a time gap; 1 is the shortest, row 0 is the target's own."""
        edges = np.minimum(self.schema.time_gap.boundaries(), np.iinfo(np.int32).max)
        flat = tf.reshape(tf.cast(time_gap, tf.int32), [-1])
        row = 1 + tf.searchsorted(tf.constant(edges, tf.int32), flat, side="right")
        return tf.reshape(row, tf.shape(time_gap))

    def call(self, ids, position):
        """Both sides at once: ``(attention(ids), representation(ids, position))``."""
        return self.attention(ids), self.representation(ids, position)

    def get_config(self):
        config = super().get_config()
        config.update(schema=self.schema.to_dict(), initializer_stddev=self.initializer_stddev)
        return config

    def _parts(self, side, ids, role):
        missing = [name for name in self.schema.names if name not in ids]
        if missing:
            raise ValueError(f"Missing features {missing}. Received: {sorted(ids)}")
        return [
            self._look_up(self.table_of(side, feature.name, role), ids[feature.name], side, feature)
            for feature in self.schema.features
        ]

    def _look_up(self, table, ids, side, feature: Feature):
        rows = self._gather(table, ids, side, feature.name)
        if feature.max_values == 1:
            return rows
        return mean_of_values(rows, ids)

    def _gather(self, table, ids, side, name):
        compact, rows = self._compact(table), None
        if compact is not None:
            rows = compact.rows(ids)
        elif self._together is not None:
            rows = self._together.rows(table, ids)
        if rows is None:
            # Gathered from the variable, not from a tensor read from it: the gradient stays sparse.
            rows = tf.gather(raw(table), ids)
        return self._heard(tf.cast(rows, self.compute_dtype), ids, side, name)

    def _compact(self, table):
        """What stands for a table while an export is traced, or None; see
        :mod:`tfdare.export.compact_tables`."""
        return self.compact.get(id(raw(table))) if self.compact else None

    def _distance_score(self, name, table, row):
        if table is None:
            return None
        compact, ids = self._compact(table), tf.range(table.shape[0])
        table = tf.convert_to_tensor(raw(table)) if compact is None else compact.whole()
        table = self._heard(table, ids, "attention", name)
        by_row = tf.linalg.matvec(table, table[0]) / float(table.shape[-1]) ** 0.5
        return tf.gather(by_row, row)

    def _heard(self, rows, ids, side, name):
        if self._recorder is not None:
            rows = tf.identity(rows)  # each side's own, where both were read at once
            self._recorder.lookups.append(Lookup(side, name, ids, rows))
        return rows


def mean_of_values(rows: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Mean of the rows ``[..., L, D]`` whose id ``[..., L]`` is not padding; 0 without any."""
    real = tf.cast(ids > 0, rows.dtype)[..., tf.newaxis]
    return tf.math.divide_no_nan(tf.reduce_sum(rows * real, axis=-2), tf.reduce_sum(real, axis=-2))
