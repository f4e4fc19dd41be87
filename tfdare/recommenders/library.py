"""Imports tensorflow-recommenders as ``tfrs``, or fails with instructions under Keras 3."""

from __future__ import annotations

from tfdare.compat import KERAS_3, KERAS_VERSION
from tfdare.quiet import quiet

if KERAS_3:
    raise ImportError(
        "tfdare.recommenders needs Keras 2, as tensorflow-recommenders does: set "
        "TF_USE_LEGACY_KERAS=1 in the environment before Python starts. "
        f"Received: Keras {KERAS_VERSION}"
    )

with quiet():
    import tensorflow_recommenders as tfrs

__all__ = ["tfrs"]
