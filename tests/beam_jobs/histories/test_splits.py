"""Splits: which events become requests of train, validation and test, and in which order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.histories.splits import ByTime, LastFraction, LeaveLast, cuts, training_period


def positions(protocol, length):
    splits = cuts(protocol, np.array([length]))
    return {split: cut.position.tolist() for split, cut in splits.items()}


def test_leave_last_is_the_papers_protocol():
    requests = positions(LeaveLast(), 210)
    assert requests["test"] == [209]
    assert requests["validation"] == [208]
    assert requests["train"] == [208 - 5 * k for k in range(19, 0, -1)]


@pytest.mark.parametrize(
    "length, train", [(1, []), (2, []), (3, []), (7, []), (8, [1]), (13, [1, 6]), (14, [2, 7])]
)
def test_leave_last_never_goes_below_position_one(length, train):
    assert positions(LeaveLast(), length)["train"] == train


@pytest.mark.parametrize(
    "length, tests, validations",
    [(60, 6, 2), (70, 7, 2), (25, 3, 1), (299, 29, 9), (300, 30, 10), (1000, 30, 10)],
)
def test_last_fraction_counts(length, tests, validations):
    requests = positions(LastFraction(), length)
    assert requests["test"] == list(range(length - tests, length))
    first = length - tests - validations
    assert requests["validation"] == list(range(first, length - tests))
    assert requests["train"] == list(range(20, first, 3))


protocols = st.one_of(
    st.builds(LeaveLast, st.integers(0, 30), st.integers(1, 9)),
    st.builds(
        LastFraction,
        st.floats(0, 0.9),
        st.integers(1, 5),
        st.integers(5, 40),
        st.integers(1, 40),
        st.integers(1, 9),
    ),
)


@given(protocols, st.lists(st.integers(0, 400), min_size=1, max_size=6))
def test_train_comes_before_validation_before_test(protocol, lengths):
    lengths = np.array(lengths)
    requests = cuts(protocol, lengths)
    period = training_period(protocol, lengths)
    for user, length in enumerate(lengths.tolist()):
        train, validation, test = (
            requests[split].position[requests[split].user == user].tolist()
            for split in ("train", "validation", "test")
        )
        together = train + validation + test
        assert together == sorted(set(together))  # train < validation < test, no event twice
        assert all(1 <= position < length for position in together)
        # what is trained on lies in the training period, what is held out does not
        assert all(position < period[user] for position in train)
        assert all(position >= period[user] for position in validation + test)
        if length > 1:
            assert test[-1] == length - 1


@given(protocols, st.lists(st.integers(0, 200), min_size=2, max_size=5))
def test_positions_of_a_user_do_not_depend_on_other_users(protocol, lengths):
    together = cuts(protocol, np.array(lengths))
    for split, requests in together.items():
        alone = [cuts(protocol, np.array([length]))[split].position for length in lengths]
        np.testing.assert_array_equal(requests.position, np.concatenate(alone))
        assert (np.diff(requests.user) >= 0).all()


def test_by_time_splits_at_the_given_times():
    time = np.array([1, 4, 5, 9, 9, 0, 7, 8])
    requests = cuts(ByTime(validation_from=5, test_from=9), np.array([5, 3]), time)
    events = {split: (cut.user * 5 + cut.position).tolist() for split, cut in requests.items()}
    # the first event of a user has no history
    assert events == {"train": [1], "validation": [2, 6, 7], "test": [3, 4]}
    assert training_period(ByTime(5, 9), np.array([5, 3]), time).tolist() == [2, 1]
    assert ByTime(5, 9).split_of(np.array([4, 5, 8, 9])).tolist() == [0, 1, 1, 2]
    thin = cuts(ByTime(100, 200, train_start=2, train_stride=2), np.array([5, 3]), time)
    assert (thin["train"].user * 5 + thin["train"].position).tolist() == [2, 4, 7]
