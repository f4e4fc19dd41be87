"""Mutual information of behaviors and clicks: equal to a plain count, whatever the parts."""

import json
import math
import pickle

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from tests.harness import run_doctests
from tfdare.sequences.mutual_information import (
    InterestCounts,
    category_index,
    mutual_information,
    top_categories,
)

CATEGORIES = [4, 2, 7]


def make_requests(seed, users=60, behaviors=9, candidates=3):
    """Draws history, length, target, label, weight; clicks depend on the newest behavior."""
    random = np.random.default_rng(seed)
    history = random.integers(1, 8, (users, behaviors))
    length = random.integers(0, behaviors + 1, users)
    history = np.where(np.arange(behaviors) < length[:, None], history, 0)
    target = random.integers(1, 8, (users, candidates))
    newest = history[np.arange(users), np.maximum(length - 1, 0)]
    liked = (target == newest[:, None]) | (random.random(target.shape) < 0.2)
    weight = (random.random(target.shape) < 0.9).astype(np.float32)
    return history, length, target, liked.astype(np.float32), weight


def plain_observations(requests, edges):
    """Lists (behavior is c, clicked) of every observation, by (t, c, bucket)."""
    history, length, target, label, weight = (part.tolist() for part in requests)
    observations = {}
    for user, targets in enumerate(target):
        for candidate, category in enumerate(targets):
            if category not in CATEGORIES or not weight[user][candidate]:
                continue
            for bucket in range(len(edges) - 1):
                for position in range(edges[bucket], edges[bucket + 1]):
                    if position > length[user]:
                        continue
                    behavior = history[user][length[user] - position]
                    for other in CATEGORIES:
                        observations.setdefault((category, other, bucket), []).append(
                            (int(behavior == other), int(label[user][candidate]))
                        )
    return observations


@pytest.mark.parametrize("positions", [6, [1, 2, 3, 5, 9], 12])
def test_equals_a_plain_count_and_scikit_learn(positions):
    requests = make_requests(0)
    counts = InterestCounts(CATEGORIES, positions)
    counts.add(*requests)
    table = counts.table()
    edges = counts.edges.tolist()
    observations = plain_observations(requests, edges)
    compared = 0
    for t, target in enumerate(CATEGORIES):
        for c, behavior in enumerate(CATEGORIES):
            for bucket in range(len(edges) - 1):
                pairs = observations.get((target, behavior, bucket), [])
                x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
                assert counts.total[t, bucket].tolist() == [y.count(0), y.count(1)]
                assert table.support[t, c, bucket] == sum(x)
                if not sum(x):
                    assert table.information[t, c, bucket] == 0
                    continue
                compared += 1
                assert table.information[t, c, bucket] == pytest.approx(
                    mutual_info_score(x, y), abs=1e-12
                )
                rate = sum(1 for pair in pairs if pair == (1, 1)) / sum(x)
                lift = rate / (sum(y) / len(y)) if sum(y) else 1.0
                assert table.lift[t, c, bucket] == pytest.approx(lift)
    assert compared > 20


def test_finds_what_was_planted():
    counts = InterestCounts(CATEGORIES, 6)
    counts.add(*make_requests(1, users=3000))
    signed = counts.table(min_count=20).signed
    for target in range(3):
        assert signed[target].max() == signed[target, target, 0] > 0.05
        others = np.delete(signed[target, :, 0], target)
        assert (others < 0).all()  # another newest behavior speaks against the click
        assert np.abs(signed[target, :, 1:]).max() < 0.01


def test_parts_add_up_in_any_order():
    parts = [make_requests(seed, users=20) for seed in range(5)]
    whole = InterestCounts(CATEGORIES, 6)
    for part in parts:
        whole.add(*part)
    merged = InterestCounts(CATEGORIES, 6)
    for number in (3, 1, 4, 0, 2):
        counts = InterestCounts(CATEGORIES, 6)
        counts.add(*parts[number])
        merged.merge(pickle.loads(pickle.dumps(counts)))
    back = InterestCounts.from_dict(json.loads(json.dumps(merged.to_dict())))
    for other in (merged, back):
        np.testing.assert_array_equal(other.total, whole.total)
        np.testing.assert_array_equal(other.seen(), whole.seen())
    with pytest.raises(ValueError, match="other categories do not add up"):
        whole.merge(InterestCounts([2, 3, 4], 6))
    with pytest.raises(ValueError, match="other edges do not add up"):
        whole.merge(InterestCounts(CATEGORIES, 5))


