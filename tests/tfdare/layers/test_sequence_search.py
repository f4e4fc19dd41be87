"""Searches in the order of time: the same behaviors as by score, newest first; three queries."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests, run_layer_test
from tfdare.layers import GranularitySearch, TimeOrderedSearch, TopKSearch
from tfdare.layers.top_k import Blocks

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


SCORED = {"scores": floats(2, 3, 5), "history_length": np.array([5, 2], np.int32)}
LIVES = {
    "TimeOrderedSearch": (TimeOrderedSearch, {"top_k": 3, "recent": 1}, SCORED),
    "GranularitySearch": (
        GranularitySearch,
        {"top_k": 2, "recent": 1, "local": 2},
        {**SCORED, "key": floats(2, 5, 4)},
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_search_lives_through_config_trace_fit_and_files(name, tmp_path):
    run_layer_test(*LIVES[name], tmp_path, known=("key",))


@pytest.mark.parametrize("module", ["time_order", "granularity_search"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


def sorted_slots(indices, score):
    """Sorts slots by index, those without a behavior last."""
    order = np.argsort(np.where(indices < 0, 10**6, indices), axis=-1, kind="stable")
    return np.take_along_axis(indices, order, -1), np.take_along_axis(score, order, -1)


@pytest.mark.parametrize("recent", [0, 2])
def test_time_order_keeps_the_behaviors_and_their_scores(recent):
    scores, length = tf.constant(floats(4, 3, 9)), tf.constant([9, 4, 1, 0])
    by_score = [x.numpy() for x in TopKSearch(3, recent=recent)(scores, length)]
    indices, score = TimeOrderedSearch(3, recent=recent)(scores, length)
    wanted = sorted_slots(*(x[..., :3] for x in by_score))
    np.testing.assert_array_equal(indices[..., :3], wanted[0])
    np.testing.assert_array_equal(score[..., :3], wanted[1])
    np.testing.assert_array_equal(indices[..., 3:], by_score[0][..., 3:])
    np.testing.assert_array_equal(score[..., 3:], by_score[1][..., 3:])


def test_time_order_searches_by_product_too():
    search = TimeOrderedSearch(3)
    assert search.takes_product
    query, key = tf.constant(floats(2, 3, 4)), tf.constant(floats(2, 9, 4))
    blocks = Blocks(9, 6, 3, longest=9)
    length = tf.constant([9, 9])
    indices, score = search.find(query, tf.gather(key, blocks.indices, axis=1), blocks, length)
    wanted = search(tf.matmul(query, key, transpose_b=True), length)
    np.testing.assert_array_equal(indices, wanted[0])
    np.testing.assert_allclose(score, wanted[1], rtol=1e-5)


def test_gradient_reaches_the_scores_kept_and_no_others():
    scores = tf.constant([[[3.0, 1.0, 9.0, 5.0]]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        _, score = TimeOrderedSearch(2)(scores, tf.constant([3]))
        total = tf.reduce_sum(score * [10.0, 20.0])
    assert tape.gradient(total, scores).numpy().tolist() == [[[10.0, 0.0, 20.0, 0.0]]]


def test_three_queries_against_sorting():
    scores, key = floats(3, 2, 8), floats(3, 8, 4)
    lengths = [8, 5, 0]
    indices, score = GranularitySearch(2, recent=1, local=3)(
        tf.constant(scores), tf.constant(lengths), key=tf.constant(key)
    )
    assert indices.shape == score.shape == (3, 2, 7)
    for u, length in enumerate(lengths):
        keys = key[u, :length]
        for c in range(2):
            ranks = [scores[u, c, :length]]
            for newest in (3, 8):
                mean = keys[:newest].mean(0) if length else np.zeros(4)
                ranks.append(keys @ mean)
            wanted = []
            for rank in ranks:
                best = sorted(np.argsort(-rank, kind="stable")[:2].tolist())
                wanted += best + [-1] * (2 - len(best))
            wanted.append(0 if length else -1)
            assert indices[u, c].numpy().tolist() == wanted
            kept = np.where(np.array(wanted) >= 0, scores[u, c, np.maximum(wanted, 0)], 0)
            np.testing.assert_array_equal(score[u, c], kept)


def test_padding_changes_no_query():
    search = GranularitySearch(2, local=3)
    scores, key, length = floats(2, 3, 6), floats(2, 6, 4), tf.constant([4, 1])
    clean = search(tf.constant(scores), length, key=tf.constant(key))
    beyond = np.arange(6) >= np.array([[4], [1]])
    scores = np.where(beyond[:, None], 1e6, scores).astype(np.float32)
    key = np.where(beyond[..., None], 1e6, key).astype(np.float32)
    dirty = search(tf.constant(scores), length, key=tf.constant(key))
    for actual, expected in zip(dirty, clean):
        np.testing.assert_array_equal(actual, expected)


def test_wrong_arguments_are_quoted():
    with pytest.raises(ValueError, match="`local` must be positive. Received: local=0"):
        GranularitySearch(2, local=0)
    with pytest.raises(ValueError, match="Received: top_k=0"):
        GranularitySearch(0)
