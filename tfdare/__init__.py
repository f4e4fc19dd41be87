"""DARE for TensorFlow: search a long history, then score, with a separate embedding for each.

``import tfdare`` imports no TensorFlow; a subpackage (``tfdare.layers``, ``tfdare.models``) is
imported on first use. ``tfdare.schema``, ``tfdare.sequences`` and
``tfdare.simulation`` stay free of it, so that Beam workers and gRPC clients stay light.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.3.0"

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
    """Imports a subpackage on first use."""
    if name in _ROOMS:
        return importlib.import_module(f"tfdare.{name}")
    raise AttributeError(f"module 'tfdare' has no attribute {name!r}")


def __dir__():
    """Lists the names of the module and all subpackages, imported or not."""
    return sorted({*globals(), *_ROOMS})
