"""The prediction head: from the pooled representation of a candidate to one logit."""

from __future__ import annotations

from typing import Sequence

from tfdare.compat import register, tf


@register
class Head(tf.keras.layers.Layer):
    """Batch normalization, dense layers with PReLU, one logit.

    The paper's two-way softmax over two logits equals the sigmoid of their difference, so one
    logit is enough.

    Args:
        units: sequence of int. Width of each hidden layer. Defaults to ``(200, 80)``.
        batch_norm: bool. Whether the input is normalized first. Defaults to True.

    Call arguments:
        inputs: float ``[U, C, D]``.
        real: bool ``[U, C]`` or None. Candidates that are real; padding stays out of the batch
            statistics.
        training: bool.

    Returns:
        float ``[U, C]``, logits.

    Raises:
        ValueError: a width is not positive.

    Example:
        >>> Head(units=(8,))(tf.zeros([2, 3, 5])).shape.as_list()
        [2, 3]

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 5.1
    """

    def __init__(self, units: Sequence[int] = (200, 80), batch_norm: bool = True, **kwargs):
        super().__init__(**kwargs)
        if any(width < 1 for width in units):
            raise ValueError(f"`units` must be positive. Received: units={units}")
        self.units = tuple(int(width) for width in units)
        self.batch_norm = bool(batch_norm)
        layers = tf.keras.layers
        self.norm = layers.BatchNormalization(momentum=0.9, name="norm") if batch_norm else None
        self.hidden = [layers.Dense(n, name=f"dense_{i}") for i, n in enumerate(self.units)]
        # One slope a unit, shared by the candidates of a request.
        self.slopes = [
            layers.PReLU(
                shared_axes=[1], alpha_initializer=_quarter(), name=f"prelu_{i}"
            )
            for i in range(len(self.units))
        ]
        self.logit = layers.Dense(1, name="logit")

    def build(self, input_shape):
        if self.built:
            return
        width = int(input_shape[-1])
        if self.norm is not None:
            self.norm.build((None, None, width))
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
        for dense, slope in zip(self.hidden, self.slopes):
            outputs = slope(dense(outputs))
        return tf.squeeze(self.logit(outputs), axis=-1)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "batch_norm": self.batch_norm}


def _quarter():
    return tf.keras.initializers.Constant(0.25)
