"""Models composed from layers, and a table of the published ones."""

import tfdare.metrics.ranking
import tfdare.optimizers  # noqa: F401
from tfdare.models.one_stage import OneStageModel
from tfdare.models.published import DARE, MODELS, TWIN, Recipe, build_model, recipe_of
from tfdare.models.request_model import RequestModel
from tfdare.models.two_stage import TwoStageModel

__all__ = [
    "DARE",
    "MODELS",
    "TWIN",
    "OneStageModel",
    "Recipe",
    "RequestModel",
    "TwoStageModel",
    "build_model",
    "recipe_of",
]
