"""Base of the embeddings: looks up features in tables, by side and role.

The side is ``"attention"`` or ``"representation"``, the role ``"history"`` or ``"target"``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from tfdare.compat import tf
from tfdare.layers.distances import distance_score, position_rows, time_gap_rows
from tfdare.layers.recorder import Lookup, LookupRecorder
from tfdare.layers.table_reader import TableReader
from tfdare.layers.tables import HISTORY, POSITION, SIDES, TARGET, TIME_GAP, EmbeddingTables
from tfdare.schema import PADDING_ID


class JointLookup:
    """Reads each table once for all ids of a training step.

    One read has one gradient: it lists the rows of history and targets together, in the same order
    for every table of a feature, so that an optimizer needs to find duplicate rows only once.

    Args:
        groups: sequence of sequences of int tensors. A table that is read for one of a group's
            tensors is read for the others, too. Tensors are compared by identity.
        reader: TableReader.
    """

    def __init__(self, groups: Sequence[Sequence[tf.Tensor]], reader: TableReader):
        self._groups, self._reader = groups, reader
        self._flat = [
            tf.concat([tf.cast(tf.reshape(ids, [-1]), group[0].dtype) for ids in group], axis=0)
            for group in groups
        ]
        self._rows: dict[tuple[int, int], list[tf.Tensor]] = {}

    def rows(self, table, ids: tf.Tensor) -> tf.Tensor | None:
        """Returns rows ``[..., D]`` of a table, or None where `ids` are in no group."""
        for number, group in enumerate(self._groups):
            for member, known in enumerate(group):
                if known is ids:
                    return self._group_rows(table, number)[member]
        return None

    def _group_rows(self, table, number):
        group, key = self._groups[number], (id(table), number)
        if key not in self._rows:
            rows = self._reader.rows(table, self._flat[number])
            # Split along the first axis: no copies.
            parts = tf.split(rows, [tf.size(ids) for ids in group], axis=0)
            self._rows[key] = [
                tf.reshape(part, tf.concat([tf.shape(ids), tf.shape(part)[1:]], axis=0))
                for part, ids in zip(parts, group)
            ]
            for part, ids in zip(self._rows[key], group):
                part.set_shape([*ids.shape, table.shape[-1]])
        return self._rows[key]


class RoleEmbedding(EmbeddingTables):
    """Base of the embeddings: embeddings of behaviors and targets for both sides.

    A subclass creates the tables: see :class:`tfdare.layers.tables.EmbeddingTables`.

    Args:
        schema: Schema or its dict. Features, vocabulary sizes, dimensions, window, position.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    Attributes:
        reader: TableReader. Reads the tables.
    """

    def __init__(self, schema, initializer_stddev: float = 0.02, **kwargs):
        super().__init__(schema, initializer_stddev, **kwargs)
        self.reader = TableReader()
        self._recorder = LookupRecorder()
        self._joint_lookup: JointLookup | None = None

    def recorded(self) -> contextlib.AbstractContextManager[list[Lookup]]:
        """Records every look-up made inside, for measurements.

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
        return self._recorder.recorded()

    @contextlib.contextmanager
    def looked_up_once(
        self, history: Mapping[str, tf.Tensor], target: Mapping[str, tf.Tensor]
    ) -> Iterator[None]:
        """Reads each table once for all look-ups inside, both roles and both sides.

        Args:
            history, target: mappings of feature name to int ids, the same tensor objects that
                will be looked up; other tensors are read separately.
        """
        groups: list[Sequence[tf.Tensor]] = []
        for name in self.schema.names:
            both = history[name], target[name]
            one_table = all(
                self.table_of(side, name, HISTORY) is self.table_of(side, name, TARGET)
                for side in SIDES
            )
            groups += [both] if one_table else [(ids,) for ids in both]
        self._joint_lookup = JointLookup(groups, self.reader)
        try:
            yield
        finally:
            self._joint_lookup = None

    def attention_parts(self, ids: Mapping[str, tf.Tensor], role: str = HISTORY):
        """Returns attention embeddings in parts: ``[..., attention_dim]`` for each feature.

        Inner products of the parts add up, so that the parts need not be concatenated.
        """
        return self._parts("attention", ids, role)

    @property
    def attention_part_count(self) -> int:
        """How many parts :meth:`attention_parts` returns."""
        return len(self.schema.features)

    def attention(self, ids: Mapping[str, tf.Tensor], role: str = HISTORY) -> tf.Tensor:
        """Returns the attention embeddings, e^Att, of behaviors or targets.

        Args:
            ids: mapping of feature name to integer row ids, all of one shape ``[...]``; with a
                last axis more where a feature has several values.
            role: str. ``"history"`` (default) or ``"target"``.

        Returns:
            float ``[..., attention_dim]``.
        """
        return tf.concat(self.attention_parts(ids, role), axis=-1)

    def position_score(self, position: tf.Tensor) -> tf.Tensor | None:
        """Computes the part of the attention score that position adds: <p_i, p_0> / sqrt(d).

        Args:
            position: int ``[...]``. Distance to the target, 1 for the newest behavior.

        Returns:
            float ``[...]``, or None where the schema gives position no attention columns.
        """
        if self.attention_position_table is None:
            return None
        table = self._whole(self.attention_position_table, POSITION)
        return distance_score(table, self.bucket(position))

    def time_gap_score(self, time_gap: tf.Tensor) -> tf.Tensor | None:
        """Computes the part of the attention score that the time gap adds, as for position.

        Args:
            time_gap: int ``[...]``. Time from behavior to request, in the log's unit.

        Returns:
            float ``[...]``, or None where the schema gives the gap no attention columns.
        """
        if self.attention_time_gap_table is None:
            return None
        table = self._whole(self.attention_time_gap_table, TIME_GAP)
        return distance_score(table, self.gap_bucket(time_gap))

    def representation_parts(
        self, ids: Mapping[str, tf.Tensor], position: tf.Tensor, role: str = HISTORY
    ) -> list[tf.Tensor]:
        """Returns representations in parts: of features, then of position and time gap if any.

        The part of position has the shape of `position`, whatever the shape of the ids.
        """
        side = "representation"
        parts = self._parts(side, ids, role)
        if self.representation_position_table is not None:
            rows = self.bucket(position)
            parts.append(self._look_up(self.representation_position_table, rows, side, POSITION))
        if self.representation_time_gap_table is not None:
            gap = ids.get(TIME_GAP)
            rows = tf.zeros_like(position) if gap is None else self.gap_bucket(gap)
            parts.append(self._look_up(self.representation_time_gap_table, rows, side, TIME_GAP))
        return parts

    def representation(
        self, ids: Mapping[str, tf.Tensor], position: tf.Tensor, role: str = HISTORY
    ) -> tf.Tensor:
        """Returns the representations, e^Repr, of behaviors or targets.

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
        """Returns the table row of a position; all beyond the window share its last row."""
        return position_rows(position, self.position_buckets)

    def gap_bucket(self, time_gap: tf.Tensor) -> tf.Tensor:
        """Returns the table row of a time gap; 1 is the shortest, row 0 is the target's own."""
        assert self.schema.time_gap is not None
        return time_gap_rows(time_gap, self.schema.time_gap)

    def call(self, ids, position):
        """Returns both sides: ``(attention(ids), representation(ids, position))``."""
        return self.attention(ids), self.representation(ids, position)

    def _parts(self, side, ids, role):
        missing = [name for name in self.schema.names if name not in ids]
        if missing:
            raise ValueError(f"Missing features {missing}. Received: {sorted(ids)}")
        parts = []
        for feature in self.schema.features:
            table, values = self.table_of(side, feature.name, role), ids[feature.name]
            rows = self._look_up(table, values, side, feature.name)
            parts.append(rows if feature.max_values == 1 else mean_of_values(rows, values))
        return parts

    def _look_up(self, table, ids, side, name):
        rows = self._joint_lookup.rows(table, ids) if self._joint_lookup is not None else None
        if rows is None:
            rows = self.reader.rows(table, ids)
        return self._recorder.add(tf.cast(rows, self.compute_dtype), ids, side, name)

    def _whole(self, table, name):
        """Returns a whole table of the attention side."""
        rows = tf.range(table.shape[0])
        return self._recorder.add(self.reader.whole(table), rows, "attention", name)


def mean_of_values(rows: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Averages rows ``[..., L, D]`` over ids ``[..., L]`` that are not padding; 0 if all are."""
    real = tf.cast(ids > PADDING_ID, rows.dtype)[..., tf.newaxis]
    return tf.math.divide_no_nan(tf.reduce_sum(rows * real, axis=-2), tf.reduce_sum(real, axis=-2))
