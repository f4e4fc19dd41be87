"""Evaluation of a trained model on a split, in total and by slices."""

from tfdare.evaluation.evaluator import evaluate, evaluate_splits, summary
from tfdare.evaluation.lengths import evaluate_lengths, lengths_table
from tfdare.evaluation.predictions import Predictions, Predictor, predict
from tfdare.evaluation.slices import Slices, evaluate_in_full, slices_of, slices_table

__all__ = [
    "Predictions",
    "Predictor",
    "Slices",
    "evaluate",
    "evaluate_in_full",
    "evaluate_lengths",
    "evaluate_splits",
    "lengths_table",
    "predict",
    "slices_of",
    "slices_table",
    "summary",
]
