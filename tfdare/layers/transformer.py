"""TransAct's pooling: a transformer encoder over behaviors, each beside the target."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.encoder_layer import EncoderLayer
from tfdare.layers.scaled_dense import ScaledDense


@register
class TransformerPooling(tf.keras.layers.Layer):
    """Transformer encoder over ``[behavior, target]``; its newest outputs and their maximum.

    Every behavior is concatenated with the target ("early fusion"), and encoder layers run over
    the slots. Output ``[v_t, L [m, o_1, ..., o_n]]``: a linear map L to 2 D columns of the maximum
    m over all outputs and of the outputs of the n newest behaviors; zeros where there is no
    behavior. There is no encoding of position, as in the paper.

    Differs from the authors' code: L maps all outputs, not the maximum alone, and the encoder
    normalizes first: with inputs of the head 7 times as wide, and normalization last, nothing was
    learned at the rate of this package's tables (.01). Action types are left out, as histories
    hold one type; so are dropout and the random mask of the newest behaviors, which makes
    recommendations diverse, not accurate.

    Args:
        layers: int. Encoder layers. Defaults to 2.
        heads: int. Heads of their attention; must divide 2 D. Defaults to 2.
        units: int. Width of their hidden dense layer. Defaults to 32.
        latest: int. n, behaviors whose outputs are passed on. Defaults to 10.

    Call arguments:
        target, behaviors, scores, real, top_k: as of :class:`tfdare.layers.LinearPooling`, slots
            newest first, as of :class:`tfdare.layers.TimeOrderedSearch`; only those that search
            filled are read. `scores` are ignored.

    Returns:
        float ``[U, C, 3 D]``.

    Raises:
        ValueError: an argument is not positive, or `heads` does not divide 2 D.

    References:
        - [TransAct](https://arxiv.org/abs/2306.00248), section 3.3; defaults of the authors' code
    """

    def __init__(
        self, layers: int = 2, heads: int = 2, units: int = 32, latest: int = 10, **kwargs
    ):
        super().__init__(**kwargs)
        for name, value in (("layers", layers), ("latest", latest)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.latest = int(latest)
        self.encoder = [EncoderLayer(heads, units, name=f"encoder_{i}") for i in range(layers)]
        self.output_norm = tf.keras.layers.LayerNormalization(epsilon=1e-5, name="output_norm")

    def build(self, input_shape):
        if self.built:
            return
        shape = (None, None, None, 2 * int(input_shape[-1]))
        for layer in self.encoder:
            layer.build(shape)
        self.output_norm.build(shape)
        self.joined = ScaledDense(shape[-1], name="joined")
        self.joined.build((None, None, shape[-1] * (1 + self.latest)))
        self.built = True

    def output_dim(self, dim: int) -> int:
        """Returns the columns of the output for representations of `dim` columns."""
        return 3 * dim

    def call(self, target, behaviors, scores, real, top_k):
        behaviors, real = behaviors[:, :, :top_k], real[:, :, :top_k]
        beside = tf.broadcast_to(target[:, :, tf.newaxis], tf.shape(behaviors))
        outputs = tf.concat([behaviors, beside], axis=-1)
        for layer in self.encoder:
            outputs = layer(outputs, real)
        outputs, slot = self.output_norm(outputs), real[..., tf.newaxis]
        lowest = tf.constant(outputs.dtype.min, outputs.dtype)
        highest = tf.reduce_max(tf.where(slot, outputs, lowest), axis=2)
        highest = tf.where(tf.reduce_any(slot, axis=2), highest, tf.zeros_like(highest))
        latest = tf.where(slot, outputs, tf.zeros_like(outputs))[:, :, : self.latest]
        missing = self.latest - tf.shape(latest)[2]
        latest = tf.pad(latest, [[0, 0], [0, 0], [0, missing], [0, 0]])
        columns = [self.latest * outputs.shape[-1]]
        latest = tf.reshape(latest, tf.concat([tf.shape(target)[:2], columns], axis=0))
        joined = self.joined(tf.concat([highest, latest], axis=-1))
        return tf.concat([target, joined], axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "layers": len(self.encoder),
            "heads": self.encoder[0].heads,
            "units": self.encoder[0].units,
            "latest": self.latest,
        }