def test_compacting_on_the_way_changes_nothing(monkeypatch):
    requests = make_requests(3, users=200)
    whole = InterestCounts(CATEGORIES, 8)
    whole.add(*requests)
    monkeypatch.setattr("tfdare.sequences.mutual_information._PENDING", 7)
    often = InterestCounts(CATEGORIES, 8)
    for user in range(200):
        often.add(*(part[user : user + 1] for part in requests))
    np.testing.assert_array_equal(often.seen(), whole.seen())
    assert not often._pending or often._pending_size < 7


def test_smoothing_and_least_count():
    counts = InterestCounts([2, 3], 1)
    # 4 candidates of category 2: the behavior 3 comes once, and it was clicked
    counts.add(
        np.array([[3], [2], [2], [2]]),
        np.ones(4, int),
        np.full((4, 1), 2),
        np.array([[1], [0], [0], [1]]),
    )
    plain = counts.table()
    # (x=0: 2 not, 1 clicked), (x=1: 0 not, 1 clicked), by hand
    expected = (
        0.5 * math.log(0.5 / (0.75 * 0.5))
        + 0.25 * math.log(0.25 / (0.75 * 0.5))
        + 0.25 * math.log(0.25 / (0.25 * 0.5))
    )
    assert plain.information[0, 1, 0] == pytest.approx(expected)
    assert plain.lift[0, 1, 0] == pytest.approx(2.0)
    assert plain.lift[0, 0, 0] == pytest.approx((1 / 3) / 0.5)
    assert plain.signed[0, 0, 0] == pytest.approx(-expected)
    smooth = counts.table(smoothing=1.0)
    assert smooth.information[0, 1, 0] == pytest.approx(
        mutual_information(np.array([[3.0, 2.0], [1.0, 2.0]]))
    )
    assert smooth.lift[0, 1, 0] == pytest.approx((2 / 3) / 0.5)
    strict = counts.table(min_count=2)
    assert strict.information[0, 1, 0] == 0 and strict.lift[0, 1, 0] == 1
    assert strict.information[0, 0, 0] == plain.information[0, 0, 0]


def test_relevance_finds_every_behavior():
    requests = history, length, target, _, _ = make_requests(5)
    counts = InterestCounts(CATEGORIES, [1, 2, 4, 6])
    counts.add(*requests)
    table = counts.table()
    information = table.relevance(history, length, target)
    assert information.shape == (60, 3, 9) and (information > 0).any()
    for user in range(60):
        for candidate in range(3):
            for index in range(9):
                position = length[user] - index
                pair = target[user, candidate], history[user, index]
                expected = 0.0
                if 1 <= position <= 5 and set(map(int, pair)) <= set(CATEGORIES):
                    bucket = 0 if position < 2 else 1 if position < 4 else 2
                    t, c = (CATEGORIES.index(part) for part in pair)
                    expected = table.information[t, c, bucket]
                assert information[user, candidate, index] == expected


def test_all_categories_of_a_large_vocabulary():
    """Stores only cells that occur: all 9,000 x 9,000 x 200 cells would be 130 GB."""
    random = np.random.default_rng(0)
    counts = InterestCounts(np.arange(2, 9002), 200)
    history = random.integers(2, 9002, (50, 200))
    target = np.full((50, 3), 9001)
    counts.add(history, np.full(50, 200), target, np.tile([1, 0, 0], (50, 1)))
    assert sum(counts.to_dict()["counts"]) == 50 * 3 * 200
    table = counts.table()
    seen, total = (1, 2), (50, 100)  # a position's behavior is one user's: 1 click, 2 not, of all
    expected = mutual_info_score(
        [1] * sum(seen) + [0] * (sum(total) - sum(seen)),
        [1] * seen[0] + [0] * seen[1] + [1] * (total[0] - seen[0]) + [0] * (total[1] - seen[1]),
    )
    relevance = table.relevance(history[:1], np.array([200]), target[:1])
    assert relevance.shape == (1, 3, 200) and np.median(relevance) == pytest.approx(expected)


def test_examples():
    assert run_doctests("tfdare.sequences.mutual_information") > 0


def test_the_most_frequent():
    assert top_categories([5, 9, 9, 1], 3).tolist() == [3, 4, 2]
    index = category_index(np.array([4, 2]), np.array([[2, 3], [4, 9]]))
    assert index.tolist() == [[1, -1], [0, -1]]


@pytest.mark.parametrize(
    ("categories", "positions", "words"),
    [
        ([], 3, "different row ids. Received: \\[\\]"),
        ([2, 2], 3, "different row ids"),
        ([2], 0, "rise from 1. Received: positions=0"),
        ([2], [2, 3], "rise from 1"),
        ([2], [1, 3, 3], "rise from 1"),
    ],
)
def test_invalid_arguments_are_refused(categories, positions, words):
    with pytest.raises(ValueError, match=words):
        InterestCounts(categories, positions)
