"""TWIN-V2's attention: scores clusters of behaviors instead of single behaviors."""

from __future__ import annotations

from tfdare.compat import deserialize, register, serialize, tf
from tfdare.layers.attention import ScaledDotAttention


@register
class ClusterAttention(tf.keras.layers.Layer):
    """Every behavior gets the mean score of its cluster.

    A cluster holds up to `size` behaviors that share a feature's value, neighbors in time first.
    With an inner product the mean score is the score of the cluster's mean embedding; a softmax
    over behaviors then weighs a cluster by its size, as TWIN-V2 does by adding its logarithm; and
    as members weigh the same, what is pooled is the mean of their representations.

    Args:
        size: int. Behaviors a cluster holds at most. Defaults to 4.
        feature: str. Feature whose value the members share. Defaults to ``"category"``.
        attention: Layer. Scores of single behaviors. Defaults to `ScaledDotAttention()`.

    Call arguments:
        query, key, position_score: as of :class:`tfdare.layers.ScaledDotAttention`.
        target: ignored.
        history: mapping of feature name to int ``[U, N]``, newest first.
        history_length: int ``[U]``.

    Returns:
        float ``[U, C, N]``, unmasked.

    Raises:
        ValueError: `size` is not positive, or the history lacks the feature.

    References:
        - [TWIN V2](https://arxiv.org/abs/2407.16357), sections 4.1 and 4.2
    """

    def __init__(self, size: int = 4, feature: str = "category", attention=None, **kwargs):
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"`size` must be positive. Received: size={size}")
        self.size, self.feature = int(size), feature
        self.attention = deserialize(attention) or ScaledDotAttention(name="attention")

    def build(self, input_shape):
        if self.built:
            return
        self.attention.build(input_shape)
        self.built = True

    def call(self, query, key, position_score=None, target=None, history=None, history_length=None):
        if history is None or self.feature not in history:
            raise ValueError(
                f"Clusters need the feature {self.feature!r}. Received: {sorted(history or ())}"
            )
        scores = self.attention(query, key, position_score)
        cluster = self.clusters(history[self.feature], history_length)
        users, candidates, behaviors = tf.unstack(tf.shape(scores))
        segment = tf.range(users)[:, tf.newaxis] * behaviors + cluster
        segment = tf.reshape(segment, [-1])
        by_behavior = tf.reshape(tf.transpose(scores, [0, 2, 1]), [-1, candidates])
        mean = tf.math.unsorted_segment_mean(by_behavior, segment, users * behaviors)
        mean = tf.reshape(tf.gather(mean, segment), [users, behaviors, candidates])
        return tf.transpose(mean, [0, 2, 1])

    def clusters(self, value: tf.Tensor, history_length: tf.Tensor) -> tf.Tensor:
        """Returns the number of each behavior's cluster in its history: int32 ``[U, N]``."""
        behaviors = tf.shape(value)[1]
        length = tf.cast(history_length, tf.int32)[:, tf.newaxis]
        # Padding gets a separate value, so that no cluster mixes it with behaviors.
        value = tf.where(tf.range(behaviors) < length, tf.cast(value, tf.int32), -1)
        order = tf.argsort(value, axis=1, stable=True)
        ordered = tf.gather(value, order, batch_dims=1)
        column = tf.range(behaviors)[tf.newaxis]
        changes = tf.concat(
            [tf.ones_like(ordered[:, :1], tf.bool), ordered[:, 1:] != ordered[:, :-1]], axis=1
        )
        # A run is a series of equal values; `start` is its first column.
        run = tf.cumsum(tf.cast(changes, tf.int32), axis=1) - 1
        users = tf.shape(value)[0]
        segment = tf.range(users)[:, tf.newaxis] * behaviors + run
        first = tf.math.unsorted_segment_min(
            tf.reshape(tf.broadcast_to(column, tf.shape(run)), [-1]),
            tf.reshape(segment, [-1]),
            users * behaviors,
        )
        start = tf.gather(first, segment)
        number = start + (column - start) // self.size * self.size
        inverse = tf.argsort(order, axis=1)
        return tf.gather(number, inverse, batch_dims=1)

    def get_config(self):
        config = {"size": self.size, "feature": self.feature}
        return {**super().get_config(), **config, "attention": serialize(self.attention)}
