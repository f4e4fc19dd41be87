"""Weightings: from attention scores to the weights of a sum of behaviors."""

from __future__ import annotations

import math

from tfdare.compat import register, tf
from tfdare.layers.attention import masked_softmax


class Weighting(tf.keras.layers.Layer):
    """Base of the weightings.

    Call arguments:
        scores: float ``[U, C, S]``.
        real: bool, broadcast to ``[U, C, S]``. Slots that hold a behavior.
        top_k: int. How many of the S slots search filled; the others hold the newest behaviors.

    Returns:
        float ``[U, C, S]``, zero where `real` is false.
    """

    def scaled(self, scores):
        """Returns the scores at the scale at which the weighting compares them."""
        return scores

    def call(self, scores, real, top_k):
        raise NotImplementedError


@register
class Average(Weighting):
    """Softmax over the behaviors found: the weights sum to one.

    Example:
        >>> real = tf.constant([True, True, False])
        >>> Average()(tf.zeros([1, 1, 3]), real, top_k=3).numpy().tolist()
        [[[0.5, 0.5, 0.0]]]

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 4.1
    """

    def call(self, scores, real, top_k):
        return masked_softmax(scores, tf.logical_and(real, _searched(scores, top_k)))


@register
class ScaledAverage(Weighting):
    """Softmax of ``a * s_i`` over the behaviors found, with a learned, positive scale a.

    For scores of given attention, which no training can scale.

    Args:
        scale: float. Initial a. Defaults to 9.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> scores, real = tf.constant([[[0.0, 1.0, 9.0]]]), tf.constant([True, True, False])
        >>> print(ScaledAverage()(scores, real, top_k=3).numpy().round(4))
        [[[1.000e-04 9.999e-01 0.000e+00]]]
    """

    def __init__(self, scale: float = 9.0, **kwargs):
        super().__init__(**kwargs)
        if not scale > 0:
            raise ValueError(f"`scale` must be positive. Received: scale={scale}")
        self.scale = float(scale)

    def build(self, input_shape=None):
        if self.built:
            return
        start = tf.keras.initializers.Constant(math.log(self.scale))
        self.log_scale = self.add_weight(name="log_scale", shape=(), initializer=start)
        self.built = True

    def scaled(self, scores):
        return scores * tf.cast(tf.exp(tf.convert_to_tensor(self.log_scale)), scores.dtype)

    def call(self, scores, real, top_k):
        real = tf.logical_and(real, _searched(scores, top_k))
        return masked_softmax(self.scaled(scores), real)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@register
class Sum(Weighting):
    """Sum over the behaviors found, each with its own weight between 0 and 1.

    ``w_i = sigmoid(s_i - b)`` with a learned b. Unlike an average it grows with the number of
    behaviors that match.

    Args:
        scale: float. Divides the weights, so that the sum starts in the range of an average.
            Defaults to 1.

    Example:
        >>> Sum()(tf.zeros([1, 1, 3]), tf.constant([True, True, False]), top_k=3).numpy().tolist()
        [[[0.5, 0.5, 0.0]]]
    """

    def __init__(self, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        if not scale > 0:
            raise ValueError(f"`scale` must be positive. Received: scale={scale}")
        self.scale = float(scale)

    def build(self, input_shape=None):
        if self.built:
            return
        self.threshold = self.add_weight(name="threshold", shape=(), initializer="zeros")
        self.built = True

    def call(self, scores, real, top_k):
        real = tf.logical_and(real, _searched(scores, top_k))
        weight = tf.sigmoid(scores - tf.cast(self.threshold, scores.dtype)) / self.scale
        return tf.where(real, weight, tf.zeros_like(weight))

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@register
class ScoreSum(Weighting):
    """The scores themselves, not normalized: SIM's first stage, trained by its own loss.

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), section 3.2 (soft search)
    """

    def call(self, scores, real, top_k):
        real = tf.logical_and(real, _searched(scores, top_k))
        return tf.where(real, scores, tf.zeros_like(scores))


@register
class Recent(Weighting):
    """Softmax over the newest behaviors, which are kept whatever search finds.

    Example:
        >>> Recent()(tf.zeros([1, 1, 4]), tf.constant([True] * 4), top_k=2).numpy().tolist()
        [[[0.0, 0.0, 0.5, 0.5]]]
    """

    def call(self, scores, real, top_k):
        return masked_softmax(
            scores, tf.logical_and(real, tf.logical_not(_searched(scores, top_k)))
        )


def _searched(scores, top_k):
    return tf.range(tf.shape(scores)[-1]) < top_k
