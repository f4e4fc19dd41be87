"""Intervals over users and seeds, against plain loops and known truths of random data."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfdare.metrics.test_ranking import plain_auc
from tfdare.metrics import Interval, UserBootstrap, auc
from tfdare.metrics.bootstrap import WeightedAUC

TARGETS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(TARGETS, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_are_repetitions(targets, weights):
    label, score, user = map(np.array, zip(*targets))
    value = WeightedAUC(label, score, user)(np.array([weights]))[0]
    expected = plain_auc([(y, s) for y, s, u in targets for _ in range(weights[u])])
    assert np.isnan(value) if expected is None else value == pytest.approx(expected)


def made_up(random, users=40, each=6, noise=1.0):
    """Draws targets whose score has a part that all targets of a user share."""
    user = np.repeat(np.arange(users), each)
    label = (np.arange(user.size) % 3 == 0).astype(int)
    shared = random.normal(size=users)[user]
    return label, user, label + shared + noise * random.normal(size=user.size)


def test_resamples_are_of_whole_users():
    label, user, score = made_up(np.random.default_rng(0), users=9)
    names = np.array([f"user {u}" for u in user])
    bootstrap = UserBootstrap(label, names, {"a": [score**2], "b": [score]}, resamples=37, seed=5)
    random = np.random.default_rng(5)
    expected = {"a": [], "b": []}
    for _ in range(37):
        rows = np.concatenate([np.flatnonzero(user == u) for u in random.integers(0, 9, 9)])
        expected["a"].append(auc(label[rows], score[rows] ** 2))
        expected["b"].append(auc(label[rows], score[rows]))
    for name in "ab":
        got = bootstrap.auc(name, level=0.9)
        low, high = np.quantile(expected[name], [0.05, 0.95])
        assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))
    difference = bootstrap.difference("b", "a")
    apart = np.array(expected["b"]) - expected["a"]
    assert difference.estimate == pytest.approx(auc(label, score) - auc(label, score**2))
    assert difference.low == pytest.approx(np.quantile(apart, 0.025))
    assert difference.high == pytest.approx(np.quantile(apart, 0.975))


def test_copied_targets_do_not_narrow_the_interval():
    label, user, score = made_up(np.random.default_rng(1))
    once = UserBootstrap(label, user, {"a": [score]}, resamples=200).auc("a")
    copied = UserBootstrap(
        *(np.tile(x, 5) for x in (label, user)), {"a": [np.tile(score, 5)]}, resamples=200
    ).auc("a")
    assert copied.low == pytest.approx(once.low) and copied.high == pytest.approx(once.high)


def test_coverage_of_the_interval():
    """Counts how often the 95% interval holds the true difference: in about 95 of 100 samples."""
    random, hits, widths, differences = np.random.default_rng(2), 0, [], []
    worlds = 200
    for _ in range(worlds):
        label, user, score = made_up(random, users=50)
        other = score + random.normal(size=50)[user]  # worse, by noise that users share
        between = UserBootstrap(
            label, user, {"a": [score], "b": [other]}, resamples=150
        ).difference("a", "b")
        differences.append(between)
        widths.append(between.high - between.low)
    # label + N(0, 2) against label + N(0, 3), clicks 1 above: Phi(1/2) - Phi(1/sqrt(6))
    truth = 0.691462 - 0.658454
    hits = sum(interval.low <= truth <= interval.high for interval in differences)
    estimates = [interval.estimate for interval in differences]
    assert np.mean(estimates) == pytest.approx(truth, abs=0.006)
    assert 0.87 <= hits / worlds <= 0.99
    # The interval is as wide as the estimates scatter from world to world.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(estimates), rel=0.2)


def test_seeds_widen_the_interval():
    """Adds Student's interval of the seeds in quadrature; a model of one seed pools the other's."""
    random = np.random.default_rng(5)
    label, user, score = made_up(random)
    a = [score + random.normal(size=score.size) for _ in range(3)]
    b = [score + random.normal(size=score.size) for _ in range(2)]
    bootstrap = UserBootstrap(label, user, {"a": a, "b": b, "c": [score]}, resamples=200)
    of_a, of_b, of_c = (np.array([auc(label, s) for s in seeds]) for seeds in (a, b, [score]))
    student = {1: 12.7062, 2: 4.30265, 3: 3.18245}  # 97.5% by degrees of freedom, from a table

    def check(got, drawn, aucs):
        freedom = sum(len(of_model) - 1 for of_model in aucs)
        squares = sum(((of_model - of_model.mean()) ** 2).sum() for of_model in aucs)
        error = np.sqrt(squares / freedom * sum(1 / len(of_model) for of_model in aucs))
        low, high = np.quantile(drawn, [0.025, 0.975])
        half = student[freedom] * error
        assert got.low == pytest.approx(got.estimate - np.hypot(got.estimate - low, half), 1e-5)
        assert got.high == pytest.approx(got.estimate + np.hypot(high - got.estimate, half), 1e-5)

    drawn = {name: bootstrap.drawn(name) for name in "abc"}
    assert bootstrap.auc("a").estimate == pytest.approx(of_a.mean())
    check(bootstrap.auc("a"), drawn["a"], [of_a])
    check(bootstrap.difference("a", "b"), drawn["a"] - drawn["b"], [of_a, of_b])
    check(bootstrap.difference("a", "c"), drawn["a"] - drawn["c"], [of_a, of_c])
    assert bootstrap.difference("a", "a") == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("seeds", [2, 3])
def test_coverage_over_users_and_seeds(seeds):
    """Counts how often the interval holds a difference that is truly zero: in 95 of 100 or more
    trainings of two models alike."""
    random, hits, hits_of_users, worlds = np.random.default_rng(6), 0, 0, 150
    for _ in range(worlds):
        label, user, score = made_up(random, users=50)
        scores = {
            name: [
                score + 0.2 * random.normal() * label + random.normal(size=label.size)
                for _ in range(seeds)
            ]
            for name in "ab"
        }
        bootstrap = UserBootstrap(label, user, scores, resamples=80)
        difference = bootstrap.difference("a", "b")
        hits += difference.low <= 0 <= difference.high
        low, high = np.quantile(bootstrap.drawn("a") - bootstrap.drawn("b"), [0.025, 0.975])
        hits_of_users += low <= 0 <= high
    assert hits / worlds >= 0.93 and hits_of_users / worlds < 0.8


def test_the_same_model_twice_differs_by_nothing():
    label, user, score = made_up(np.random.default_rng(3))
    bootstrap = UserBootstrap(label, user, {"a": [score], "b": [score * 2 + 1]}, resamples=50)
    assert bootstrap.difference("a", "b") == Interval(0.0, 0.0, 0.0)
    assert bootstrap.difference("a", "b").sign == 0
    assert bootstrap.auc("a").low < bootstrap.auc("a").estimate < bootstrap.auc("a").high


@pytest.mark.parametrize("low, high, sign", [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0)])
def test_sign_of_an_interval(low, high, sign):
    assert Interval(0.0, low, high).sign == sign


def test_an_interval_as_text_and_from_json():
    assert f"{Interval(0.5, 0.25, 0.75):+.2f}" == "+0.50 [+0.25, +0.75]"
    assert f"{Interval.from_json({'estimate': 0.5, 'low': None, 'high': None}):.2f}" == "0.50"
    assert f"{Interval.from_json({'estimate': None, 'low': None, 'high': None}):.2f}" == "n/a"
    numbers = {"to": "DARE", "estimate": 0.1, "low": 0.0, "high": 0.2}
    assert Interval.from_json(numbers) == Interval(0.1, 0.0, 0.2)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=r"one shape.*\(2,\), \(3,\)"):
        WeightedAUC([0, 1], [1.0, 2.0, 3.0], [0, 0])
    with pytest.raises(ValueError, match="finite.*nan"):
        WeightedAUC([0, 1], [1.0, np.nan], [0, 0])
    with pytest.raises(ValueError, match="resamples=0"):
        UserBootstrap([0, 1], [0, 1], {"a": [[0.1, 0.2]]}, resamples=0)
    with pytest.raises(ValueError, match="level=1.5"):
        UserBootstrap([0, 1], [0, 1], {"a": [[0.1, 0.2]]}, resamples=1).auc("a", level=1.5)


def test_resampling_takes_linear_time():
    """Times a hundred resamples of 100,000 targets: milliseconds each, without sorting again."""
    random = np.random.default_rng(4)
    user, score = random.integers(0, 5000, 100_000), random.random(100_000)
    label = random.random(100_000) < 1 / 3
    started = time.process_time()
    UserBootstrap(label, user, {"a": [score]}, resamples=100)
    assert time.process_time() - started < 3
