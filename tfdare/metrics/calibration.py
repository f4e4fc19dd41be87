"""Calibration of probabilities: calibration curve, its error, and normalized entropy."""

from __future__ import annotations

import numpy as np

from tfdare.metrics.ranking import logloss

BINS = 15


def probability_bins(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns upper edges of bins of about equally many probabilities; ties share a bin.

    Returns:
        float64, ascending; the last edge is the largest probability. Fewer than `bins` where
        probabilities repeat.
    """
    edges = np.quantile(probability, np.arange(1, bins + 1) / bins, method="lower")
    return np.unique(np.asarray(edges, np.float64))


def bin_of(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the bin of each probability; a bin includes its upper edge."""
    bins = np.searchsorted(edges, np.asarray(probability, np.float64), side="left")
    return np.minimum(bins, edges.size - 1)


def calibration_curve(label, probability, bins: int = BINS) -> dict[str, np.ndarray]:
    """Computes mean predictions and click rates in bins of about equally many targets.

    Returns:
        ``predicted`` and ``clicked``, means of each bin, and ``targets``, how many it holds.
    """
    label, probability = np.asarray(label, np.float64), np.asarray(probability, np.float64)
    number = bin_of(probability, probability_bins(probability, bins))
    targets = np.bincount(number)
    return {
        "predicted": np.bincount(number, probability) / targets,
        "clicked": np.bincount(number, label) / targets,
        "targets": targets,
    }


def expected_calibration_error(label, probability, bins: int = BINS) -> float:
    """Computes the mean distance of predicted and actual click rates, weighted by targets.

    ``ECE = sum_b (n_b / n) |clicked_b - predicted_b|``, with bins that hold equally many targets:
    bins of equal width leave most clicks of a skewed log in one.

    Example:
        >>> round(expected_calibration_error([1, 0, 0, 0], [0.5, 0.5, 0.1, 0.1], bins=2), 4)
        0.05

    References:
        - [Obtaining well calibrated probabilities](https://doi.org/10.1609/aaai.v29i1.9602)
    """
    curve = calibration_curve(label, probability, bins)
    gap = np.abs(curve["clicked"] - curve["predicted"])
    return float(np.average(gap, weights=curve["targets"]))


def normalized_entropy(label, probability) -> float | None:
    """Divides the log loss by that of always predicting the mean click rate; lower is better.

    Returns:
        float, 1 for the mean click rate; None where a class is missing.

    Example:
        >>> normalized_entropy([1, 0], [0.5, 0.5])
        1.0

    References:
        - [Practical lessons from predicting clicks on ads](https://doi.org/10.1145/2648584.2648589)
    """
    rate = float(np.mean(np.asarray(label) > 0.5))
    if not 0 < rate < 1:
        return None
    return float(logloss(label, probability) / entropy(rate))


def entropy(rate):
    """Computes the entropy in nats of a click with this rate; 0 where it is certain."""
    rate = np.asarray(rate, np.float64)
    inside = np.clip(rate, 1e-300, 1 - 1e-16)
    value = -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))
    return np.where((rate > 0) & (rate < 1), value, 0.0)[()]
