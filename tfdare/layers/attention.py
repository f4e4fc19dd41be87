"""How well each behavior of a history matches each target."""

from __future__ import annotations

from tfdare.compat import register, tf


@register
class ScaledDotAttention(tf.keras.layers.Layer):
    """Scaled dot product of targets and behaviors, plus a score of position.

    ``s[u, c, n] = <query[u, c], key[u, n]> / sqrt(D) + position_score[n]``

    All candidates of a request attend to one copy of its history.

    Call arguments:
        query: float ``[U, C, D]``. Attention embeddings of the targets.
        key: float ``[U, N, D]``. Attention embeddings of the behaviors.
        position_score: float ``[N]``, or what broadcasts to ``[U, C, N]``, or None. One number per
            position, already scaled.

    Returns:
        float ``[U, C, N]``, unmasked.

    Example:
        >>> scores = ScaledDotAttention()(tf.ones([1, 2, 4]), tf.ones([1, 3, 4]))
        >>> scores.shape.as_list(), float(scores[0, 0, 0])
        ([1, 2, 3], 2.0)

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 4.1
    """

    def call(self, query, key, position_score=None):
        scores = tf.matmul(query, key, transpose_b=True) * (float(query.shape[-1]) ** -0.5)
        if position_score is not None:
            scores += position_score
        return scores


def masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis among what `mask` keeps; zero elsewhere.

    A row with nothing to keep is all zero: no behavior, no weight.

    Args:
        scores: float ``[..., N]``.
        mask: bool, broadcast to ``[..., N]``.

    Returns:
        float ``[..., N]``; rows sum to 1, or to 0 where the mask keeps nothing.
    """
    lowest = tf.constant(float(scores.dtype.min), scores.dtype)
    scores = tf.where(mask, scores, lowest)
    top = tf.stop_gradient(tf.reduce_max(scores, axis=-1, keepdims=True))
    top = tf.where(top > lowest, top, tf.zeros_like(top))
    exponent = tf.where(mask, tf.exp(tf.minimum(scores - top, 0)), tf.zeros_like(scores))
    return tf.math.divide_no_nan(exponent, tf.reduce_sum(exponent, axis=-1, keepdims=True))
