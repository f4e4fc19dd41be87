"""DARE for TensorFlow: search a lifelong history, then score, with embeddings learned apart.

``import tfdare`` imports no TensorFlow; a room of the package is imported when it is first asked
for (``tfdare.layers``, ``tfdare.models``). ``tfdare.schema``, ``tfdare.sequences`` and
``tfdare.simulation`` stay free of it, so that Beam workers and gRPC clients stay light.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_ROOMS = (
    "analysis",
    "comparison",
    "data",
    "evaluation",
    "export",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "recommenders",
    "schema",
    "sequences",
    "simulation",
    "training",
)

if TYPE_CHECKING:
    from tfdare import (  # noqa: F401
        analysis,
        comparison,
        data,
        evaluation,
        export,
        layers,
        losses,
        metrics,
        models,
        optimizers,
        recommenders,
        schema,
        sequences,
        simulation,
        training,
    )


def __getattr__(name):
    """Imports a room of the package when it is first asked for."""
    if name in _ROOMS:
        return importlib.import_module(f"tfdare.{name}")
    raise AttributeError(f"module 'tfdare' has no attribute {name!r}")


def __dir__():
    """Lists the rooms, imported or not, besides what is there."""
    return sorted({*globals(), *_ROOMS})
