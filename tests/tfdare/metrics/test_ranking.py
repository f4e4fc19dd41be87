"""Ranking metrics, against definitions written as plain loops over pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tfdare.compat import deserialize, serialize, tf
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics import CandidateAUC, RequestGAUC, auc, gauc, logloss

TARGETS = st.lists(
    # few distinct scores and groups: ties, and groups of one class, are common
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3)),
    max_size=30,
)


def plain_auc(pairs):
    clicked = [score for label, score in pairs if label]
    other = [score for label, score in pairs if not label]
    if not clicked or not other:
        return None
    wins = sum((a > b) + 0.5 * (a == b) for a in clicked for b in other)
    return wins / (len(clicked) * len(other))


def plain_gauc(targets):
    total = weight = 0.0
    for group in {group for *_, group in targets}:
        pairs = [(label, score) for label, score, g in targets if g == group]
        value = plain_auc(pairs)
        if value is not None:
            total += value * len(pairs)
            weight += len(pairs)
    return total / weight if weight else None


def same(value, expected):
    return value == expected if expected is None else value == pytest.approx(expected)


def columns(targets):
    label, score, group = zip(*targets) if targets else ((), (), ())
    return np.array(label, np.float32), np.array(score, np.float32), np.array(group, np.int64)


@given(TARGETS)
def test_auc(targets):
    label, score, _ = columns(targets)
    expected = plain_auc([target[:2] for target in targets])
    assert same(auc(label, score), expected)
    if expected is not None:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score))


@given(TARGETS)
def test_gauc(targets):
    label, score, group = columns(targets)
    assert same(gauc(label, score, group), plain_gauc(targets))
    names = np.array([f"user {number}" for number in group.tolist()])
    assert same(gauc(label, score, names), plain_gauc(targets))
    assert same(gauc(label, score, np.zeros_like(group)), plain_auc([t[:2] for t in targets]))


def test_by_hand():
    assert auc([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.4]) == 0.625  # 1 + 1/2 + 1 + 0 of 4 pairs
    # user a: 1 of 1 pair, 2 targets; user b: 0 of 2 pairs, 3 targets; user c has no click
    assert gauc([1, 0, 1, 0, 0, 0], [0.9, 0.1, 0.2, 0.5, 0.6, 0.7], list("aabbbc")) == 0.4


@pytest.mark.parametrize("label, score", [([], []), ([1], [0.5]), ([0, 0], [0.1, 0.2])])
def test_labels_of_one_class_have_no_auc(label, score):
    assert auc(label, score) is None
    assert gauc(label, score, [0] * len(label)) is None


def test_auc_of_many():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 5000)
    score = np.round(random.normal(size=5000) + label, 2)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_logloss():
    label, probability = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.5]
    plain = -(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.5)) / 4
    assert logloss(label, probability) == pytest.approx(plain)
    assert logloss(label, probability) == pytest.approx(log_loss(label, probability))
    assert logloss([1.0], [0.0]) == pytest.approx(-math.log(1e-7))
    assert logloss([0.0], np.float32([1.0])) == pytest.approx(-math.log(1e-7), rel=1e-6)


REQUESTS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=8,
)


def batch_of(requests, width=4):
    """Makes labels, scores, weights ``[U, C]``; padding has a label of 1 and a high score."""
    shape = (len(requests), width)
    label, score, weight = np.ones(shape), np.full(shape, 7.0), np.zeros(shape)
    for row, request in enumerate(requests):
        for column, (clicked, value) in enumerate(request):
            label[row, column], score[row, column], weight[row, column] = clicked, value, 1
    return [tf.constant(part, tf.float32) for part in (label, score, weight)]


@given(st.lists(REQUESTS, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_request_gauc_is_gauc_by_request(batches):
    metric = RequestGAUC()
    for requests in batches:
        metric.update_state(*batch_of(requests))
    every = [request for requests in batches for request in requests]
    expected = plain_gauc([(*t, number) for number, request in enumerate(every) for t in request])
    assert float(metric.result()) == pytest.approx(expected or 0.0, abs=1e-6)


@pytest.mark.keras
def test_candidate_auc_counts_each_candidate_of_any_weight_once():
    label, score = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[0.9, 0.5, 0.3], [0.1, 0.2, 0.0]]
    weight = [[4.0, 0.25, 1.0], [1.0, 3.0, 0.0]]
    metric = CandidateAUC(name="mine", num_thresholds=1000)
    metric.update_state(label, score, sample_weight=weight)
    # of the clicks .9, .3 and .2 against .5 and .1
    assert float(metric.result()) == pytest.approx(4 / 6, abs=1e-5)
    again = deserialize(serialize(metric))
    assert isinstance(again, CandidateAUC) and again.get_config() == metric.get_config()


def test_request_gauc_without_weights():
    metric = RequestGAUC()
    metric.update_state(tf.constant([[1, 0, 0]]), tf.constant([[0.5, 0.5, 0.1]]))
    assert float(metric.result()) == 0.75
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_request_gauc_takes_half_precision():
    metric = RequestGAUC()
    metric.update_state(tf.constant([[1.0, 0.0]]), tf.constant([[0.9, 0.1]], tf.float16))
    assert float(metric.result()) == 1.0


def test_request_gauc_config_round_trip():
    metric = RequestGAUC(name="mine")
    again = deserialize(serialize(metric))
    assert isinstance(again, RequestGAUC) and again.name == "mine"
    assert again.get_config() == metric.get_config()


def test_request_gauc_in_a_compiled_model():
    inputs = tf.keras.Input((3,))
    model = tf.keras.Model(inputs, tf.keras.layers.Activation("linear")(inputs))
    model.compile(loss=CandidateCrossentropy(), weighted_metrics=[RequestGAUC()])
    requests = [[(1, 0.5), (0, 0.25)], [(1, 0.0), (0, 1.0), (0, 0.0)], [(0, 0.5)]]
    label, score, weight = batch_of(requests, width=3)
    logs = model.evaluate(
        score, label, sample_weight=weight, batch_size=2, verbose=0, return_dict=True
    )
    assert logs["request_gauc"] == pytest.approx((1.0 * 2 + 0.25 * 3) / 5)
