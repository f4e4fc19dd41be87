"""Import of TensorFlow, and what differs between Keras 2 and Keras 3.

All modules import ``tf`` from here. Keras 3 is the default of ``tf.keras``;
``TF_USE_LEGACY_KERAS=1`` chooses Keras 2.
"""

from __future__ import annotations

from importlib import metadata

from tfdare.quiet import quiet

with quiet():
    import tensorflow as tf

    KERAS_3 = hasattr(tf.keras, "version")  # imports Keras, which prints messages, too
"""Whether ``tf.keras`` is Keras 3."""

KERAS_VERSION = tf.keras.version() if KERAS_3 else metadata.version("tf-keras")
"""Version of the Keras in use, such as ``"3.15.1"`` or ``"2.21.0"``."""

_saving = tf.keras.utils if KERAS_3 else tf.keras.saving

register = _saving.register_keras_serializable(package="tfdare")
"""Class decorator: registers layers, models, optimizers under the package name ``tfdare``."""


def raw(weight) -> tf.Variable:
    """Returns the ``tf.Variable`` of a weight, which ``tf.gather`` needs for a sparse gradient."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def serialize(keras_object) -> dict:
    """Returns the config of a Keras object, ready for JSON."""
    return _saving.serialize_keras_object(keras_object)


def deserialize(config):
    """Builds a Keras object from its config; objects that are not configs pass through."""
    if isinstance(config, dict):
        return _saving.deserialize_keras_object(config)
    return config
