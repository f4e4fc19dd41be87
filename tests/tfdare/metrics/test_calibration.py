"""Calibration and normalized entropy, against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tfdare.metrics import calibration_curve, expected_calibration_error, normalized_entropy
from tfdare.metrics.calibration import bin_of, entropy, probability_bins


@pytest.fixture(scope="module")
def targets():
    random = np.random.default_rng(4)
    probability = np.round(random.beta(1, 3, 500), 2)  # many repeat
    return (random.random(500) < probability**1.3).astype(float), probability


def plain_bins(label, probability, bins):
    """Sorts, cuts at every n-th, and keeps equal probabilities together."""
    pairs = sorted(zip(probability, label))
    edges = sorted({pairs[math.floor((len(pairs) - 1) * (b + 1) / bins)][0] for b in range(bins)})
    members = [[] for _ in edges]
    for p, y in pairs:
        members[next(i for i, edge in enumerate(edges) if p <= edge)].append((p, y))
    return members


@pytest.mark.parametrize("bins", [1, 4, 15, 200])
def test_curve_and_error(targets, bins):
    label, probability = targets
    expected = plain_bins(label.tolist(), probability.tolist(), bins)
    curve = calibration_curve(label, probability, bins)
    assert curve["targets"].tolist() == [len(members) for members in expected]
    assert curve["predicted"] == pytest.approx([np.mean([p for p, _ in b]) for b in expected])
    assert curve["clicked"] == pytest.approx([np.mean([y for _, y in b]) for b in expected])
    error = sum(abs(sum(y - p for p, y in members)) for members in expected) / len(label)
    assert expected_calibration_error(label, probability, bins) == pytest.approx(error)


def test_what_is_calibrated_has_no_error():
    assert expected_calibration_error([1, 0, 0, 0], [0.25] * 4) == 0
    assert expected_calibration_error([1, 1], [0.0, 0.0]) == 1


def test_bins_hold_every_probability(targets):
    edges = probability_bins(targets[1], 7)
    assert (np.diff(edges) > 0).all() and edges[-1] == targets[1].max()
    assert bin_of(np.array([edges[0], edges[0] + 1e-9, 2.0]), edges).tolist() == [
        0,
        1,
        edges.size - 1,
    ]


def test_normalized_entropy(targets):
    label, probability = targets
    probability = np.clip(probability, 0.01, 0.99)
    mean = np.full(label.size, label.mean())
    expected = log_loss(label, probability) / log_loss(label, mean)
    assert normalized_entropy(label, probability) == pytest.approx(expected)
    assert normalized_entropy(label, mean) == pytest.approx(1)
    assert normalized_entropy([1, 1], [0.5, 0.5]) is None
    assert entropy(np.array([0, 0.5, 1])) == pytest.approx([0, math.log(2), 0])
