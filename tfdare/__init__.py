"""DARE for TensorFlow: search a lifelong history, then score, with embeddings learned apart.

Import what you need from the rooms of the package (``tfdare.schema``, ``tfdare.data``,
``tfdare.layers``, ``tfdare.models``, ``tfdare.optimizers``, ``tfdare.export``). Importing
``tfdare`` itself, ``tfdare.schema`` or ``tfdare.sequences`` does not import TensorFlow, so that
Beam workers and gRPC clients stay light.
"""

__version__ = "0.1.0"
