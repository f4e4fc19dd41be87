"""From found behaviors and their weights to what the head sees."""

from __future__ import annotations

from tfdare.compat import register, tf


@register
class TargetAwarePooling(tf.keras.layers.Layer):
    """Weighted sum of behaviors, beside the target and multiplied with it.

    ``h = sum_i w_i e_i``; output ``[v_t, h, v_t * h]``. As v_t is the same for every i,
    ``v_t * h`` equals ``sum_i w_i (e_i * v_t)``, the target-aware representation.

    Call arguments:
        target: float ``[U, C, D]``. Representation of the targets.
        weights: float ``[U, C, K]``.
        behaviors: float ``[U, C, K, D]``, or ``[U, K, D]`` when all candidates of a request look
            at the same behaviors.

    Returns:
        float ``[U, C, 3 * D]``.

    Example:
        >>> pooling = TargetAwarePooling()
        >>> pooled = pooling(tf.ones([1, 1, 2]), tf.constant([[[0.5, 0.5]]]), tf.ones([1, 2, 2]))
        >>> pooled.numpy().tolist()
        [[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]]

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 4.2
    """

    def call(self, target, weights, behaviors):
        if behaviors.shape.rank == 3:
            pooled = tf.matmul(weights, behaviors)
        else:
            pooled = tf.squeeze(tf.matmul(weights[:, :, tf.newaxis, :], behaviors), axis=2)
        return tf.concat([target, pooled, target * pooled], axis=-1)
