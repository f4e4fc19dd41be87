"""Attention: scores of every behavior for every target, each kind against plain loops."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import run_doctests, run_layer_test
from tfdare.compat import raw
from tfdare.layers import (
    ClusterAttention,
    CollisionAttention,
    MLPAttention,
    ScaledDotAttention,
    masked_softmax,
)
from tfdare.layers.hashing import hash_bits

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


CATEGORY = np.array([[2, 3, 2, 2, 3], [4, 4, 9, 9, 9]], np.int32)
LENGTH = np.array([5, 2], np.int32)
BOTH = {"query": floats(2, 3, 4), "key": floats(2, 5, 4)}
SCORED = {**BOTH, "position_score": floats(2, 1, 5)}


def over_categories(layer, inputs):
    inputs = dict(inputs)
    return layer(**{**inputs, "history": {"category": inputs.pop("category")}})


LIVES = {
    "ScaledDotAttention": (ScaledDotAttention, {}, SCORED, None),
    "MLPAttention": (MLPAttention, {"units": 3}, SCORED, None),
    # So many groups that every pair collides: a loss over the lowest number is not finite.
    "CollisionAttention": (CollisionAttention, {"groups": 40, "width": 1}, BOTH, None),
    "ClusterAttention": (
        ClusterAttention,
        {"size": 2, "attention": MLPAttention(units=3)},
        {**SCORED, "category": CATEGORY, "history_length": LENGTH},
        lambda layer, inputs: layer(
            **{k: v for k, v in inputs.items() if k != "category"},
            history={"category": inputs["category"]},
        ),
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_attention_lives_through_config_trace_fit_and_files(name, tmp_path):
    layer_class, config, inputs, call = LIVES[name]
    run_layer_test(layer_class, config, inputs, tmp_path, call, known=("query", "key"))


@pytest.mark.parametrize("module", ["attention", "mlp_attention"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


def test_attention_by_hand():
    query = tf.constant([[[1.0, 2, 3, 4], [0, 0, 0, 2]]])
    key = tf.constant([[[1.0, 1, 1, 1], [0, 1, 0, -1], [2, 0, 0, 0]]])
    # Inner products over sqrt(4).
    assert ScaledDotAttention()(query, key).numpy().tolist() == [[[5, -1, 1], [1, -1, 0]]]
    position = tf.constant([[10.0, 20.0, 30.0]])
    assert ScaledDotAttention()(query, key, position).numpy().tolist() == [
        [[15, 19, 31], [11, 19, 30]]
    ]


def test_masked_softmax_by_hand():
    scores = tf.math.log(tf.constant([[1.0, 3.0, 100.0], [2.0, 2.0, 4.0]]))
    mask = tf.constant([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(
        masked_softmax(scores, mask), [[0.25, 0.75, 0], [0.25, 0.25, 0.5]], rtol=1e-6
    )


def test_masked_softmax_of_nothing_is_zero():
    weights = masked_softmax(tf.constant([[1.0, 2.0]]), tf.constant([[False, False]]))
    assert weights.numpy().tolist() == [[0.0, 0.0]]
    assert masked_softmax(tf.zeros([2, 0]), tf.zeros([2, 0], tf.bool)).shape.as_list() == [2, 0]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("kept", [[True, True, False], [True, False, False], [False] * 3])
def test_masked_softmax_is_finite_at_the_ends_of_every_dtype(dtype, kept):
    largest = float(dtype.max)
    scores = tf.constant([[largest, -largest, largest]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        weights = masked_softmax(scores, tf.constant([kept]))
        first = weights[0, 0]
    assert np.isfinite(tf.cast(weights, tf.float64)).all()
    assert np.isfinite(tf.cast(tape.gradient(first, scores), tf.float64)).all()
    assert float(tf.reduce_sum(tf.cast(weights, tf.float32))) == float(any(kept))


def test_masked_softmax_ignores_what_lies_under_the_mask():
    mask = tf.constant([[True, False, True, False]])
    clean = masked_softmax(tf.constant([[0.5, 0.0, 1.5, 0.0]]), mask)
    dirty = masked_softmax(tf.constant([[0.5, np.inf, 1.5, np.nan]]), mask)
    np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize("behaviors", [5, 70])  # by hand, and by the fused kernel
def test_masked_softmax_has_the_gradient_of_its_formula(behaviors):
    rng = np.random.default_rng(behaviors)
    scores = tf.constant(rng.normal(size=(3, 2, behaviors)).astype(np.float32))
    mask = tf.constant(rng.random((3, 1, behaviors)) < [[[0.7]], [[0.3]], [[0.0]]])
    above = tf.constant(rng.normal(size=(3, 2, behaviors)).astype(np.float32))

    def formula(scores, mask):
        exponents = tf.exp(scores) * tf.cast(mask, tf.float32)
        return tf.math.divide_no_nan(exponents, tf.reduce_sum(exponents, axis=-1, keepdims=True))

    results = []
    for softmax in (masked_softmax, formula):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            weights = softmax(scores, mask)
        results.append((weights, tape.gradient(weights, scores, above)))
    for actual, wanted in zip(*results):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)
    assert np.abs(results[0][1]).max() > 0.05


def test_parts_add_up_to_the_whole():
    parts = [floats(2, 3, 4), floats(2, 3, 1)], [floats(2, 5, 4), floats(2, 5, 1)]
    whole = [np.concatenate(side, -1) for side in parts]
    for layer in (ScaledDotAttention(), CollisionAttention(), MLPAttention()):
        layer.build((None, None, 5))
        apart = layer(*([tf.constant(part) for part in side] for side in parts))
        np.testing.assert_allclose(apart, layer(*map(tf.constant, whole)), rtol=1e-5, atol=1e-6)


# A network


def test_mlp_equals_the_network_over_four_parts_side_by_side():
    layer = MLPAttention(units=6)
    layer.build((None, None, 4))
    layer.set_weights([floats(*weight.shape) for weight in layer.weights])
    kernel, bias, slope, logit = (raw(weight).numpy() for weight in layer.weights)
    query, key = SCORED["query"], SCORED["key"]
    wanted = np.zeros((2, 3, 5))
    for u, c, n in np.ndindex(2, 3, 5):
        q, k = query[u, c], key[u, n]
        hidden = np.concatenate([q, k, q - k, q * k]) @ kernel + bias
        wanted[u, c, n] = (np.where(hidden > 0, hidden, slope * hidden) @ logit)[0]
    scores = layer(tf.constant(query), tf.constant(key))
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)
    offset = tf.constant(SCORED["position_score"])
    np.testing.assert_allclose(
        layer(tf.constant(query), tf.constant(key), offset), scores + offset, rtol=1e-5
    )


# Collisions


def test_collisions_equal_counting():
    layer = CollisionAttention(groups=7, width=2, seed=3)
    query, key = floats(2, 3, 4), floats(2, 40, 4)
    key[0, 0] = 3 * query[0, 0]  # points the same way: all groups agree
    key[0, 1] = -query[0, 0]  # the other way: none
    directions = np.random.default_rng(3).normal(size=(4, 14)).astype(np.float32)

    def groups(vectors):
        return (vectors @ directions >= 0).reshape(*vectors.shape[:-1], 7, 2)

    of_query, of_key = groups(query)[:, :, None], groups(key)[:, None]
    counts = (of_query == of_key).all(-1).sum(-1)
    assert counts[0, 0, 0] == 7 and counts[0, 0, 1] == 0 and len(np.unique(counts)) > 4
    scores = layer(tf.constant(query), tf.constant(key)).numpy()
    np.testing.assert_allclose(scores[counts > 0], np.log(counts[counts > 0]), rtol=1e-5)
    assert (scores[counts == 0] == np.finfo(np.float32).min).all()
    # So a softmax weighs by collisions, and what never collides not at all.
    weights = masked_softmax(tf.constant(scores), tf.constant(True))
    np.testing.assert_allclose(weights, counts / counts.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_scores_without_collisions_are_finite_in_every_dtype(dtype):
    layer = CollisionAttention(groups=2, width=3, dtype=dtype)
    key = tf.cast(tf.constant(-BOTH["query"]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(key)
        scores = layer(tf.cast(BOTH["query"], dtype), key)
        weights = masked_softmax(scores, tf.constant(True))
        total = tf.reduce_sum(weights * key[:, tf.newaxis, :, 0])
    opposite = tf.linalg.diag_part(weights)
    assert float(tf.reduce_max(opposite)) == 0
    assert np.isfinite(tf.cast(weights, tf.float32)).all()
    assert np.isfinite(tf.cast(tape.gradient(total, key), tf.float32)).all()


def test_hash_is_the_same_in_every_process_and_differs_by_seed():
    vectors = tf.constant([[1.0, 2, -3, 0.5, -1], [2, 4, -6, 1, -2], [-1, -2, 3, -0.5, 1]])
    bits = hash_bits(vectors, 16, seed=0).numpy()
    assert set(np.unique(bits)) == {-1.0, 1.0}
    directions = np.random.default_rng(0).normal(size=(5, 16))
    np.testing.assert_array_equal(bits > 0, vectors.numpy() @ directions >= 0)
    np.testing.assert_array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], -bits[2])
    assert (bits != hash_bits(vectors, 16, seed=1).numpy()).any()


# Clusters


def plain_clusters(values, length, size):
    """Lists the members of each cluster, filled in the order of the history."""
    clusters, latest = [], {}
    for index in range(len(values)):
        value = values[index] if index < length else "padding"
        if value not in latest or len(latest[value]) == size:
            latest[value] = []
            clusters.append(latest[value])
        latest[value].append(index)
    return clusters


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 4),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
)
def test_clusters_equal_plain_loops(size, lengths, seed):
    random = np.random.default_rng(seed)
    users = len(lengths)
    values = random.integers(0, 3, (users, 9)).astype(np.int32)
    query, key = (random.normal(size=(users, n, 4)).astype(np.float32) for n in (2, 9))
    layer = ClusterAttention(size)
    number = layer.clusters(tf.constant(values), tf.constant(lengths)).numpy()
    single = ScaledDotAttention()(tf.constant(query), tf.constant(key)).numpy()
    scores = layer(
        tf.constant(query),
        tf.constant(key),
        history={"category": tf.constant(values)},
        history_length=tf.constant(lengths),
    ).numpy()
    assert number.min() >= 0 and number.max() < 9
    for u, length in enumerate(lengths):
        clusters = plain_clusters(values[u], length, size)
        by_number = {}
        for index, cluster in enumerate(number[u]):
            by_number.setdefault(cluster, []).append(index)
        assert sorted(by_number.values()) == sorted(clusters)
        for members in clusters:
            mean = single[u][:, members].mean(1, keepdims=True)
            np.testing.assert_allclose(
                scores[u][:, members], np.repeat(mean, len(members), 1), rtol=1e-4, atol=1e-5
            )


def test_a_cluster_scores_as_its_mean_embedding_and_weighs_by_its_size():
    query, key = tf.constant(floats(1, 1, 4)), tf.constant(floats(1, 3, 4))
    scores = ClusterAttention(2)(
        query, key, history={"category": tf.constant([[7, 5, 7]])}, history_length=tf.constant([3])
    )
    centers = tf.stack([(key[:, 0] + key[:, 2]) / 2, key[:, 1]], axis=1)
    of_centers = ScaledDotAttention()(query, centers) + np.log([2, 1]).astype(np.float32)
    weights, by_cluster = (tf.nn.softmax(s, axis=-1).numpy()[0, 0] for s in (scores, of_centers))
    np.testing.assert_allclose([weights[0] + weights[2], weights[1]], by_cluster, rtol=1e-5)


def test_clusters_need_their_feature_and_a_size():
    with pytest.raises(ValueError, match=r"need the feature 'category'. Received: \['item'\]"):
        ClusterAttention()(tf.ones([1, 1, 2]), tf.ones([1, 1, 2]), history={"item": [[1]]})
    with pytest.raises(ValueError, match="`size` must be positive. Received: size=0"):
        ClusterAttention(size=0)


# Gradients and arguments


@pytest.mark.parametrize("layer", [ScaledDotAttention(), MLPAttention(3), ClusterAttention(2)])
def test_gradients_are_finite_and_reach_both_sides(layer):
    query, key = tf.constant(BOTH["query"]), tf.constant(BOTH["key"])
    layer.build((None, None, 4))
    with tf.GradientTape() as tape:
        tape.watch([query, key])
        scores = layer(
            query,
            key,
            history={"category": tf.constant(CATEGORY)},
            history_length=tf.constant(LENGTH),
        )
        total = tf.reduce_sum(scores**2)
    weights = [raw(weight) for weight in layer.trainable_weights]
    for gradient in tape.gradient(total, [query, key, *weights]):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    "make,received",
    [
        (lambda: MLPAttention(units=0), "units=0"),
        (lambda: CollisionAttention(groups=0), "groups=0"),
        (lambda: CollisionAttention(width=-1), "width=-1"),
    ],
)
def test_wrong_arguments_are_quoted(make, received):
    with pytest.raises(ValueError, match=f"must be positive. Received: {received}"):
        make()
