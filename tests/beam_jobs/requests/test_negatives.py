"""Negatives: stable, proportional, never an item of the user's own."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.requests.negatives import Negatives, draw_from_sessions, sessions
from beam_jobs.shared.hashing import combine, hash_strings, unit_interval
from beam_jobs.vocabulary.catalog import Catalog
from tests.beam_jobs.conftest import SMALL


def catalog(counts):
    counts = np.array(counts, np.int64)
    return Catalog(("item",), np.arange(len(counts)) * 10, counts, {})


def draw(counts, touched, requests=1, count=2, seed=1, user_hash=123):
    """Draws for one user who touched the catalog indices ``touched``."""
    touched = np.array(touched, np.int64)
    owner = np.zeros(len(touched), np.int64)
    negatives = Negatives(catalog(counts), np.array([user_hash], np.uint64), owner, touched, seed)
    return negatives.draw(np.zeros(requests, np.int64), np.arange(1, requests + 1), count)


def test_draws_are_proportional_to_counts():
    counts = np.array([50, 30, 15, 5])
    drawn = draw(counts, [], requests=40_000, count=1)[:, 0]
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, counts / counts.sum(), atol=0.01)


def test_draws_stay_proportional_among_untouched_items():
    drawn = draw([50, 30, 15, 5], [0], requests=40_000, count=1)[:, 0]
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, np.array([0, 30, 15, 5]) / 50, atol=0.01)


def test_draws_stay_proportional_among_few_untouched_items():
    # items 1 and 2 are a millionth of all events: the draw may not wait for luck
    drawn = draw([10**9, 300, 700], [0], requests=4_000, count=1)[:, 0]
    share = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(share, [0, 0.3, 0.7], atol=0.03)


def test_draws_are_the_same_again_and_differ_by_seed_user_and_position():
    counts = np.ones(10_000, np.int64)
    first = draw(counts, [], requests=50)
    np.testing.assert_array_equal(first, draw(counts, [], requests=50))
    assert (first != draw(counts, [], requests=50, seed=2)).mean() > 0.9
    assert (first != draw(counts, [], requests=50, user_hash=5)).mean() > 0.9
    assert len(np.unique(first)) > 90


def test_draws_do_not_depend_on_the_other_users_of_a_bucket():
    items = catalog([5] * 50)
    users = np.array([7, 8, 9], np.uint64)
    together = Negatives(items, users, np.array([0, 1, 2]), np.array([3, 4, 5]), 1).draw(
        np.array([0, 1, 1, 2]), np.array([4, 4, 9, 1]), 2
    )
    alone = Negatives(items, users[1:2], np.array([0]), np.array([4]), 1).draw(
        np.array([0, 0]), np.array([4, 9]), 2
    )
    np.testing.assert_array_equal(together[1:3], alone)


def test_a_user_who_touched_all_items_gets_no_negatives():
    assert (draw([3, 2, 1], [0, 1, 2], requests=3) == -1).all()


def test_one_item_left_is_repeated():
    assert (draw([3, 2, 1], [0, 1], requests=3) == 2).all()


def test_an_empty_catalog_gives_none():
    assert draw([], [], requests=2).tolist() == [[-1, -1], [-1, -1]]


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    st.sets(st.integers(-1, 11)),
    st.integers(0, 4),
    st.integers(0, 2**31 - 1),
)
def test_never_an_item_of_the_user_and_distinct_where_possible(counts, touched, count, seed):
    touched = {index for index in touched if index < len(counts)}
    left = set(range(len(counts))) - touched
    for row in draw(counts, sorted(touched), requests=4, count=count, seed=seed).tolist():
        if not left:
            assert row == [-1] * count
        else:
            assert set(row) <= left
            assert len(set(row)) == min(count, len(left))


def test_pairs_are_drawn_without_replacement():
    # items 1, 2, 3 are left; the second draw is proportional among the two that remain
    counts = np.array([40, 30, 20, 10])
    drawn = draw(counts, [0], requests=60_000, count=2)
    for first, second, share in [(1, 2, 30 / 60 * 20 / 30), (3, 1, 10 / 60 * 30 / 50)]:
        observed = ((drawn[:, 0] == first) & (drawn[:, 1] == second)).mean()
        assert observed == pytest.approx(share, abs=0.01)


def test_hashes_equal_recorded_ones():
    """Compares hashes with recorded ones: others would change the negatives of a log and seed."""
    hashes = hash_strings(pa.array(["1", "user", "", "Zoë"]))
    assert len(set(hashes.tolist())) == 4
    np.testing.assert_array_equal(hashes[1:2], hash_strings(pa.array(["x", "user"]))[1:])
    np.testing.assert_array_equal(
        hash_strings(pa.array(["a", "bb", "ccc"])[1:]), hash_strings(pa.array(["bb", "ccc"]))
    )
    assert hashes.tolist() == GOLDEN_HASHES
    assert unit_interval(combine(1, 2, 3)) == pytest.approx(GOLDEN_UNIFORM, abs=0)


GOLDEN_HASHES = [
    9897235953639169013,
    2727811030561505115,
    14087677454934409008,
    9533895564530027538,
]
GOLDEN_UNIFORM = 0.5319382428546512


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_draws_follow_the_power_of_the_counts(alpha):
    counts = np.array([400, 100, 25, 1])
    sampler = Negatives(
        catalog(counts), np.array([5], np.uint64), np.zeros(1, np.int64), np.array([1]), 1, alpha
    )
    drawn = sampler.draw(np.zeros(40_000, np.int64), np.arange(40_000), 1)[:, 0]
    expected = np.array([20, 0, 5, 1]) ** (2 * alpha)
    expected[1] = 0  # the user's own
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.01)


def test_the_power_is_an_option(prepare, tmp_path):
    rows = [
        (user, 1 + (user * 7 + n * n) % (9 if n % 3 else 60), n)
        for user in range(20)
        for n in range(40)
    ]
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    common = ["--columns", "category=", "--split", "last_fraction", "--min_events", "30"]
    runs = {
        name: prepare(path, *common, *more, output=name)
        for name, more in {
            "plain": [],
            "one": ["--negative_alpha", "1"],
            "alike": ["--negative_alpha", "0"],
        }.items()
    }
    digests = {name: run.manifest["digests"] for name, run in runs.items()}
    assert digests["plain"] == digests["one"] != digests["alike"]
    assert digests["plain"]["vocabularies"] == digests["alike"]["vocabularies"]
    assert runs["alike"].sequences.schema.split["negative_alpha"] == 0
    refused = prepare(path, *common, "--negative_alpha", "1.5", output="refused")
    assert refused.code == 2 and "--negative_alpha must be at most 1. Received: 1.5" in refused.err


def test_draws_from_the_group_of_an_item_as_long_as_it_lasts():
    counts = np.array([50, 40, 30, 20, 10, 5])
    group = np.array([1, 2, 1, 2, 1, 2])
    sampler = Negatives(
        catalog(counts),
        np.array([5, 6], np.uint64),
        np.array([0, 0, 0, 1]),
        np.array([0, 1, 3, 4]),
        1,
        group=group,
    )
    users, like = np.repeat([0, 1], 30_000), np.tile([0, 2, 5], 20_000)
    drawn = sampler.draw(users, np.arange(60_000), 2, like)
    for user, near, want in [
        (0, 0, {2: 30 / 40, 4: 10 / 40}),  # the user touched 0, 1, 3; items 2 and 4 are left of 1
        (0, 5, {5: 1.0}),
        (1, 0, {0: 50 / 80, 2: 30 / 80}),
    ]:
        some = drawn[(users == user) & (like == near)]
        share = np.bincount(some[:, 0], minlength=6) / len(some)
        np.testing.assert_allclose(share, [want.get(i, 0) for i in range(6)], atol=0.015)
        assert (some[:, 0] != some[:, 1]).all()
    alone = drawn[(users == 0) & (like == 5)]
    assert set(alone[:, 1].tolist()) == {2, 4}  # nothing more in its group: from all items
    plain = Negatives(
        catalog(counts), np.array([5], np.uint64), np.zeros(1, np.int64), np.array([0]), 1
    )
    grouped = Negatives(
        catalog(counts),
        np.array([5], np.uint64),
        np.zeros(1, np.int64),
        np.array([0]),
        1,
        group=np.ones(6, np.int64),
    )
    requests = np.zeros(50, np.int64), np.arange(50), 3
    np.testing.assert_array_equal(plain.draw(*requests), grouped.draw(*requests, np.full(50, -1)))
    np.testing.assert_array_equal(plain.draw(*requests), grouped.draw(*requests, np.full(50, 2)))


def plain_sessions(rows, gap):
    """Lists the items of every session by user, and the session of every event."""
    items, number_of = [], []
    for number, (user, item, time) in enumerate(rows):
        before = rows[number - 1] if number else None
        if before is None or before[0] != user or time - before[2] > gap:
            items.append([])
        items[-1].append(item)
        number_of.append(len(items) - 1)
    return items, number_of


def test_draws_from_sessions_are_its_other_items():
    random = np.random.default_rng(0)
    rows = sorted(
        (int(random.integers(3)), int(random.integers(-1, 9)), int(random.integers(300)))
        for _ in range(200)
    )
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, time = (np.array(part) for part in zip(*rows))
    items, of = plain_sessions(rows, 5)
    session = sessions(user, time, 5)
    assert session.tolist() == of and 3 < max(map(len, items)) < 60
    event = np.arange(0, 200, 3)
    key = combine(user[event], event, 1)
    drawn = draw_from_sessions(session, item, event, key, 3)
    for target, row in zip(event.tolist(), drawn.tolist()):
        others = set(items[of[target]]) - {int(item[target]), -1}
        chosen = [negative for negative in row if negative >= 0]
        assert set(chosen) <= others and len(set(chosen)) == len(chosen) == min(3, len(others))
    assert (drawn >= 0).any() and (drawn < 0).any()
    alone = np.concatenate(
        [
            draw_from_sessions(session, item, event[i : i + 1], key[i : i + 1], 3)
            for i in range(len(event))
        ]
    )
    np.testing.assert_array_equal(drawn, alone)


@pytest.mark.parametrize("origin", ["category", "session"])
def test_the_source_of_negatives_is_an_option(prepare, log, origin):
    common = (*SMALL, "--coarse_clock")
    plain = prepare(log, *common)
    run = prepare(log, *common, "--negatives_from", origin, "--session_gap", "3", output="run")
    again = prepare(
        log,
        *common,
        "--negatives_from",
        origin,
        "--session_gap",
        "3",
        "--buckets",
        "5",
        "--chunk_bytes",
        "300",
        output="again",
    )
    assert run.code == again.code == 0, run.err
    assert run.manifest["digests"] == again.manifest["digests"]
    assert run.manifest["digests"]["vocabularies"] == plain.manifest["digests"]["vocabularies"]
    assert run.sequences.schema.split["negatives_from"] == origin
    assert "negatives_from" not in plain.sequences.schema.split
    same, total = {}, {}
    for name, outcome in {"plain": plain, "run": run}.items():
        for record in outcome.sequences.records("train"):
            first = np.cumsum(record.target_length) - record.target_length
            clicked = np.repeat(record.target["category"][first], record.target_length)
            others = record.label == 0
            alike = record.target["category"][others] == clicked[others]
            if origin == "session":  # items of the user's own
                alike = np.isin(record.target["item"][others], record.history["item"])
            same[name] = same.get(name, 0) + int(alike.sum())
            total[name] = total.get(name, 0) + int(others.sum())
    assert same["run"] / total["run"] > 2 * same["plain"] / total["plain"]


def test_invalid_sources_of_negatives_are_refused(prepare, log):
    for more, words in [
        (("--negatives_from", "friends"), "--negatives_from: invalid choice: 'friends'"),
        (("--negatives_from", "category", "--columns", "category="), "needs a second feature"),
        (("--session_gap", "-1"), "--session_gap must be at least 0. Received: -1"),
    ]:
        refused = prepare(log, *SMALL, *more, output="refused")
        assert refused.code == 2 and words in refused.err, refused.err
