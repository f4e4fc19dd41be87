"""Two-stage models, composed from layers, and a table of the published ones."""

from tfdare.models.published import DARE, MODELS, TWIN, build_model
from tfdare.models.two_stage import TwoStageModel

__all__ = ["DARE", "MODELS", "TWIN", "TwoStageModel", "build_model"]
