"""DIN's attention: a small network scores each pair of target and behavior."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.layers.attention import add_position, concat_parts


@register
class MLPAttention(tf.keras.layers.Layer):
    """Scores from a two-layer network over ``[q, k, q - k, q * k]``.

    The first layer is linear in its four parts, so it is applied to targets and behaviors
    separately and only the product needs both: no ``[U, C, N, 4 D]`` is computed, only the outputs
    ``[U, C, N, units]``.

    Args:
        units: int. Width of the hidden layer. Defaults to 36.

    Call arguments:
        query, key, position_score, target, history, history_length: as of
            :class:`tfdare.layers.ScaledDotAttention`.

    Returns:
        float ``[U, C, N]``, unmasked.

    Raises:
        ValueError: `units` is not positive.

    Example:
        >>> MLPAttention(units=8)(tf.ones([1, 2, 4]), tf.ones([1, 3, 4])).shape.as_list()
        [1, 2, 3]

    References:
        - [Deep Interest Network](https://arxiv.org/abs/1706.06978), section 4.3
    """

    def __init__(self, units: int = 36, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` must be positive. Received: units={units}")
        self.units = int(units)

    def build(self, input_shape):
        if self.built:
            return
        width = int(input_shape[-1])
        self.kernel = self.add_weight(
            name="kernel", shape=(4 * width, self.units), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.slope = self.add_weight(
            name="slope", shape=(self.units,), initializer=tf.keras.initializers.Constant(0.25)
        )
        self.logit = self.add_weight(
            name="logit", shape=(self.units, 1), initializer="glorot_uniform"
        )
        self.built = True

    def call(self, query, key, position_score=None, target=None, history=None, history_length=None):
        query, key = concat_parts(query), concat_parts(key)
        kernel = tf.cast(raw(self.kernel), query.dtype)
        query_kernel, key_kernel, gap_kernel, product_kernel = tf.split(kernel, 4, axis=0)
        from_query = tf.tensordot(query, query_kernel + gap_kernel, axes=1)[:, :, tf.newaxis]
        from_key = tf.tensordot(key, key_kernel - gap_kernel, axes=1)[:, tf.newaxis]
        by_target = query[..., tf.newaxis] * product_kernel  # [U, C, D, units]
        hidden = tf.matmul(key[:, tf.newaxis], by_target) + from_query + from_key
        hidden += tf.cast(raw(self.bias), hidden.dtype)
        hidden = tf.where(hidden > 0, hidden, hidden * tf.cast(raw(self.slope), hidden.dtype))
        logit = tf.tensordot(hidden, tf.cast(raw(self.logit), hidden.dtype), axes=1)
        return add_position(tf.squeeze(logit, axis=-1), position_score)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
