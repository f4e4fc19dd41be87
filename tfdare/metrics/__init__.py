"""Metrics of ranking, of search and of probabilities, and intervals around them."""

from tfdare.metrics.bootstrap import Interval, UserBootstrap
from tfdare.metrics.calibration import (
    calibration_curve,
    expected_calibration_error,
    normalized_entropy,
)
from tfdare.metrics.ranking import CandidateAUC, RequestGAUC, auc, auc_by_group, gauc, logloss
from tfdare.metrics.search import SearchNDCG, SearchRecall, search_ndcg, search_recall

__all__ = [
    "CandidateAUC",
    "Interval",
    "RequestGAUC",
    "SearchNDCG",
    "SearchRecall",
    "UserBootstrap",
    "auc",
    "auc_by_group",
    "calibration_curve",
    "expected_calibration_error",
    "gauc",
    "logloss",
    "normalized_entropy",
    "search_ndcg",
    "search_recall",
]
