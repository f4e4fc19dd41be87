"""An encoder layer of a transformer, over the slots of search."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.attention import masked_softmax
from tfdare.layers.scaled_dense import ScaledDense


@register
class EncoderLayer(tf.keras.layers.Layer):
    """Self-attention and two dense layers, each of normalized inputs and added to its input.

    ``y = x + MultiHead(LayerNorm(x))``, ``z = y + W_2 relu(W_1 LayerNorm(y))``. Normalizing first,
    and :class:`tfdare.layers.ScaledDense` layers, let it train at the rate of embedding tables.

    Args:
        heads: int. Heads of the attention; must divide D.
        units: int. Width of the hidden dense layer.

    Call arguments:
        inputs: float ``[U, C, K, D]``; D is known.
        real: bool ``[U, C, K]``. Slots that are attended to.

    Returns:
        float ``[U, C, K, D]``.

    Raises:
        ValueError: `heads` or `units` is not positive, or `heads` does not divide D.

    Example:
        >>> encode = EncoderLayer(heads=2, units=8)
        >>> encode(tf.ones([1, 2, 3, 4]), tf.fill([1, 2, 3], True)).shape.as_list()
        [1, 2, 3, 4]

    References:
        - [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 3.1
        - [On Layer Normalization in the Transformer Architecture](
          https://arxiv.org/abs/2002.04745), pre-LN
    """

    def __init__(self, heads: int, units: int, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("heads", heads), ("units", units)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.heads, self.units = int(heads), int(units)

    def build(self, input_shape):
        if self.built:
            return
        dim = int(input_shape[-1])
        if dim % self.heads:
            raise ValueError(f"`heads` must divide {dim} columns. Received: heads={self.heads}")
        layers = tf.keras.layers
        self.attention_norm = layers.LayerNormalization(epsilon=1e-5, name="attention_norm")
        self.query_key_value = ScaledDense(3 * dim, name="query_key_value")
        self.joined = ScaledDense(dim, name="joined")
        self.hidden = ScaledDense(self.units, activation="relu", name="hidden")
        self.outward = ScaledDense(dim, name="outward")
        self.output_norm = layers.LayerNormalization(epsilon=1e-5, name="output_norm")
        for layer in (self.query_key_value, self.joined, self.attention_norm, self.hidden):
            layer.build((None, None, None, dim))
        self.outward.build((None, None, None, self.units))
        self.output_norm.build((None, None, None, dim))
        self.built = True

    def call(self, inputs, real):
        outputs = inputs + self._attend(self.attention_norm(inputs), real)
        return outputs + self.outward(self.hidden(self.output_norm(outputs)))

    def _attend(self, inputs, real):
        head_dim = inputs.shape[-1] // self.heads
        shape = tf.shape(inputs)
        heads = tf.concat([shape[:3], [3 * self.heads, head_dim]], axis=0)
        mapped = tf.transpose(tf.reshape(self.query_key_value(inputs), heads), [0, 1, 3, 2, 4])
        query, key, value = tf.split(mapped, 3, axis=2)  # [U, C, heads, K, head_dim]
        scores = tf.matmul(query * head_dim**-0.5, key, transpose_b=True)
        weights = masked_softmax(scores, real[:, :, tf.newaxis, tf.newaxis])
        attended = tf.transpose(tf.matmul(weights, value), [0, 1, 3, 2, 4])
        return self.joined(tf.reshape(attended, shape))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "units": self.units}
