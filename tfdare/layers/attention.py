"""Attention scores of behaviors for targets: scaled dot product and masked softmax."""

from __future__ import annotations

from tfdare.compat import register, tf


@register
class ScaledDotAttention(tf.keras.layers.Layer):
    """Scaled dot product of targets and behaviors, plus a score of position.

    ``s[u, c, n] = <query[u, c], key[u, n]> / sqrt(D) + position_score[n]``

    All candidates of a request attend to one copy of its history.

    Call arguments:
        query: float ``[U, C, D]``, or a list of parts ``[U, C, D_i]``. Attention embeddings of
            the targets.
        key: float ``[U, N, D]``, or as many parts ``[U, N, D_i]``. Attention embeddings of the
            behaviors.
        position_score: float ``[N]``, or what broadcasts to ``[U, C, N]``, or None. One number per
            position, already scaled.
        target, history, history_length: ignored; other kinds of attention use the ids.

    Returns:
        float ``[U, C, N]``, unmasked.

    Example:
        >>> scores = ScaledDotAttention()(tf.ones([1, 2, 4]), tf.ones([1, 3, 4]))
        >>> scores.shape.as_list(), float(scores[0, 0, 0])
        ([1, 2, 3], 2.0)

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 4.1
    """

    def call(self, query, key, position_score=None, target=None, history=None, history_length=None):
        queries, keys = in_parts(query), in_parts(key)
        scale = float(sum(part.shape[-1] for part in queries)) ** -0.5
        scores = sum(
            tf.matmul(query * scale, key, transpose_b=True) for query, key in zip(queries, keys)
        )
        return add_position(scores, position_score)

    def as_product(self, query, key, offset) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns query and key whose inner products are the scores, `offset` included.

        The query gets a column of ones and the key a column of offsets, so that neither the score
        of position nor a mask (minus infinity) costs a pass over the scores.

        Args:
            query, key: as of the call.
            offset: float ``[U, N]``.

        Returns:
            float ``[U, C, D + 1]`` and ``[U, N, D + 1]``.
        """
        queries, keys = in_parts(query), in_parts(key)
        scale = float(sum(part.shape[-1] for part in queries)) ** -0.5
        offset = tf.cast(offset, keys[0].dtype)[..., tf.newaxis]
        query = tf.concat(
            [*(part * scale for part in queries), tf.ones_like(queries[0][..., :1])], axis=-1
        )
        return query, tf.concat([*keys, offset], axis=-1)


def in_parts(tensor) -> list[tf.Tensor]:
    """Returns a tensor, or parts of it along the last axis, as a list of parts."""
    return list(tensor) if isinstance(tensor, (list, tuple)) else [tensor]


def concat_parts(tensor) -> tf.Tensor:
    """Returns a tensor, or parts of it, as one tensor."""
    parts = in_parts(tensor)
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


def add_position(scores: tf.Tensor, position_score: tf.Tensor | None) -> tf.Tensor:
    """Adds the score of position, if there is one, to scores ``[U, C, N]``."""
    if position_score is None:
        return scores
    return scores + tf.cast(position_score, scores.dtype)


def masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Computes the softmax over the last axis where `mask` is true; zero elsewhere.

    A row whose mask is all false is all zero. A score that is the lowest number of its dtype means
    that a behavior does not match at all; its weight is zero, too.

    Args:
        scores: float ``[..., N]``.
        mask: bool, broadcast to ``[..., N]``.

    Returns:
        float ``[..., N]``; rows sum to 1, or to 0 where the mask is all false.
    """

    @tf.custom_gradient
    def softmax(scores):
        lowest = tf.constant(float(scores.dtype.min), scores.dtype)
        kept = tf.where(mask, scores, lowest)
        weights = _softmax(kept) * tf.cast(tf.not_equal(kept, lowest), scores.dtype)

        def gradient(upstream):  # zero where the weight is zero
            shares = upstream * weights
            return shares - weights * tf.reduce_sum(shares, axis=-1, keepdims=True)

        return weights, gradient

    return softmax(scores)


_FEW = 64
"""Scores in a row, below which plain ops are faster than the fused softmax."""


def _softmax(scores):
    if (scores.shape[-1] or _FEW) >= _FEW:
        return tf.nn.softmax(scores)
    exponents = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
    return exponents / tf.reduce_sum(exponents, axis=-1, keepdims=True)
