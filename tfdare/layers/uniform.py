"""Attention that prefers no behavior, for models that average the history."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.attention import in_parts


@register
class UniformAttention(tf.keras.layers.Layer):
    """Scores every behavior 0, so that a softmax over the history averages it.

    Call arguments:
        query, key: as of :class:`tfdare.layers.ScaledDotAttention`; only their shapes matter.
        position_score, target, history, history_length: ignored.

    Returns:
        float ``[U, C, N]``, zeros.

    Example:
        >>> UniformAttention()(tf.ones([1, 2, 4]), tf.ones([1, 3, 4])).numpy().tolist()
        [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    """

    def call(self, query, key, position_score=None, target=None, history=None, history_length=None):
        query, key = in_parts(query)[0], in_parts(key)[0]
        return tf.zeros(tf.concat([tf.shape(query)[:2], tf.shape(key)[1:2]], axis=0), query.dtype)
