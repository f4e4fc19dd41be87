"""Cross-entropy of requests with several candidates."""

from __future__ import annotations

from tfdare.compat import register, tf

_EPSILON = 1e-7


@register
class CandidateCrossentropy(tf.keras.losses.Loss):
    """Binary cross-entropy of every candidate, with a weight for every candidate.

    Keras's own ``BinaryCrossentropy`` averages over the last axis before weights apply, so that in
    ``[U, C]`` predictions a padded candidate would count. Here each candidate's cross-entropy is
    multiplied by its own weight, 0 where it is padding. As everywhere in Keras, the sum is divided
    by the number of elements, U * C, not by the sum of weights.

    Call arguments:
        y_true: float ``[U, C]``. 1 clicked, 0 not.
        y_pred: float ``[U, C]``. Probabilities.

    Returns:
        float ``[U, C]`` before reduction.

    Example:
        >>> loss = CandidateCrossentropy()
        >>> round(float(loss([[1.0, 0.0]], [[0.5, 0.9]], sample_weight=[[1.0, 0.0]])), 4)
        0.3466
    """

    def __init__(self, name: str = "candidate_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        y_pred = tf.convert_to_tensor(y_pred)
        y_true = tf.cast(y_true, y_pred.dtype)
        y_pred = tf.clip_by_value(y_pred, _EPSILON, 1 - _EPSILON)
        return -(y_true * tf.math.log(y_pred) + (1 - y_true) * tf.math.log1p(-y_pred))
