"""FinalMLP's head: two gated networks side by side, fused by a bilinear form."""

from __future__ import annotations

from tfdare.compat import raw, register, tf


@register
class TwoStreamHead(tf.keras.layers.Layer):
    """Two streams over gated inputs x, ``o_i = relu(W_i (2 sigmoid(g_i(x)) * x) + b_i)``, fused.

    The gates ``g_i``, networks with one hidden layer, let the streams read different features.
    The logit is ``b + w_1 o_1 + w_2 o_2 + sum_h o_1h M_h o_2h``: a bilinear form within each of
    `heads` equal slices of the two outputs.

    The gates read the whole input, not features of the user and of the item; and as in
    :class:`tfdare.layers.Head`, the input is normalized, not the streams.

    Args:
        units: two int. Width of each stream. Defaults to ``(400, 800)``.
        gate_units: int. Width of the gates' hidden layer. Defaults to 800.
        heads: int. Slices of the bilinear form; must divide both widths. Defaults to 10.
        dropout: float. Share of each stream's outputs dropped in training. Defaults to 0.

    Call arguments:
        inputs, real, training: as of :class:`tfdare.layers.Head`.

    Returns:
        float ``[U, C]``, logits.

    Raises:
        ValueError: a width or `heads` is not positive, `units` are not two, `heads` does not
            divide them, or `dropout` is not in [0, 1).

    Example:
        >>> TwoStreamHead((4, 6), gate_units=8, heads=2)(tf.zeros([2, 3, 5])).shape.as_list()
        [2, 3]

    References:
        - [FinalMLP](https://arxiv.org/abs/2304.00902), sections 3.2 and 3.3; defaults of its
          benchmark on MovieLens
    """

    def __init__(
        self,
        units=(400, 800),
        gate_units: int = 800,
        heads: int = 10,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        for name, value in (("gate_units", gate_units), ("heads", heads)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if len(units) != 2 or any(width < 1 or width % heads for width in units):
            raise ValueError(
                f"`units` must be two positive multiples of heads={heads}. Received: units={units}"
            )
        self.units = tuple(int(width) for width in units)
        self.gate_units, self.heads, self.dropout = int(gate_units), int(heads), float(dropout)
        layers = tf.keras.layers
        self.norm = layers.BatchNormalization(momentum=0.9, name="norm")
        self.gate_hidden = [
            layers.Dense(self.gate_units, activation="relu", name=f"gate_hidden_{i}")
            for i in range(2)
        ]
        self.streams = [
            layers.Dense(width, activation="relu", name=f"stream_{i}")
            for i, width in enumerate(self.units)
        ]
        self.drops = [layers.Dropout(dropout) for _ in range(2)] if dropout else []
        self.linear = layers.Dense(1, name="linear")

    def build(self, input_shape):
        if self.built:
            return
        width = int(input_shape[-1])
        self.norm.build((None, None, width))
        self.gates = [
            tf.keras.layers.Dense(width, activation="sigmoid", name=f"gate_{i}") for i in range(2)
        ]
        for hidden, gate, stream in zip(self.gate_hidden, self.gates, self.streams):
            hidden.build((None, None, width))
            gate.build((None, None, self.gate_units))
            stream.build((None, None, width))
        self.linear.build((None, None, sum(self.units)))
        rows, columns = (width // self.heads for width in self.units)
        self.bilinear = self.add_weight(
            name="bilinear_kernel",
            shape=(self.heads, rows, columns),
            initializer="glorot_uniform",
        )
        self.built = True

    def call(self, inputs, real=None, training=None):
        inputs = self.norm(inputs, training=training, mask=real)
        outputs = []
        for i, stream in enumerate(self.streams):
            gate = 2 * self.gates[i](self.gate_hidden[i](inputs))
            outputs.append(stream(gate * inputs))
            if self.drops:
                outputs[i] = self.drops[i](outputs[i], training=training)
        linear = tf.squeeze(self.linear(tf.concat(outputs, axis=-1)), axis=-1)
        first, second = (
            tf.reshape(
                output,
                tf.concat([tf.shape(output)[:2], [self.heads, width // self.heads]], axis=0),
            )
            for output, width in zip(outputs, self.units)
        )
        kernel = tf.cast(raw(self.bilinear), first.dtype)
        fused = tf.einsum("uchi,hij->uchj", first, kernel) * second
        return linear + tf.reduce_sum(fused, axis=[2, 3])

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "gate_units": self.gate_units,
            "heads": self.heads,
            "dropout": self.dropout,
        }
