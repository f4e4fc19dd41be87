"""Cross layers of the Deep & Cross Network, version 2."""

from __future__ import annotations

from tfdare.compat import raw, register, tf


@register
class Cross(tf.keras.layers.Layer):
    """Products of the input's columns with learned mixtures of them, in stacked layers.

    ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``: after `layers` of them every output is a polynomial
    of the input's columns of degree ``layers + 1``. With `projection_dim`, ``W_l = U_l V_l`` goes
    through that many columns, ``2 D P`` weights in place of ``D^2``.

    Args:
        projection_dim: int or None. P, columns of the low-rank form. Defaults to None: full rank.
        layers: int. How many are stacked. Defaults to 2.

    Call arguments:
        inputs: float ``[..., D]``; D is known.

    Returns:
        float ``[..., D]``.

    Raises:
        ValueError: `projection_dim` or `layers` is not positive.

    Example:
        >>> cross = Cross(projection_dim=2)
        >>> cross(tf.ones([4, 3, 6])).shape.as_list()
        [4, 3, 6]
        >>> sum(weight.shape.num_elements() for weight in map(raw, cross.weights))
        60

    References:
        - [DCN V2](https://arxiv.org/abs/2008.13535), equations 1 and 2
    """

    def __init__(self, projection_dim: int | None = None, layers: int = 2, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("projection_dim", projection_dim), ("layers", layers)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.projection_dim = None if projection_dim is None else int(projection_dim)
        self.layers = int(layers)

    def build(self, input_shape):
        if self.built:
            return
        width = int(input_shape[-1])
        self.kernels, self.biases = [], []
        for i in range(self.layers):
            if self.projection_dim is None:
                kernels = [self._kernel(f"kernel_{i}", width, width)]
            else:
                kernels = [
                    self._kernel(f"kernel_{i}_down", width, self.projection_dim),
                    self._kernel(f"kernel_{i}_up", self.projection_dim, width),
                ]
            self.kernels.append(kernels)
            self.biases.append(
                self.add_weight(name=f"bias_{i}", shape=(width,), initializer="zeros")
            )
        self.built = True

    def call(self, inputs):
        outputs = inputs
        for kernels, bias in zip(self.kernels, self.biases):
            mixed = outputs
            for kernel in kernels:
                mixed = tf.tensordot(mixed, tf.cast(raw(kernel), inputs.dtype), axes=1)
            outputs = inputs * (mixed + tf.cast(raw(bias), inputs.dtype)) + outputs
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "projection_dim": self.projection_dim,
            "layers": self.layers,
        }

    def _kernel(self, name, rows, columns):
        return self.add_weight(name=name, shape=(rows, columns), initializer="glorot_uniform")
