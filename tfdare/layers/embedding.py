"""Which table answers for which role: attention (search) or representation (score)."""

from __future__ import annotations

from typing import Any, Mapping

from tfdare.compat import raw, register, tf
from tfdare.schema import Schema, SchemaError


class RoleEmbedding(tf.keras.layers.Layer):
    """Base of the embeddings: tables per feature, asked for by role.

    A subclass says which tables exist (:meth:`make_tables`). History and target share a table.
    Tables start at N(0, `initializer_stddev`^2): a row-sparse optimizer leaves rare rows where
    they started, so they must start small.

    Args:
        schema: Schema or its dict. Features, vocabulary sizes, dimensions, window, position.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.05.
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], initializer_stddev: float = 0.05, **kwargs
    ):
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.initializer_stddev = initializer_stddev

    def build(self, input_shape=None):
        if self.built:
            return
        self.position_buckets = self.schema.position.buckets(self.schema.window)
        self.make_tables()
        self.built = True

    def make_tables(self) -> None:
        """Fills `attention_tables`, `representation_tables` (feature name to weight), and
        `attention_position_table`, `representation_position_table` (weight or None)."""
        raise NotImplementedError

    def table(self, name: str, rows: int, columns: int):
        """A trainable ``[rows, columns]`` weight."""
        return self.add_weight(
            name=name,
            shape=(rows, columns),
            initializer=tf.keras.initializers.RandomNormal(stddev=self.initializer_stddev),
            trainable=True,
        )

    def position_table(self, name: str, columns: int):
        """A table with a row for each bucket of position, or None without columns."""
        if columns == 0:
            return None
        return self.table(name, self.schema.position.size(self.schema.window), columns)

    @property
    def attention_dim(self) -> int:
        """Columns of the attention side, features side by side, position left out."""
        return sum(feature.attention_dim for feature in self.schema.features)

    @property
    def representation_dim(self) -> int:
        """Columns of the representation side, features side by side, position included."""
        features = sum(feature.representation_dim for feature in self.schema.features)
        return features + self.schema.position.representation_dim

    def attention(self, ids: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """e^Att of behaviors or targets.

        Args:
            ids: mapping of feature name to integer row ids, all of one shape ``[...]``.

        Returns:
            float ``[..., attention_dim]``.
        """
        return _side_by_side(self.attention_tables, ids)

    def position_score(self, position: tf.Tensor) -> tf.Tensor | None:
        """The time part of the attention score, one number per position: <p_i, p_0> / sqrt(d).

        Args:
            position: int ``[...]``. Distance to the target, 1 for the newest behavior.

        Returns:
            float ``[...]``, or None where the schema gives position no attention columns.
        """
        if self.attention_position_table is None:
            return None
        table = tf.convert_to_tensor(raw(self.attention_position_table))
        by_bucket = tf.linalg.matvec(table, table[0]) / float(table.shape[-1]) ** 0.5
        return tf.gather(by_bucket, self.bucket(position))

    def representation(self, ids: Mapping[str, tf.Tensor], position: tf.Tensor) -> tf.Tensor:
        """e^Repr of behaviors or targets.

        Args:
            ids: mapping of feature name to integer row ids, all of one shape ``[...]``.
            position: int, a shape that broadcasts to ``[...]``. Distance to the target; 0 for
                targets. One vector for all histories costs one look-up per position.

        Returns:
            float ``[..., representation_dim]``.
        """
        features = _side_by_side(self.representation_tables, ids)
        if self.representation_position_table is None:
            return features
        at = tf.gather(raw(self.representation_position_table), self.bucket(position))
        at = tf.broadcast_to(at, tf.concat([tf.shape(features)[:-1], tf.shape(at)[-1:]], axis=0))
        return tf.concat([features, at], axis=-1)

    def bucket(self, position: tf.Tensor) -> tf.Tensor:
        """Table row of a position; what lies beyond the window shares its last row."""
        buckets = tf.constant(self.position_buckets)
        return tf.gather(buckets, tf.clip_by_value(position, 0, self.schema.window))

    def call(self, ids, position):
        """Both sides at once: ``(attention(ids), representation(ids, position))``."""
        return self.attention(ids), self.representation(ids, position)

    def get_config(self):
        config = super().get_config()
        config.update(schema=self.schema.to_dict(), initializer_stddev=self.initializer_stddev)
        return config


def _side_by_side(tables, ids):
    missing = [name for name in tables if name not in ids]
    if missing:
        raise ValueError(f"Missing features {missing}. Received: {sorted(ids)}")
    # Gathered from the variable, not from a tensor read from it: the gradient stays sparse.
    return tf.concat([tf.gather(raw(table), ids[name]) for name, table in tables.items()], axis=-1)


@register
class DecoupledEmbedding(RoleEmbedding):
    """DARE's embedding: one table per feature for attention, another for representation.

    No gradient of what is aggregated reaches the attention tables except through the weights, and
    the two dimensions are free of each other: a small `attention_dim` makes search cheap.

    Args:
        schema: Schema or its dict.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.05.

    Example:
        >>> from tfdare.schema import Feature, Schema
        >>> schema = Schema((Feature("item", 100, attention_dim=4),), window=10)
        >>> embedding = DecoupledEmbedding(schema)
        >>> embedding.build()
        >>> tuple(embedding.attention({"item": tf.constant([[2, 3, 4]])}).shape)
        (1, 3, 4)

    References:
        - [Long-Sequence Recommendation Models Need Decoupled Embeddings](
          https://arxiv.org/abs/2410.02604), section 4.1
    """

    def make_tables(self):
        schema = self.schema
        self.attention_tables = {
            f.name: self.table(f"attention_{f.name}", f.vocabulary_size, f.attention_dim)
            for f in schema.features
        }
        self.representation_tables = {
            f.name: self.table(f"representation_{f.name}", f.vocabulary_size, f.representation_dim)
            for f in schema.features
        }
        position = schema.position
        self.attention_position_table = self.position_table(
            "attention_position", position.attention_dim
        )
        self.representation_position_table = self.position_table(
            "representation_position", position.representation_dim
        )


@register
class SharedEmbedding(RoleEmbedding):
    """TWIN's embedding: one table per feature plays both roles.

    Args:
        schema: Schema or its dict. `attention_dim` and `representation_dim` must be equal.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.05.

    Raises:
        SchemaError: the two dimensions of a feature, or of position, differ.

    References:
        - [TWIN: TWo-stage Interest Network](https://arxiv.org/abs/2302.02352)
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], initializer_stddev: float = 0.05, **kwargs
    ):
        super().__init__(schema, initializer_stddev, **kwargs)
        for part in [*self.schema.features, self.schema.position]:
            if part.attention_dim != part.representation_dim:
                raise SchemaError(
                    "A shared table needs `attention_dim` equal to `representation_dim`. "
                    f"Received: {part}"
                )

    def make_tables(self):
        self.attention_tables = self.representation_tables = {
            f.name: self.table(f"shared_{f.name}", f.vocabulary_size, f.attention_dim)
            for f in self.schema.features
        }
        self.attention_position_table = self.representation_position_table = self.position_table(
            "shared_position", self.schema.position.attention_dim
        )
