"""The two towers of retrieval, which share their tables."""

from __future__ import annotations

from collections.abc import Mapping

from tfdare.compat import raw, tf
from tfdare.layers import newest_first
from tfdare.layers.embedding import mean_of_values
from tfdare.schema import Schema


class CandidateTower(tf.keras.layers.Layer):
    """Sum of an item's embeddings, one for each feature.

    Args:
        schema: Schema. Features and vocabulary sizes; their dimensions are not used.
        dim: int. D, columns of every table. Defaults to 64.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.05.

    Call arguments:
        ids: mapping of feature name to int row ids ``[...]`` (``[..., L]`` for a feature of
            several values, whose embeddings are averaged).

    Returns:
        float ``[..., D]``.

    Raises:
        ValueError: `dim` is not positive, or a feature is missing from `ids`.
    """

    def __init__(self, schema: Schema, dim: int = 64, initializer_stddev: float = 0.05, **kwargs):
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"`dim` must be positive. Received: dim={dim}")
        self.schema, self.dim = schema, dim
        self.tables = {
            feature.name: self.add_weight(
                name=feature.name,
                shape=(feature.vocabulary_size, dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=initializer_stddev),
            )
            for feature in schema.features
        }

    def call(self, ids: Mapping[str, tf.Tensor]) -> tf.Tensor:
        missing = [name for name in self.schema.names if name not in ids]
        if missing:
            raise ValueError(f"Missing features {missing}. Received: {sorted(ids)}")
        parts = []
        for feature in self.schema.features:
            feature_ids = ids[feature.name]
            rows = tf.gather(raw(self.tables[feature.name]), feature_ids)
            parts.append(rows if feature.max_values == 1 else mean_of_values(rows, feature_ids))
        return tf.add_n(parts)


class UserTower(tf.keras.layers.Layer):
    """Mean of the candidate tower's embeddings of the user's newest behaviors.

    Args:
        candidate_tower: CandidateTower. Embeds behaviors, too.
        behaviors: int. How many of the newest count. Defaults to 20.

    Call arguments:
        requests: mapping of ``history_<feature>`` int ``[U, N]`` and ``history_length`` int
            ``[U]``; other inputs are ignored.

    Returns:
        float ``[U, D]``; zero for a user without behaviors.

    Raises:
        ValueError: `behaviors` is not positive, or a tensor is missing from the requests.
    """

    def __init__(self, candidate_tower: CandidateTower, behaviors: int = 20, **kwargs):
        super().__init__(**kwargs)
        if behaviors < 1:
            raise ValueError(f"`behaviors` must be positive. Received: behaviors={behaviors}")
        self.candidate_tower, self.behaviors = candidate_tower, behaviors

    def call(self, requests: Mapping[str, tf.Tensor]) -> tf.Tensor:
        names = self.candidate_tower.schema.names
        needed = ["history_length", *(f"history_{name}" for name in names)]
        missing = [name for name in needed if name not in requests]
        if missing:
            raise ValueError(f"Missing tensors {missing}. Received: {sorted(requests)}")
        length = tf.cast(requests["history_length"], tf.int32)
        newest = {
            name: newest_first(requests[f"history_{name}"], length)[:, : self.behaviors]
            for name in names
        }
        embedded = self.candidate_tower(newest)
        real = tf.sequence_mask(
            tf.minimum(length, self.behaviors), tf.shape(embedded)[1], embedded.dtype
        )[..., tf.newaxis]
        return tf.math.divide_no_nan(
            tf.reduce_sum(embedded * real, axis=1), tf.reduce_sum(real, axis=1)
        )
