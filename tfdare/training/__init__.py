"""Training of the published models: compiling, fitting, and the folder that a run writes."""

from tfdare.training.compile import compile_model, make_network, starting_vectors
from tfdare.training.options import TrainOptions
from tfdare.training.renew import renew_attention
from tfdare.training.run_folder import Run, load_run
from tfdare.training.trainer import train

__all__ = [
    "Run",
    "TrainOptions",
    "compile_model",
    "load_run",
    "make_network",
    "renew_attention",
    "starting_vectors",
    "train",
]
