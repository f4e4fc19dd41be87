"""A dense layer whose steps do not grow with the width of its input."""

from __future__ import annotations

from tfdare.compat import register, tf


@register
class ScaledDense(tf.keras.layers.Dense):
    """Dense layer of inputs divided by the square root of their width: ``W x / sqrt(D) + b``.

    W starts at N(0, 1), which is the usual start of ``W / sqrt(D)``. A step of Adam moves every
    weight by the learning rate; what D of them move together is ``sqrt(D)`` times less than
    without the division, so that wide layers stand the rates that embedding tables need.

    Args:
        units: int. Width of the output.
        activation: str or None. As of `Dense`. Defaults to None.

    Call arguments:
        inputs: float ``[..., D]``; D is known.

    Returns:
        float ``[..., units]``.

    Example:
        >>> ScaledDense(2)(tf.ones([3, 4])).shape.as_list()
        [3, 2]

    References:
        - [Progressive Growing of GANs](https://arxiv.org/abs/1710.10196), section 4.1
    """

    def __init__(self, units: int, activation=None, **kwargs):
        kwargs.setdefault("kernel_initializer", tf.keras.initializers.RandomNormal(stddev=1.0))
        super().__init__(units, activation=activation, **kwargs)

    def call(self, inputs):
        return super().call(inputs * float(inputs.shape[-1]) ** -0.5)
