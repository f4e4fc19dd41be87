"""Pairs of events against a plain loop: baskets, sessions, reach, and draws of a large log."""

from collections import Counter

import numpy as np
import pytest

from beam_jobs.cooccurrence.behaviors import Behaviors
from beam_jobs.cooccurrence.pairs import (
    FEW_PAIRS,
    MOST_PAIRS,
    Limits,
    _draw,
    _draw_single,
    events_to_pair,
    find_baskets,
    limit_pairs,
    list_pairs,
)
from tests.beam_jobs.cooccurrence.reference import count_plainly
from tfdare.schema.id_hash import mix

EVERY = Limits(10**9)


def make_behaviors(seed, users=30, times=25, ids=12, most=60):
    """Makes behaviors with many equal times and ids, some of them out of vocabulary."""
    random = np.random.default_rng(seed)
    length = random.integers(0, most, users)
    time = np.concatenate([np.sort(random.integers(0, times, size)) for size in length])
    rows = {"item": random.integers(1, ids, length.sum()).astype(np.int32)}
    return Behaviors(mix(np.arange(users)), length, time, rows)


def count(behaviors, coarse_clock, gap, limits=EVERY):
    rows, total = behaviors.rows["item"], Counter()
    baskets = find_baskets(behaviors, coarse_clock, gap)
    keep = events_to_pair(rows, baskets)
    rows = rows[keep]
    for earlier, later, weights in list_pairs(baskets, keep, limits):
        for row, other, weight in zip(
            rows[earlier].tolist(), rows[later].tolist(), weights.tolist()
        ):
            total[row, other] += weight
            total[other, row] += weight
    return total


@pytest.mark.parametrize("coarse_clock", [False, True])
@pytest.mark.parametrize("gap", [None, 0, 1, 3])
@pytest.mark.parametrize("times", [4, 25, 10_000])
def test_pairs_equal_a_plain_loop(coarse_clock, gap, times):
    behaviors = make_behaviors(times, times=times)
    expected = count_plainly(behaviors, coarse_clock, gap)
    assert count(behaviors, coarse_clock, gap) == expected
    if (gap, times) != (0, 10_000):
        assert sum(expected.values()) > 0


def test_single_events_reach_ten_steps_and_large_baskets_three():
    def reach(times):
        rows = np.arange(2, 2 + len(times), dtype=np.int32)
        behaviors = Behaviors(
            np.zeros(1, np.uint64), np.array([len(times)]), np.array(times), {"item": rows}
        )
        return {later - 2 for first, later in count(behaviors, False, None) if first == 2}

    assert reach(range(20)) == set(range(1, 11))
    assert reach(np.repeat(range(6), 12)) == set(range(1, 48))
    assert reach(np.repeat(range(20), 2)) == set(range(1, 12))


def test_no_users_and_no_known_ids():
    nothing = np.zeros(0, np.int64)
    empty = Behaviors(nothing.astype(np.uint64), nothing, nothing, {"item": nothing})
    assert not count(empty, False, None) and not count(empty, True, 5)
    behaviors = make_behaviors(1)
    behaviors.rows["item"][:] = 1
    assert not count(behaviors, False, None)


@pytest.mark.parametrize("coarse_clock", [False, True])
def test_draws_are_right_on_average(coarse_clock):
    behaviors = make_behaviors(3, users=6000, times=15, ids=8, most=25)
    expected = count(behaviors, coarse_clock, None)
    for limits in (Limits(2), Limits(5)):
        drawn = count(behaviors, coarse_clock, None, limits)
        assert drawn.keys() <= expected.keys()
        total = sum(expected.values())
        assert sum(drawn.values()) == pytest.approx(total, rel=1e-3)  # rounded down
        for pair, weight in expected.items():
            assert drawn[pair] == pytest.approx(weight, rel=0.1)
    half = count(behaviors, coarse_clock, None, Limits(10**9, every=2))
    for pair, weight in expected.items():
        assert 2 * half[pair] == pytest.approx(weight, rel=0.1)


def test_both_ways_to_draw_agree():
    """The fast way for baskets of single events, and the general one."""
    random, events = np.random.default_rng(0), 200
    basket, begin = np.arange(events), np.arange(events + 1)
    last = np.minimum(basket + random.integers(2, 11, events), events - 1)
    event = basket[:-2]
    turns = [random.integers(0, 1 << 24, len(event)) for _ in range(20)]
    drawn = zip(
        _draw(event, basket, begin, last, turns), _draw_single(event, last[event] + 1, turns)
    )
    for general, fast in drawn:
        for expected, actual in zip(general, fast):
            np.testing.assert_array_equal(actual, expected)
        assert (fast[0] > event).all() and (fast[0] <= last[event]).all()


def test_draws_do_not_depend_on_other_users():
    behaviors = make_behaviors(5, users=40)
    whole = count(behaviors, False, None, Limits(3, every=2))
    ends = np.cumsum(behaviors.length)
    parts = Counter()
    for users in (slice(0, 13), slice(13, 40)):
        begin = ends[users.start - 1] if users.start else 0
        events = slice(begin, ends[users.stop - 1])
        part = Behaviors(
            behaviors.user_hash[users],
            behaviors.length[users],
            behaviors.time[events],
            {"item": behaviors.rows["item"][events]},
        )
        parts += count(part, False, None, Limits(3, every=2))
    assert parts == whole


def test_behaviors_are_split_between_users():
    behaviors = make_behaviors(6, users=40)
    behaviors.length[:2] = 0
    behaviors.length[2] += len(behaviors.time) - behaviors.length.sum()
    whole = count(behaviors, False, None)
    for events in (1, 100, 10**6):
        parts = list(behaviors.split(events))
        assert sum((count(part, False, None) for part in parts), Counter()) == whole
        most = behaviors.length.max()
        assert all(len(part.time) == part.length.sum() < events + most for part in parts)
    assert len(parts) == 1 and len(list(behaviors.split(100))) > 5


def test_limits_follow_the_log():
    assert limit_pairs(100_000, 1000).most >= 40 and limit_pairs(100_000, 1000).every == 1
    for events, size in ((10**7, 10**6), (10**9, 10**7)):
        assert limit_pairs(events, size).most >= 2 and limit_pairs(events, size).every == 1
    few = limit_pairs(10**9, 1000)  # few ids: no need to pair all events of a large log
    assert few.most == 1 and 10**9 / few.every >= FEW_PAIRS
    assert limit_pairs(0, 2).most <= MOST_PAIRS
