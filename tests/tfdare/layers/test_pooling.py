"""Weighting, pooling and evidence layers: from the results of search to the head's input."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests, run_layer_test, tiny_schema
from tfdare.compat import raw
from tfdare.layers import (
    AffinityFacts,
    Average,
    DecoupledEmbedding,
    MatchCounts,
    MultiHeadPooling,
    PlainPooling,
    Recent,
    ScoreFacts,
    ScoreSum,
    Sum,
    TargetAwarePooling,
)
from tfdare.layers.pooling import pool_and_compare, pool_shared

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


SCORES = floats(2, 3, 5)
REAL = np.array([[[True] * 5] * 3, [[True, False, False, True, False]] * 3])
FOUND = {
    "target": floats(2, 3, 4),
    "behaviors": floats(2, 3, 5, 4),
    "scores": SCORES,
    "real": REAL,
}
WEIGHED = {"scores": SCORES, "real": REAL}
TOP_K = 3


def with_top_k(layer, inputs):
    return layer(**inputs, top_k=TOP_K)


def over_items(layer, inputs):
    return layer(
        {"item": inputs["target_item"]},
        {"item": inputs["behavior_item"]},
        inputs["scores"],
        inputs["real"],
        top_k=TOP_K,
        affinity=inputs["scores"],
    )


ITEMS = {
    "target_item": np.array([[3, 4, 5], [3, 4, 5]], np.int32),
    "behavior_item": RNG.integers(3, 6, (2, 3, 5)).astype(np.int32),
}
LIVES = {
    "Average": (Average, {}, WEIGHED, with_top_k),
    "Sum": (Sum, {"scale": 2.0}, WEIGHED, with_top_k),
    "ScoreSum": (ScoreSum, {}, WEIGHED, with_top_k),
    "Recent": (Recent, {}, WEIGHED, with_top_k),
    "TargetAwarePooling": (TargetAwarePooling, {}, FOUND, with_top_k),
    "PlainPooling": (PlainPooling, {"weightings": [Average(), Sum(), Recent()]}, FOUND, with_top_k),
    "MultiHeadPooling": (
        MultiHeadPooling,
        {"heads": 2, "head_dim": 3, "recent": True},
        FOUND,
        with_top_k,
    ),
    "MatchCounts": (MatchCounts, {}, {**WEIGHED, **ITEMS}, over_items),
    "ScoreFacts": (ScoreFacts, {}, {**WEIGHED, **ITEMS}, over_items),
    "AffinityFacts": (AffinityFacts, {}, {**WEIGHED, **ITEMS}, over_items),
}


@pytest.mark.parametrize("name", LIVES)
def test_pooling_lives_through_config_trace_fit_and_files(name, tmp_path):
    layer_class, config, inputs, call = LIVES[name]
    run_layer_test(layer_class, config, inputs, tmp_path, call, known=("target", "behaviors"))


@pytest.mark.parametrize("module", ["weighting", "pooling", "evidence"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


# Weightings


def weigh(layer, scores, real, top_k=TOP_K):
    weights = layer(tf.constant([[scores]], tf.float32), tf.constant([[real]]), top_k=top_k)
    return weights[0, 0].numpy().tolist()


def test_weightings_by_hand():
    scores = np.log([1.0, 3, 9, 2, 6]).tolist()
    everything, some = [True] * 5, [True, True, False, False, True]
    assert weigh(Average(), scores, everything) == pytest.approx([1 / 13, 3 / 13, 9 / 13, 0, 0])
    assert weigh(Average(), scores, some) == pytest.approx([0.25, 0.75, 0, 0, 0])
    assert weigh(Recent(), scores, everything) == pytest.approx([0, 0, 0, 0.25, 0.75])
    assert weigh(Recent(), scores, some) == pytest.approx([0, 0, 0, 0, 1])
    # sigmoid(log x - b) = x / (x + e^b)
    assert weigh(Sum(), scores, some) == pytest.approx([1 / 2, 3 / 4, 0, 0, 0])
    layer = Sum(scale=2.0)
    layer.build()
    layer.set_weights([np.float32(np.log(3))])
    assert weigh(layer, scores, everything) == pytest.approx([1 / 8, 3 / 12, 9 / 24, 0, 0])
    assert weigh(ScoreSum(), [1, -2, 5, 7, 9], some) == [1, -2, 0, 0, 0]


@pytest.mark.parametrize("layer", [Average(), Sum(), ScoreSum(), Recent()])
def test_what_is_not_real_has_no_weight_and_no_gradient(layer):
    garbage = np.where(REAL, SCORES, np.float32(3e38))
    scores = tf.constant(garbage)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        weights = layer(scores, tf.constant(REAL), top_k=TOP_K)
        total = tf.reduce_sum(weights**2)
    searched = np.arange(5) < TOP_K
    meant = REAL & (~searched if isinstance(layer, Recent) else searched)
    assert (weights.numpy()[~meant] == 0).all() and (weights.numpy()[meant] != 0).all()
    gradient = tape.gradient(total, scores).numpy()
    assert np.isfinite(gradient).all() and (gradient[~meant] == 0).all()
    nothing = layer(scores, tf.zeros_like(REAL), top_k=TOP_K)
    assert not nothing.numpy().any()


# Poolings that add up


def test_pooling_by_hand():
    target = tf.constant([[[1.0, 2.0], [-1.0, 0.0]]])
    behaviors = tf.constant([[[[4.0, 8.0], [0.0, 4.0], [7.0, 7.0]]] * 2])
    scores = tf.math.log(tf.constant([[[1.0, 3.0, 2.0], [5.0, 1.0, 9.0]]]))
    real = tf.constant([[[True, True, True], [True, False, True]]])
    arguments = target, behaviors, scores, real
    # 1/4, 3/4 of the two searched for; then the first alone. The newest is the third.
    sums = [[[1, 5], [4, 8]]]
    products = [[[1, 10], [-4, 0]]]
    wanted = np.concatenate([target, sums, products], -1)
    np.testing.assert_allclose(TargetAwarePooling()(*arguments, top_k=2), wanted, rtol=1e-6)
    np.testing.assert_allclose(PlainPooling()(*arguments, top_k=2), wanted[..., :4], rtol=1e-6)
    both = TargetAwarePooling([Average(), Recent()])(*arguments, top_k=2).numpy()
    newest = [[[7, 7], [7, 7]]]
    np.testing.assert_allclose(
        both, np.concatenate([wanted, newest, newest * target.numpy()], -1), rtol=1e-6
    )


@pytest.mark.parametrize(
    "layer",
    [
        TargetAwarePooling(),
        PlainPooling([Sum(), Average()]),
        MultiHeadPooling(2, 3),
        MultiHeadPooling(1, 2, target_aware=False, recent=True),
    ],
)
def test_output_dim_is_the_width_and_permuted_candidates_permute(layer):
    layer.build((None, None, 4))
    outputs = layer(**{k: tf.constant(v) for k, v in FOUND.items()}, top_k=TOP_K)
    assert outputs.shape == (2, 3, layer.output_dim(4))
    order = [2, 0, 1]
    moved = layer(**{k: tf.constant(v[:, order]) for k, v in FOUND.items()}, top_k=TOP_K)
    np.testing.assert_allclose(moved, outputs.numpy()[:, order], rtol=1e-5, atol=1e-6)


def test_pooling_of_a_shared_history_equals_each_candidates_own():
    behaviors, positions = floats(2, 5, 4), floats(5, 3)
    weights = tf.constant(floats(2, 3, 5))
    whole = np.concatenate([behaviors, np.broadcast_to(positions, (2, 5, 3))], -1)
    np.testing.assert_allclose(
        pool_shared(weights, [tf.constant(behaviors), tf.constant(positions)]),
        np.einsum("uqn,und->uqd", weights, whole),
        rtol=1e-5,
        atol=1e-6,
    )


def test_pooling_and_comparing_at_once_equals_one_after_the_other():
    weights, target = tf.constant(floats(2, 3, 5)), tf.constant(floats(2, 2, 7))
    parts = [tf.constant(floats(2, 5, 4)), tf.constant(floats(5, 3))]
    factors = floats(2, 3, 7), floats(2, 2, 5)

    def apart():
        whole = tf.concat([parts[0], tf.broadcast_to(parts[1], (2, 5, 3))], axis=-1)
        return tf.matmul(weights, whole), tf.matmul(target, whole, transpose_b=True)

    results, gradients = [], []
    for compute in (lambda: pool_and_compare(weights, target, parts), apart):
        with tf.GradientTape() as tape:
            tape.watch([weights, target, parts])
            outputs = compute()
            total = sum(tf.reduce_sum(output * factor) for output, factor in zip(outputs, factors))
        results.append(outputs)
        gradients.append(tape.gradient(total, [weights, target, *parts]))
    for actual, expected in zip(results[0] + tuple(gradients[0]), results[1] + tuple(gradients[1])):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


# Heads


def plain_heads(layer, kernels, target, behaviors, real):
    """Computes one head at a time, one behavior at a time."""
    query, key, value, output = (
        raw(kernels[name]).numpy() for name in ("query", "key", "value", "output")
    )
    width, pooled = layer.head_dim, []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        scores = [
            np.exp(target @ query[:, part] @ (b @ key[:, part]) / np.sqrt(width)) if there else 0
            for b, there in zip(behaviors, real)
        ]
        total = sum(scores)
        pooled.append(
            sum(
                (s / total * (b @ value[:, part]) for s, b in zip(scores, behaviors) if s),
                np.zeros(width),
            )
        )
    return np.concatenate(pooled) @ output


@pytest.mark.parametrize("recent", [False, True])
def test_heads_equal_plain_loops(recent):
    layer = MultiHeadPooling(heads=2, head_dim=3, recent=recent)
    layer.build((None, None, 4))
    layer.set_weights([floats(*weight.shape) for weight in layer.weights])
    outputs = layer(**{k: tf.constant(v) for k, v in FOUND.items()}, top_k=TOP_K).numpy()
    parts = [slice(None, TOP_K), slice(TOP_K, None)][: 1 + recent]
    for u, c in np.ndindex(2, 3):
        target, wanted = FOUND["target"][u, c], [FOUND["target"][u, c]]
        for kernels, part in zip(layer.attentions, parts):
            h = plain_heads(
                layer, kernels, target, FOUND["behaviors"][u, c, part], REAL[u, c, part]
            )
            wanted += [h, target * h]
        np.testing.assert_allclose(outputs[u, c], np.concatenate(wanted), rtol=1e-4, atol=1e-5)
    assert (len(layer.weights), layer.output_dim(4)) == ((8, 20) if recent else (4, 12))


@pytest.mark.parametrize(
    "layer", [TargetAwarePooling([Average(), Recent()]), MultiHeadPooling(2, 3, recent=True)]
)
def test_padding_garbage_changes_nothing(layer):
    layer.build((None, None, 4))
    inputs = {k: tf.constant(v) for k, v in FOUND.items()}
    outputs = layer(**inputs, top_k=TOP_K)
    inputs["behaviors"] = tf.where(REAL[..., np.newaxis], inputs["behaviors"], 1e6)
    inputs["scores"] = tf.where(REAL, inputs["scores"], 1e6)
    np.testing.assert_array_equal(layer(**inputs, top_k=TOP_K), outputs)
    inputs["real"] = tf.zeros_like(REAL)
    np.testing.assert_array_equal(
        layer(**inputs, top_k=TOP_K)[..., 4:], np.zeros((2, 3, layer.output_dim(4) - 4))
    )


# Evidence


def test_match_counts_leave_out_padding_the_newest_and_several_values():
    target = {"item": tf.constant([[7, 8]]), "tag": tf.constant([[[1, 2], [1, 2]]])}
    behaviors = {
        "item": tf.constant([[[7, 7, 8, 7], [7, 8, 8, 8]]]),
        "tag": tf.zeros([1, 2, 4, 2], tf.int32),
    }
    real = tf.constant([[[True, True, True, True], [True, False, True, True]]])
    counts = MatchCounts()(target, behaviors, tf.zeros([1, 2, 4]), real, top_k=3)
    np.testing.assert_allclose(counts, np.log1p([[[2], [1]]]), rtol=1e-6)
    unknown = {"item": tf.constant([[1, 0]])}, {"item": tf.constant([[[1] * 4, [0] * 4]])}
    nothing = MatchCounts()(*unknown, tf.zeros([1, 2, 4]), real, top_k=3)
    assert not nothing.numpy().any()  # ids out of vocabulary match nothing
    assert MatchCounts().output_dim(DecoupledEmbedding(tiny_schema())) == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("layer_class", [ScoreFacts, AffinityFacts])
def test_facts_by_hand_and_finite(layer_class, dtype):
    lowest, top = float(tf.as_dtype(dtype).min), 8.0
    scores = tf.constant([[[top, top, lowest, 100], [lowest, -4, 1, 1], [5, 5, 5, 5]]], dtype)
    real = tf.constant([[[True] * 4, [False, True, False, True], [False] * 4]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        inputs = {"scores": scores, "affinity": None}
        if layer_class is AffinityFacts:  # the scores do not matter
            inputs = {"scores": tf.zeros_like(scores), "affinity": scores}
        facts = layer_class(dtype=dtype)(target={}, behaviors={}, real=real, top_k=3, **inputs)
        total = tf.reduce_sum(facts)
    wanted = [[[8, 8 + np.log(2)], [-4, -4], [0, 0]]]
    np.testing.assert_allclose(tf.cast(facts, tf.float32), wanted, rtol=1e-2, atol=1e-3)
    assert np.isfinite(tf.cast(tape.gradient(total, scores), tf.float32)).all()


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Sum(scale=0), "`scale` must be positive. Received: scale=0"),
        (lambda: TargetAwarePooling([]), r"must not be empty. Received: \[\]"),
        (lambda: MultiHeadPooling(heads=0), "Received: heads=0"),
        (lambda: MultiHeadPooling(head_dim=-2), "Received: head_dim=-2"),
    ],
)
def test_wrong_arguments_are_quoted(make, message):
    with pytest.raises(ValueError, match=message):
        make()
