"""Gradients of both heads, which weights they reach, and the loss that adds them."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import learned_dare, randomize, requests, tensors
from tests.reference import Reference
from tfdare.compat import raw
from tfdare.layers import Head
from tfdare.losses import CandidateCrossentropy

pytestmark = pytest.mark.keras


@pytest.fixture(params=["dare", "twin"])
def model(request):
    return request.getfixturevalue(request.param)


def _tables(model):
    embedding = model.embedding
    attention = [*embedding.attention_tables.values(), embedding.attention_position_table]
    representation = [
        *embedding.representation_tables.values(),
        embedding.representation_position_table,
    ]
    return [raw(table) for table in attention], [raw(table) for table in representation]


def test_gradients_are_finite_and_reach_every_weight(model):
    inputs = requests(model.schema, users=4, behaviors=9, lengths=[9, 2, 1, 0], seed=11)
    with tf.GradientTape() as tape:
        outputs = model.forward(tensors(inputs))
        total = tf.reduce_sum(tf.stack(outputs))
    weights = [raw(weight) for weight in model.trainable_weights]
    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all(), weight.name
        assert np.abs(values).max() > 0, weight.name


def test_decoupled_tables_meet_only_in_the_scores(dare):
    inputs = tensors(requests(dare.schema, lengths=[8, 5, 2], seed=12))
    attention, representation = _tables(dare)
    with tf.GradientTape(persistent=True) as tape:
        scores = dare.attend(inputs)
        results = dare.search(inputs)
        through = dare.score(results)
        scores_alone = {name: results[name] for name in ("attention_score", "mean_score")}
        stopped = dare.score({**results, **tf.nest.map_structure(tf.stop_gradient, scores_alone)})
    assert tape.gradient(scores, representation) == [None] * 3
    assert None not in tape.gradient(scores, attention)
    assert tape.gradient(stopped, attention) == [None] * 3
    assert None not in tape.gradient(stopped, representation)
    for gradient in tape.gradient(through, attention):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


def test_a_shared_table_gets_gradients_of_both_sides(twin):
    inputs = tensors(requests(twin.schema, lengths=[8, 5, 2], seed=12))
    attention, representation = _tables(twin)
    assert all(left is right for left, right in zip(attention, representation))
    with tf.GradientTape(persistent=True) as tape:
        scores = twin.attend(inputs)
        results = twin.search(inputs)
        stopped = twin.score(
            {**results, "attention_score": tf.stop_gradient(results["attention_score"])}
        )
    assert None not in tape.gradient(scores, attention)
    assert None not in tape.gradient(stopped, attention)


def test_auxiliary_head_reaches_behaviors_that_search_left_out(dare):
    inputs = requests(dare.schema, users=1, behaviors=8, candidates=1, lengths=[8])
    inputs["history_item"] = np.arange(2, 10, dtype=np.int32)[None]
    inputs["target_item"][:] = 20
    table = raw(dare.embedding.representation_tables["item"])
    with tf.GradientTape(persistent=True) as tape:
        outputs = dare.forward(tensors(inputs))
    rows = [
        set(np.flatnonzero(np.abs(tf.convert_to_tensor(tape.gradient(y, table))).sum(1)).tolist())
        for y in outputs
    ]
    kept = set(
        inputs["history_item"][0][dare.search(inputs)["behavior_index"][0, 0].numpy()].tolist()
    )
    assert rows[0] == kept | {20}
    assert rows[1] == set(range(2, 10)) | {20}


# Loss


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_loss_by_plain_loops(schema, weight):
    model = randomize(
        learned_dare(
            schema,
            top_k=3,
            auxiliary_weight=weight,
            head=Head((6, 4)),
            auxiliary_head=Head((5,), batch_norm=False),
        )
    )
    inputs = requests(schema, users=4, behaviors=8, candidates=3, lengths=[8, 2, 0, 5], seed=13)
    inputs["target_length"] = np.array([3, 1, 2, 3], np.int32)
    label = np.random.default_rng(1).integers(0, 2, (4, 3)).astype(np.float32)
    real = (np.arange(3) < inputs["target_length"][:, None]).astype(np.float32)
    assert (model.auxiliary_head is None) == (weight == 0)
    _, _, main, auxiliary = Reference(model).forward(inputs, training=True)

    def crossentropy(p):
        return -np.sum(real * (label * np.log(p) + (1 - label) * np.log(1 - p))) / real.size

    wanted = crossentropy(main) + weight * crossentropy(auxiliary)
    model.compile(optimizer="sgd", loss=CandidateCrossentropy(), jit_compile=False)
    predicted = model.forward(tensors(inputs), training=True)
    np.testing.assert_allclose(predicted.probability.numpy()[real > 0], main[real > 0], rtol=1e-4)
    loss = model.compute_loss(inputs, tf.constant(label), predicted, tf.constant(real))
    np.testing.assert_allclose(float(loss), wanted, rtol=1e-5)


def test_auxiliary_loss_counts_in_fit_and_not_in_evaluate(schema):
    inputs = requests(schema, users=4, behaviors=8, seed=14)
    label = np.random.default_rng(2).integers(0, 2, (4, 4)).astype(np.float32)
    model = randomize(learned_dare(schema, top_k=3))
    model.compile(
        optimizer=tf.keras.optimizers.SGD(0.0), loss=CandidateCrossentropy(), jit_compile=False
    )
    _, _, main, auxiliary = Reference(model).forward(inputs, training=True)
    _, _, inference, _ = Reference(model).forward(inputs)

    def crossentropy(p):
        return -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))

    assert model.evaluate(inputs, label, verbose=0) == pytest.approx(
        crossentropy(inference), rel=1e-5
    )
    loss = model.fit(inputs, label, batch_size=4, verbose=0).history["loss"]
    assert loss == [pytest.approx(crossentropy(main) + crossentropy(auxiliary), rel=1e-4)]
