"""The loss over candidates: by hand, without padding, and finite at 0 and 1."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests
from tfdare.compat import deserialize, serialize
from tfdare.losses import CandidateCrossentropy

pytestmark = pytest.mark.keras


def test_loss_by_hand():
    loss = CandidateCrossentropy()
    label = [[1.0, 0.0], [0.0, 1.0]]
    predicted = [[0.5, 0.25], [0.5, 0.125]]
    terms = [math.log(2), math.log(4 / 3), math.log(2), math.log(8)]
    np.testing.assert_allclose(
        loss.call(tf.constant(label), tf.constant(predicted)).numpy().ravel(), terms, rtol=1e-6
    )
    assert float(loss(label, predicted)) == pytest.approx(sum(terms) / 4, rel=1e-6)
    weight = [[1.0, 0.0], [0.5, 0.0]]
    assert float(loss(label, predicted, sample_weight=weight)) == pytest.approx(
        (terms[0] + 0.5 * terms[2]) / 4, rel=1e-6
    )


def test_a_padded_candidate_does_not_count():
    loss = CandidateCrossentropy()
    weight = [[1.0, 1.0, 0.0]]
    wanted = pytest.approx(-(math.log(0.7) + math.log(0.6)) / 3, rel=1e-6)
    for label in (0.0, 1.0):
        for p in (0.0, 0.3, 1.0):
            arguments = [[1.0, 0.0, label]], [[0.7, 0.4, p]]
            assert float(loss(*arguments, sample_weight=weight)) == wanted


def test_loss_and_gradient_are_finite_where_a_prediction_is_certain_and_wrong():
    predicted = tf.constant([[0.0, 1.0, 1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        loss = CandidateCrossentropy()([[1.0, 0.0, 1.0, 0.0]], predicted)
    assert float(loss) == pytest.approx(-math.log(1e-7) / 2, rel=0.01)
    assert np.isfinite(tape.gradient(loss, predicted)).all()


def test_labels_of_integers():
    loss = CandidateCrossentropy()
    predicted = tf.constant([[0.2, 0.9]])
    assert float(loss(tf.constant([[0, 1]]), predicted)) == float(loss([[0.0, 1.0]], predicted))


def test_config_round_trip():
    loss = CandidateCrossentropy(name="mine", reduction="sum")
    again = deserialize(serialize(loss))
    assert type(again) is CandidateCrossentropy
    assert again.get_config() == loss.get_config()
    label, predicted = [[1.0, 0.0]], [[0.5, 0.5]]
    assert float(again(label, predicted)) == pytest.approx(2 * math.log(2))


def test_docstring_examples():
    assert run_doctests("tfdare.losses") > 0
