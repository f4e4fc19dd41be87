"""The prediction head: from the features of a candidate to one logit."""

from __future__ import annotations

from collections.abc import Sequence

from tfdare.compat import deserialize, register, serialize, tf


@register
class Head(tf.keras.layers.Layer):
    """Batch normalization, optional feature crosses, dense layers with PReLU, one logit.

    The paper's two-way softmax over two logits equals the sigmoid of their difference, so one
    logit is enough.

    Args:
        units: sequence of int. Width of each hidden layer. Defaults to ``(200, 80)``.
        batch_norm: bool. Whether the input is normalized first. Defaults to True.
        dropout: float. Share of each hidden layer's outputs dropped in training. Defaults to 0.
        cross: Layer or None. Called on the normalized input ``[U, C, D]``; its output is
            concatenated to it. `tfdare.layers.Cross`, or a cross layer of tensorflow-recommenders.

    Call arguments:
        inputs: float ``[U, C, D]``.
        real: bool ``[U, C]`` or None. Candidates that are real; padding stays out of the batch
            statistics.
        training: bool.

    Returns:
        float ``[U, C]``, logits.

    Raises:
        ValueError: a width is not positive, or `dropout` is not in [0, 1).

    Example:
        >>> Head(units=(8,))(tf.zeros([2, 3, 5])).shape.as_list()
        [2, 3]

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 5.1
        - [DCN V2](https://arxiv.org/abs/2008.13535), for `cross`
    """

    def __init__(
        self,
        units: Sequence[int] = (200, 80),
        batch_norm: bool = True,
        dropout: float = 0.0,
        cross=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")
        if any(width < 1 for width in units):
            raise ValueError(f"`units` must be positive. Received: units={units}")
        self.units = tuple(int(width) for width in units)
        self.batch_norm = bool(batch_norm)
        self.dropout = float(dropout)
        self.cross = deserialize(cross)
        layers = tf.keras.layers
        self.norm = layers.BatchNormalization(momentum=0.9, name="norm") if batch_norm else None
        self.hidden = [layers.Dense(n, name=f"dense_{i}") for i, n in enumerate(self.units)]
        # One slope per unit, shared by the candidates of a request.
        self.slopes = [
            layers.PReLU(shared_axes=[1], alpha_initializer=_quarter(), name=f"prelu_{i}")
            for i in range(len(self.units))
        ]
        self.drops = [layers.Dropout(dropout) for _ in self.units] if dropout else []
        self.logit = layers.Dense(1, name="logit")

    def build(self, input_shape):
        if self.built:
            return
        width = int(input_shape[-1])
        if self.norm is not None:
            self.norm.build((None, None, width))
        if self.cross is not None:
            self.cross.build((None, None, width))
            width *= 2
        for dense, slope in zip(self.hidden, self.slopes):
            dense.build((None, None, width))
            width = dense.units
            slope.build((None, 1, width))
        self.logit.build((None, None, width))
        self.built = True

    def call(self, inputs, real=None, training=None):
        outputs = inputs
        if self.norm is not None:
            outputs = self.norm(outputs, training=training, mask=real)
        if self.cross is not None:
            outputs = tf.concat([outputs, self.cross(outputs)], axis=-1)
        for i, (dense, slope) in enumerate(zip(self.hidden, self.slopes)):
            outputs = slope(dense(outputs))
            if self.drops:
                outputs = self.drops[i](outputs, training=training)
        return tf.squeeze(self.logit(outputs), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "batch_norm": self.batch_norm,
            "dropout": self.dropout,
            "cross": self.cross and serialize(self.cross),
        }


def _quarter():
    return tf.keras.initializers.Constant(0.25)
