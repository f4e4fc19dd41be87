"""Embeds context: features of the request and the user that no behavior carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdare.compat import raw, register, tf
from tfdare.layers.embedding import mean_of_values
from tfdare.schema import CategoricalContext, Schema


@register
class ContextEmbedding(tf.keras.layers.Layer):
    """All context features of a request, concatenated, for the head.

    A categorical feature is looked up (several values are averaged); a numeric one gives
    ``(x - mean) / deviation`` and a flag that says whether it is known (NaN means unknown, and is
    replaced by the mean).

    Args:
        schema: Schema or its dict. Its `context`.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    Call arguments:
        context: mapping of feature name to int ``[U]``, int ``[U, L]`` or float ``[U]``.

    Returns:
        float ``[U, output_dim]``.

    Raises:
        ValueError: a feature is missing.
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], initializer_stddev: float = 0.02, **kwargs
    ):
        kwargs.setdefault("autocast", False)  # raw numbers are not for half precision
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.initializer_stddev = initializer_stddev

    @property
    def output_dim(self) -> int:
        """Columns of the output."""
        return sum(
            feature.dim if isinstance(feature, CategoricalContext) else 2
            for feature in self.schema.context
        )

    def build(self, input_shape=None):
        if self.built:
            return
        self.tables = {
            feature.name: self.add_weight(
                name=f"context_{feature.name}",
                shape=(feature.vocabulary_size, feature.dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=self.initializer_stddev),
            )
            for feature in self.schema.context
            if isinstance(feature, CategoricalContext)
        }
        self.built = True

    def call(self, context):
        missing = [f.name for f in self.schema.context if f.name not in context]
        if missing:
            raise ValueError(f"Missing context {missing}. Received: {sorted(context)}")
        parts = []
        for feature in self.schema.context:
            value = context[feature.name]
            if isinstance(feature, CategoricalContext):
                rows = tf.cast(tf.gather(raw(self.tables[feature.name]), value), self.compute_dtype)
                parts.append(rows if feature.max_values == 1 else mean_of_values(rows, value))
                continue
            value = tf.cast(value, tf.float32)
            known = tf.math.is_finite(value)
            standard = tf.where(known, (value - feature.mean) / feature.deviation, 0.0)
            both = tf.stack([standard, tf.cast(known, tf.float32)], axis=-1)
            parts.append(tf.cast(both, self.compute_dtype))
        return tf.concat(parts, axis=-1)

    def get_config(self):
        config = super().get_config()
        config.update(schema=self.schema.to_dict(), initializer_stddev=self.initializer_stddev)
        return config
