"""The one door to TensorFlow, and all in which the two generations of Keras differ here.

Keras 3 is the default of ``tf.keras``; ``TF_USE_LEGACY_KERAS=1`` chooses Keras 2.
"""

from __future__ import annotations

from importlib import metadata

from tfdare.quiet import quiet

with quiet():
    import tensorflow as tf

    KERAS_3 = hasattr(tf.keras, "version")  # imports Keras, which comes late and chatters, too
"""Whether ``tf.keras`` is Keras 3."""

KERAS_VERSION = tf.keras.version() if KERAS_3 else metadata.version("tf-keras")
"""Of the Keras in use, such as ``"3.15.1"`` or ``"2.21.0"``."""

_saving = tf.keras.utils if KERAS_3 else tf.keras.saving

register = _saving.register_keras_serializable(package="tfdare")
"""Class decorator: the one registration name of this package's layers, models and optimizers."""


def raw(weight) -> tf.Variable:
    """The ``tf.Variable`` behind a weight; what ``tf.gather`` needs for a sparse gradient."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def serialize(thing) -> dict:
    """A Keras object as JSON-ready config."""
    return _saving.serialize_keras_object(thing)


def deserialize(thing):
    """Inverse of :func:`serialize`; objects that are built already pass through."""
    if isinstance(thing, dict):
        return _saving.deserialize_keras_object(thing)
    return thing
