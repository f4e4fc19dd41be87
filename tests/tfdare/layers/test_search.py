"""Search: which behaviors are kept for each target, each kind against sorting."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import run_doctests, run_layer_test
from tfdare.layers import HashSearch, MatchSearch, TopKSearch, gather_behaviors, newest_first
from tfdare.layers.search import take

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


SCORED = {"scores": floats(2, 3, 5), "history_length": np.array([5, 2], np.int32)}
TARGET = np.array([[2, 3, 9], [4, 5, 2]], np.int32)
HISTORY = np.array([[2, 3, 2, 2, 3], [4, 4, 4, 4, 9]], np.int32)


def by_category(layer, inputs):
    return layer(
        inputs["scores"],
        inputs["history_length"],
        target={"category": inputs["target"]},
        history={"category": inputs["history"]},
    )


LIVES = {
    "TopKSearch": (TopKSearch, {"top_k": 3}, SCORED, None),
    "TopKSearch and the newest": (TopKSearch, {"top_k": 3, "recent": 2}, SCORED, None),
    "MatchSearch": (
        MatchSearch,
        {"top_k": 2, "recent": 1},
        {**SCORED, "target": TARGET, "history": HISTORY},
        by_category,
    ),
    "HashSearch": (
        HashSearch,
        {"top_k": 3, "bits": 8, "seed": 5},
        {**SCORED, "query": floats(2, 3, 4), "key": floats(2, 5, 4)},
        None,
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_search_lives_through_config_trace_fit_and_files(name, tmp_path):
    layer_class, config, inputs, call = LIVES[name]
    run_layer_test(layer_class, config, inputs, tmp_path, call, known=("query", "key"))


@pytest.mark.parametrize("module", ["search", "match_search"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


def test_search_by_hand():
    scores = tf.constant(
        [
            [[5.0, 1, 4, 2, 9], [1, 1, 1, 1, 9]],
            [[-3.0, -1, 9, 9, 9], [-1, -3, 9, 9, 9]],
            [[9.0, 9, 9, 9, 9], [9, 9, 9, 9, 9]],
        ]
    )
    index, score = TopKSearch(3)(scores, tf.constant([4, 2, 0]))
    assert index.dtype == tf.int32 and score.dtype == tf.float32
    assert index.numpy().tolist() == [
        [[0, 2, 3], [0, 1, 2]],
        [[1, 0, -1], [0, 1, -1]],
        [[-1, -1, -1], [-1, -1, -1]],
    ]
    assert score.numpy().tolist() == [
        [[5, 4, 2], [1, 1, 1]],
        [[-1, -3, 0], [-1, -3, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@pytest.mark.parametrize("behaviors", [0, 1, 2])
def test_search_is_as_wide_as_k_over_short_histories(behaviors):
    index, score = TopKSearch(4)(tf.ones([2, 3, behaviors]), tf.constant([behaviors, 0]))
    assert index.shape == score.shape == (2, 3, 4)
    assert index[0, 0].numpy().tolist() == list(range(behaviors)) + [-1] * (4 - behaviors)
    assert index[1, 2].numpy().tolist() == [-1] * 4
    assert score[0, 0].numpy().tolist() == [1.0] * behaviors + [0.0] * (4 - behaviors)


def test_search_ends_with_no_behavior_where_scores_are_the_lowest_number():
    scores = tf.fill([1, 1, 3], tf.float32.min)
    index, _ = TopKSearch(3)(scores, tf.constant([2]))
    assert index.numpy().tolist() == [[[0, 1, -1]]]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    top_k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_search_equals_sorting(lengths, top_k, seed):
    # Few distinct scores, so that ties are common.
    scores = np.random.default_rng(seed).integers(-2, 3, (len(lengths), 2, 9)).astype(np.float32)
    index, score = TopKSearch(top_k)(tf.constant(scores), tf.constant(lengths, tf.int64))
    for u, length in enumerate(lengths):
        for c in range(2):
            row = scores[u, c]
            wanted = sorted(range(length), key=lambda i: (-row[i], i))[:top_k]
            missing = top_k - len(wanted)
            assert index[u, c].numpy().tolist() == wanted + [-1] * missing
            assert score[u, c].numpy().tolist() == [row[i] for i in wanted] + [0.0] * missing


@pytest.mark.parametrize("lengths", [[9, 2], [0, 5]])
def test_gradients_reach_only_the_kept_behaviors(lengths):
    rng = np.random.default_rng(0)
    scores, of = (tf.constant(rng.normal(size=(2, 3, n)).astype(np.float32)) for n in (9, 4))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(scores)
        index, kept = TopKSearch(4)(scores, tf.constant(lengths))
        taken = take(scores, index)
    np.testing.assert_array_equal(taken, kept)
    wanted = np.zeros(scores.shape, np.float32)
    for u, c, k in np.argwhere(index.numpy() >= 0):
        wanted[u, c, index[u, c, k]] += of[u, c, k]
    for result in (kept, taken):
        np.testing.assert_array_equal(tape.gradient(result, scores, of), wanted)


@pytest.mark.parametrize("top_k", [0, -1])
def test_search_refuses_top_k(top_k):
    with pytest.raises(ValueError, match=rf"`top_k` must be positive. Received: top_k={top_k}"):
        TopKSearch(top_k)


def test_newest_first_by_hand():
    history = tf.constant([[11, 12, 13, 99], [21, 99, 98, 97], [96, 95, 94, 93]])
    turned = newest_first(history, tf.constant([3, 1, 0]))
    assert turned.numpy().tolist() == [[13, 12, 11, 99], [21, 99, 98, 97], [96, 95, 94, 93]]
    assert newest_first(history, tf.constant([9, -1, 4])).numpy()[0].tolist() == [99, 13, 12, 11]
    assert newest_first(tf.zeros([2, 0], tf.int32), tf.constant([0, 0])).shape == (2, 0)


def test_gather_behaviors_by_hand():
    history = {"item": tf.constant([[13, 12, 11, 99], [21, 99, 99, 99]])}
    behaviors = gather_behaviors(history, tf.constant([[[0, 2]], [[0, -1]]]))
    assert behaviors["behavior_item"].numpy().tolist() == [[[13, 11]], [[21, 0]]]
    assert behaviors["behavior_position"].numpy().tolist() == [[[1, 3]], [[1, 0]]]


def test_gather_behaviors_of_several_values():
    history = {"tag": tf.constant([[[3, 4], [5, 0], [9, 9]]])}
    behaviors = gather_behaviors(history, tf.constant([[[1, -1, 0]]]))
    assert behaviors["behavior_tag"].numpy().tolist() == [[[[5, 0], [0, 0], [3, 4]]]]


# The newest besides


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    length=st.integers(0, 6),
    behaviors=st.integers(0, 6),
    recent=st.integers(1, 7),
    top_k=st.integers(1, 4),
)
def test_the_newest_fill_slots_of_their_own(length, behaviors, recent, top_k):
    length = min(length, behaviors)
    scores = floats(1, 2, behaviors)
    layer = TopKSearch(top_k, recent)
    assert layer.slots == top_k + recent
    index, score = layer(tf.constant(scores), tf.constant([length]))
    alone = TopKSearch(top_k)(tf.constant(scores), tf.constant([length]))
    np.testing.assert_array_equal(index[..., :top_k], alone[0])
    np.testing.assert_array_equal(score[..., :top_k], alone[1])
    there = min(recent, length)
    missing = recent - there
    for c in range(2):
        assert index[0, c, top_k:].numpy().tolist() == [*range(there), *([-1] * missing)]
        wanted = [*scores[0, c, :there].tolist(), *([0.0] * missing)]
        assert score[0, c, top_k:].numpy().tolist() == wanted


# By an equal value


def test_match_search_by_hand():
    scores = tf.constant([[[5.0, 1, 4, 2, 9]] * 3, [[7.0, 6, 5, 4, 3]] * 3])
    layer = MatchSearch(2, feature="category")
    index, score = layer(
        scores,
        tf.constant([5, 3]),
        target={"category": tf.constant(TARGET)},
        history={"category": tf.constant(HISTORY)},
    )
    # Newest first, whatever the scores; what is found keeps its score.
    assert index.numpy().tolist() == [
        [[0, 2], [1, 4], [-1, -1]],
        [[0, 1], [-1, -1], [-1, -1]],
    ]
    assert score.numpy().tolist() == [
        [[5, 4], [1, 9], [0, 0]],
        [[7, 6], [0, 0], [0, 0]],
    ]


def test_match_search_needs_its_feature():
    ids = {"item": tf.constant([[1]])}
    with pytest.raises(ValueError, match=r"needs the feature 'category'. Received: \['item'\]"):
        MatchSearch(1)(tf.zeros([1, 1, 1]), tf.constant([1]), target=ids, history=ids)


# By hash


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    top_k=st.integers(1, 5),
    bits=st.sampled_from([3, 16, 64]),
    seed=st.integers(0, 10**6),
)
def test_hash_search_equals_the_smallest_hamming_distances(lengths, top_k, bits, seed):
    random = np.random.default_rng(seed)
    users = len(lengths)
    query, key = (random.normal(size=(users, n, 4)).astype(np.float32) for n in (2, 9))
    scores = random.normal(size=(users, 2, 9)).astype(np.float32)
    directions = np.random.default_rng(7).normal(size=(4, bits)).astype(np.float32)
    distance = ((query @ directions >= 0)[:, :, None] != (key @ directions >= 0)[:, None]).sum(-1)
    layer = HashSearch(top_k, bits=bits, seed=7)
    assert layer.needs_embeddings
    index, score = layer(
        tf.constant(scores), tf.constant(lengths), query=tf.constant(query), key=tf.constant(key)
    )
    for u, c in np.ndindex(users, 2):
        wanted = sorted(range(lengths[u]), key=lambda n: (distance[u, c, n], n))[:top_k]
        missing = top_k - len(wanted)
        assert index[u, c].numpy().tolist() == wanted + [-1] * missing
        assert score[u, c].numpy().tolist() == scores[u, c, wanted].tolist() + [0.0] * missing


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_searches_in_half_precision_keep_the_same_behaviors(dtype):
    scores = tf.constant(np.arange(10).reshape(1, 2, 5) % 7, tf.float32)  # exact in either
    query, key = tf.constant(floats(1, 2, 4)), tf.constant(floats(1, 5, 4))
    ids = {"category": tf.constant([[1, 2]])}, {"category": tf.constant([[1, 2, 2, 1, 1]])}
    for layer in (TopKSearch(2, 1), MatchSearch(2, 1), HashSearch(2, 1, bits=64)):
        how = {"target": ids[0], "history": ids[1]}
        wanted, score = layer(scores, tf.constant([4]), query=query, key=key, **how)
        half = type(layer).from_config({**layer.get_config(), "dtype": dtype})
        index, of_half = half(
            tf.cast(scores, dtype),
            tf.constant([4]),
            query=tf.cast(query, dtype),
            key=tf.cast(key, dtype),
            **how,
        )
        np.testing.assert_array_equal(index, wanted)
        np.testing.assert_array_equal(tf.cast(of_half, tf.float32), score)


@pytest.mark.parametrize(
    "make,received",
    [
        (lambda: TopKSearch(2, recent=-1), "recent=-1"),
        (lambda: HashSearch(bits=0), "bits=0"),
    ],
)
def test_wrong_arguments_are_quoted(make, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        make()
