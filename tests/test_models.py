import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import (
    assert_same,
    cut,
    flat,
    randomize,
    requests,
    run_doctests,
    shared_schema,
    tensors,
    tiny_schema,
)
from tfdare.compat import raw
from tfdare.layers import DecoupledEmbedding, Head, TopKSearch
from tfdare.losses import CandidateCrossentropy
from tfdare.models import DARE, MODELS, TWIN, TwoStageModel, build_model
from tfdare.schema import Feature, Position, Schema, SchemaError


@pytest.fixture(params=["dare", "twin"])
def model(request):
    return request.getfixturevalue(request.param)


# An independent forward pass: plain loops over numpy, float64.


class Reference:
    """What the paper says, one behavior at a time."""

    def __init__(self, model):
        self.schema, self.top_k = model.schema, model.search_layer.top_k
        embedding = model.embedding
        self.attention = {k: _array(v) for k, v in embedding.attention_tables.items()}
        self.representation = {k: _array(v) for k, v in embedding.representation_tables.items()}
        self.time_attention = _array(embedding.attention_position_table)
        self.time_representation = _array(embedding.representation_position_table)
        self.head, self.auxiliary_head = model.head, model.auxiliary_head

    def bucket(self, distance):
        position = self.schema.position
        if distance <= position.exact:
            return distance
        beyond = math.log2(min(distance, self.schema.window) / position.exact)
        return position.exact + math.ceil(round(beyond * position.per_octave, 9))

    def score(self, behavior, distance, target):
        inner = sum(self.attention[f][behavior[f]] @ self.attention[f][target[f]] for f in target)
        columns = sum(self.attention[f].shape[1] for f in target)
        time = self.time_attention[self.bucket(distance)] @ self.time_attention[0]
        return inner / math.sqrt(columns) + time / math.sqrt(self.time_attention.shape[1])

    def represent(self, one, distance):
        parts = [self.representation[f][one[f]] for f in self.schema.names]
        return np.concatenate([*parts, self.time_representation[self.bucket(distance)]])

    def pooled(self, target, behaviors, chosen, scores):
        v = self.represent(target, 0)
        h = np.zeros_like(v)
        if chosen:
            exponents = np.exp([scores[i] - max(scores[j] for j in chosen) for i in chosen])
            for i, w in zip(chosen, exponents / exponents.sum()):
                h += w * self.represent(behaviors[i], len(behaviors) - i)
        return np.concatenate([v, h, v * h])

    def forward(self, made, training=False):
        """Search's answers, and both heads' probabilities."""
        users, candidates = made["target_item"].shape
        indexes = np.full((users, candidates, self.top_k), -1)
        kept = np.zeros((users, candidates, self.top_k))
        inputs, whole = [], []
        for u in range(users):
            behaviors = [
                {f: made[f"history_{f}"][u, i] for f in self.schema.names}
                for i in range(made["history_length"][u])
            ]
            for c in range(candidates):
                target = {f: made[f"target_{f}"][u, c] for f in self.schema.names}
                n = len(behaviors)
                scores = [self.score(b, n - i, target) for i, b in enumerate(behaviors)]
                chosen = sorted(range(n), key=lambda i: (-scores[i], -i))[: self.top_k]
                indexes[u, c, : len(chosen)] = chosen
                kept[u, c, : len(chosen)] = [scores[i] for i in chosen]
                inputs.append(self.pooled(target, behaviors, chosen, scores))
                whole.append(self.pooled(target, behaviors, list(range(n)), scores))
        lengths = made.get("target_length", np.full(users, candidates))
        real = (np.arange(candidates) < lengths[:, None]).ravel() if training else None
        shape = (users, candidates)
        return (
            indexes,
            kept,
            _predict(self.head, np.array(inputs), real).reshape(shape),
            _predict(self.auxiliary_head, np.array(whole), None).reshape(shape),
        )


def _array(weight):
    return raw(weight).numpy().astype(np.float64)


def _predict(head, x, batch_of):
    """`batch_of`: rows whose statistics normalize, None for the moving ones."""
    if head is None:
        return np.full(len(x), 0.5)
    if head.norm is not None:
        norm = head.norm
        mean, variance = _array(norm.moving_mean), _array(norm.moving_variance)
        if batch_of is not None:
            mean, variance = x[batch_of].mean(0), x[batch_of].var(0)
        x = (x - mean) / np.sqrt(variance + 1e-3) * _array(norm.gamma) + _array(norm.beta)
    for dense, slope in zip(head.hidden, head.slopes):
        x = x @ _array(dense.kernel) + _array(dense.bias)
        x = np.where(x > 0, x, x * _array(slope.alpha).reshape(-1))
    logit = x @ _array(head.logit.kernel) + _array(head.logit.bias)
    return 1 / (1 + np.exp(-logit[:, 0]))


@pytest.mark.parametrize("behaviors,seed", [(8, 0), (12, 1), (2, 2), (0, 3)])
def test_model_equals_plain_loops(model, behaviors, seed):
    made = requests(model.schema, users=4, behaviors=behaviors, candidates=3, seed=seed)
    index, score, probability, whole = Reference(model).forward(made)
    found = model.search(made)
    np.testing.assert_array_equal(found["behavior_index"], index)
    np.testing.assert_allclose(found["attention_score"], score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(made), probability, rtol=1e-5)
    outputs = model.forward(tensors(made))
    np.testing.assert_allclose(outputs.probability, probability, rtol=1e-5)
    np.testing.assert_allclose(outputs.auxiliary_probability, whole, rtol=1e-5)


def test_score_scales_features_and_position_apart():
    schema = Schema(
        (Feature("item", 4, 3, 1), Feature("category", 3, 1, 1)), 2,
        position=Position(exact=2, attention_dim=4, representation_dim=0),
    )
    model = DARE(schema, top_k=1)
    embedding = model.embedding
    raw(embedding.attention_tables["item"]).assign([[0] * 3, [0] * 3, [1, 2, 3], [4, 0, 2]])
    raw(embedding.attention_tables["category"]).assign([[0], [0], [6]])
    raw(embedding.attention_position_table).assign([[2, 0, 0, 0], [5, 1, 1, 1], [-3, 0, 0, 9]])
    made = {
        "history_item": [[2, 3]], "history_category": [[2, 2]], "history_length": [2],
        "target_item": [[3]], "target_category": [[2]],
    }
    # Features over sqrt(3 + 1), position over sqrt(4):
    # (4 + 6 + 36) / 2 - 6 / 2, and (16 + 4 + 36) / 2 + 10 / 2.
    assert model.attend(made).numpy().tolist() == [[[33.0, 20.0]]]  # newest first
    found = model.search(made)
    assert found["behavior_index"].numpy().tolist() == [[[1]]]
    assert found["attention_score"].numpy().tolist() == [[[33.0]]]
    assert found["behavior_item"].numpy().tolist() == [[[3]]]
    assert found["behavior_position"].numpy().tolist() == [[[1]]]


# One stage after the other


def test_score_of_search_is_the_model(model):
    made = requests(model.schema, users=5, behaviors=12, seed=4)
    np.testing.assert_array_equal(model.score(model.search(made)), model(made))


def test_score_needs_only_what_the_signature_names(model):
    made = requests(model.schema, seed=5)
    found = model.search(made)
    named = {
        name: found[name]
        for name in ("target_item", "target_category", "behavior_item", "behavior_category",
                     "behavior_position", "attention_score")
    }
    np.testing.assert_array_equal(model.score(named), model(made))


def test_forward_equals_call_and_traced_equals_eager(model):
    made = requests(model.schema, behaviors=11, seed=6)
    probability = model(made)
    assert_same(model.forward(made).probability, probability)
    specs = {
        name: tf.TensorSpec([None] * array.ndim, array.dtype, name) for name, array in made.items()
    }
    traced = tf.function(lambda r: (model(r), model.forward(r)), autograph=False)
    traced = traced.get_concrete_function(specs)
    assert_same(traced(tensors(made)), (probability, model.forward(made)))
    other = requests(model.schema, users=2, behaviors=2, candidates=1, seed=7)
    assert_same(traced(tensors(other))[0], model(other))


# Properties


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    padding=st.integers(0, 5),
    seed=st.integers(0, 10**6),
)
def test_padding_filtering_and_company_change_nothing(dare, twin, lengths, padding, seed):
    for model in (dare, twin):
        columns = max(lengths) + padding
        made = requests(model.schema, len(lengths), columns, lengths=lengths, seed=seed)
        found, probability = model.search(made), model(made).numpy()
        assert np.isfinite(probability).all()
        for u, length in enumerate(lengths):
            alone = cut(made, slice(u, u + 1), slice(length))
            np.testing.assert_allclose(model(alone)[0], probability[u], rtol=1e-5)
            searched = model.search(alone)
            for name in ("behavior_index", "behavior_position", "behavior_item"):
                np.testing.assert_array_equal(searched[name][0], found[name][u])


def test_garbage_ids_in_padding_change_nothing(model):
    clean = requests(model.schema, users=3, behaviors=9, lengths=[9, 4, 0], seed=8)
    dirty = {name: array.copy() for name, array in clean.items()}
    beyond = np.arange(9) >= clean["history_length"][:, None]
    for feature in model.schema.features:
        clean[f"history_{feature.name}"][beyond] = 0
        dirty[f"history_{feature.name}"][beyond] = feature.vocabulary_size - 1
    assert_same(model.forward(tensors(dirty)), model.forward(tensors(clean)), 0)
    searched, wanted = model.search(dirty), model.search(clean)
    for name in wanted:
        np.testing.assert_array_equal(searched[name], wanted[name])


def test_permuted_candidates_permute_outputs(model):
    made = requests(model.schema, users=3, candidates=5, seed=9)
    order = [3, 0, 4, 1, 2]
    moved = {k: v[:, order] if k.startswith("target_") else v for k, v in made.items()}
    np.testing.assert_allclose(model(moved), model(made).numpy()[:, order], rtol=1e-6)
    np.testing.assert_array_equal(
        model.search(moved)["behavior_index"], model.search(made)["behavior_index"].numpy()[:, order]
    )


@pytest.mark.parametrize("behaviors,lengths", [(0, [0, 0]), (1, [0, 1]), (2, [2, 1])])
def test_short_histories_are_finite_and_as_wide_as_k(model, behaviors, lengths):
    made = requests(model.schema, users=2, behaviors=behaviors, lengths=lengths, candidates=4)
    found = model.search(made)
    assert found["behavior_index"].shape == (2, 4, 3)
    present = np.minimum(lengths, 3)[:, None, None] > np.arange(3)
    for name in ("behavior_position", "behavior_item", "behavior_category"):
        np.testing.assert_array_equal(found[name].numpy() > 0, np.broadcast_to(present, (2, 4, 3)))
    np.testing.assert_array_equal(found["behavior_index"].numpy() >= 0, np.broadcast_to(
        present, (2, 4, 3)
    ))
    for probability in flat(model.forward(tensors(made))):
        assert probability.shape == (2, 4)
        assert np.isfinite(probability).all()


def test_ties_are_won_by_the_newest():
    # Without a score of position, equal behaviors score the same.
    model = randomize(DARE(tiny_schema(attention_dim=0), top_k=4))
    made = requests(model.schema, users=1, behaviors=12, candidates=2, lengths=[12])
    for name in ("item", "category"):
        made[f"history_{name}"][:] = 2
    assert model.search(made)["behavior_index"].numpy().tolist() == [[[11, 10, 9, 8]] * 2]


def test_a_history_beyond_the_window_shares_the_last_bucket(dare):
    made = requests(dare.schema, users=1, behaviors=40, candidates=2, lengths=[40])
    for name in ("item", "category"):
        made[f"history_{name}"][:] = 2
    scores = dare.attend(made).numpy()
    # Window 12: the oldest 28 behaviors, and four inside, have the last row.
    np.testing.assert_allclose(scores[0, :, 11:], np.repeat(scores[0, :, 11:12], 29, 1), rtol=1e-5)
    assert not np.isclose(scores[0, 0, 11], scores[0, 0, 10])
    assert np.isfinite(dare(made)).all()


def test_ids_may_be_int64(dare):
    made = requests(dare.schema, seed=10)
    wide = {name: array.astype(np.int64) for name, array in made.items()}
    np.testing.assert_array_equal(dare(wide), dare(made))
    np.testing.assert_array_equal(
        dare.forward(wide).auxiliary_probability, dare.forward(made).auxiliary_probability
    )


# Gradients


def _tables(model):
    embedding = model.embedding
    attention = [*embedding.attention_tables.values(), embedding.attention_position_table]
    representation = [
        *embedding.representation_tables.values(), embedding.representation_position_table
    ]
    return [raw(table) for table in attention], [raw(table) for table in representation]


def test_gradients_are_finite_and_reach_every_weight(model):
    made = requests(model.schema, users=4, behaviors=9, lengths=[9, 2, 1, 0], seed=11)
    with tf.GradientTape() as tape:
        outputs = model.forward(tensors(made))
        total = tf.reduce_sum(tf.stack(outputs))
    weights = [raw(weight) for weight in model.trainable_weights]
    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all(), weight.name
        assert np.abs(values).max() > 0, weight.name


def test_decoupled_tables_meet_only_in_the_weights(dare):
    made = tensors(requests(dare.schema, lengths=[8, 5, 2], seed=12))
    attention, representation = _tables(dare)
    with tf.GradientTape(persistent=True) as tape:
        scores = dare.attend(made)
        found = dare.search(made)
        through = dare.score(found)
        stopped = dare.score(
            {**found, "attention_score": tf.stop_gradient(found["attention_score"])}
        )
    assert tape.gradient(scores, representation) == [None] * 3
    assert None not in tape.gradient(scores, attention)
    assert tape.gradient(stopped, attention) == [None] * 3
    assert None not in tape.gradient(stopped, representation)
    for gradient in tape.gradient(through, attention):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


def test_a_shared_table_hears_both_sides(twin):
    made = tensors(requests(twin.schema, lengths=[8, 5, 2], seed=12))
    attention, representation = _tables(twin)
    assert all(one is other for one, other in zip(attention, representation))
    with tf.GradientTape(persistent=True) as tape:
        scores = twin.attend(made)
        found = twin.search(made)
        stopped = twin.score(
            {**found, "attention_score": tf.stop_gradient(found["attention_score"])}
        )
    assert None not in tape.gradient(scores, attention)
    assert None not in tape.gradient(stopped, attention)


def test_auxiliary_head_reaches_behaviors_that_search_left_out(dare):
    made = requests(dare.schema, users=1, behaviors=8, candidates=1, lengths=[8])
    made["history_item"] = np.arange(2, 10, dtype=np.int32)[None]
    made["target_item"][:] = 20
    table = raw(dare.embedding.representation_tables["item"])
    with tf.GradientTape(persistent=True) as tape:
        outputs = dare.forward(tensors(made))
    rows = [
        set(np.flatnonzero(np.abs(tf.convert_to_tensor(tape.gradient(y, table))).sum(1)).tolist())
        for y in outputs
    ]
    kept = set(made["history_item"][0][dare.search(made)["behavior_index"][0, 0].numpy()].tolist())
    assert rows[0] == kept | {20}
    assert rows[1] == set(range(2, 10)) | {20}


# Loss


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_loss_by_plain_loops(schema, weight):
    model = randomize(DARE(
        schema, top_k=3, auxiliary_weight=weight, head=Head((6, 4)),
        auxiliary_head=Head((5,), batch_norm=False),
    ))
    made = requests(schema, users=4, behaviors=8, candidates=3, lengths=[8, 2, 0, 5], seed=13)
    made["target_length"] = np.array([3, 1, 2, 3], np.int32)
    label = np.random.default_rng(1).integers(0, 2, (4, 3)).astype(np.float32)
    real = (np.arange(3) < made["target_length"][:, None]).astype(np.float32)
    assert (model.auxiliary_head is None) == (weight == 0)
    _, _, main, auxiliary = Reference(model).forward(made, training=True)

    def crossentropy(p):
        return -np.sum(real * (label * np.log(p) + (1 - label) * np.log(1 - p))) / real.size

    wanted = crossentropy(main) + weight * crossentropy(auxiliary)
    model.compile(optimizer="sgd", loss=CandidateCrossentropy(), jit_compile=False)
    predicted = model(tensors(made), training=True)
    np.testing.assert_allclose(predicted.numpy()[real > 0], main[real > 0], rtol=1e-4)
    loss = model.compute_loss(made, tf.constant(label), predicted, tf.constant(real))
    np.testing.assert_allclose(float(loss), wanted, rtol=1e-5)


def test_auxiliary_loss_counts_in_fit_and_not_in_evaluate(schema):
    made = requests(schema, users=4, behaviors=8, seed=14)
    label = np.random.default_rng(2).integers(0, 2, (4, 4)).astype(np.float32)
    model = randomize(DARE(schema, top_k=3))
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0), loss=CandidateCrossentropy(),
                  jit_compile=False)
    _, _, main, auxiliary = Reference(model).forward(made, training=True)
    _, _, inference, _ = Reference(model).forward(made)

    def crossentropy(p):
        return -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))

    assert model.evaluate(made, label, verbose=0) == pytest.approx(
        crossentropy(inference), rel=1e-5
    )
    loss = model.fit(made, label, batch_size=4, verbose=0).history["loss"]
    assert loss == [pytest.approx(crossentropy(main) + crossentropy(auxiliary), rel=1e-4)]


# Life


@pytest.mark.parametrize("name", ["dare", "twin", "no auxiliary"])
def test_keras_file_and_weights_round_trip(name, request, schema, tmp_path):
    if name == "no auxiliary":
        model = randomize(DARE(schema, top_k=3, auxiliary_weight=0, head=Head((6,))))
    else:
        model = request.getfixturevalue(name)
    made = requests(model.schema, behaviors=10, seed=15)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert isinstance(loaded, TwoStageModel)
    assert loaded.name == model.name
    assert loaded.schema == model.schema
    assert loaded.search_layer.top_k == 3
    assert loaded.auxiliary_weight == model.auxiliary_weight
    assert_same(loaded(made), model(made), 0)
    assert_same(loaded.forward(made), model.forward(made), 0)
    fresh = TwoStageModel.from_config(model.get_config())
    assert len(fresh.weights) == len(model.weights)
    weights = str(tmp_path / "model.weights.h5")
    model.save_weights(weights)
    assert not np.allclose(fresh(made), model(made), atol=1e-3)
    fresh.load_weights(weights)
    assert_same(fresh.forward(made), model.forward(made), 0)


def test_model_is_built_without_data(schema):
    model = DARE(schema, top_k=3, head=Head((6, 4)), auxiliary_head=Head((5,), batch_norm=False))
    assert model.built
    tables = 30 * 3 + 7 * 2 + 30 * 4 + 7 * 3 + 9 * 5 + 9 * 2
    # Three times 9 columns come in; batch normalization has two moving ones more.
    head = 4 * 27 + (27 * 6 + 6 + 6) + (6 * 4 + 4 + 4) + (4 + 1)
    auxiliary = (27 * 5 + 5 + 5) + (5 + 1)
    assert model.count_params() == tables + head + auxiliary


def test_published_models_by_name(schema):
    assert set(MODELS) == {"DARE", "TWIN"}
    assert isinstance(build_model("DARE", schema).embedding, DecoupledEmbedding)
    with pytest.raises(ValueError, match=r"one of \['DARE', 'TWIN'\]. Received: 'DIN'"):
        build_model("DIN", schema)
    with pytest.raises(SchemaError, match="Received: Feature"):
        TWIN(schema)
    assert TWIN(shared_schema(), top_k=7).search_layer.top_k == 7


def test_wrong_arguments_are_quoted(schema):
    with pytest.raises(ValueError, match="must not be negative. Received: -0.5"):
        DARE(schema, auxiliary_weight=-0.5)
    with pytest.raises(ValueError, match="Received: top_k=0"):
        DARE(schema, top_k=0)


@pytest.mark.parametrize(
    "missing", ["history_item", "history_category", "history_length", "target_category"]
)
@pytest.mark.parametrize("what", ["search", "forward", "__call__"])
def test_missing_tensors_are_named(dare, missing, what):
    made = tensors(requests(dare.schema))
    del made[missing]
    with pytest.raises(ValueError, match=rf"Missing tensors \['{missing}'\]. Received: "):
        getattr(dare, what)(made)


@pytest.mark.parametrize("missing", ["behavior_position", "attention_score", "behavior_item"])
def test_missing_tensors_of_score_are_named(dare, missing):
    found = dare.search(requests(dare.schema))
    del found[missing]
    with pytest.raises(ValueError, match=rf"Missing tensors \['{missing}'\]"):
        dare.score(found)


def test_search_layer_is_the_one_given(schema):
    model = TwoStageModel(DecoupledEmbedding(schema), search=TopKSearch(2))
    assert model.search(requests(schema))["behavior_index"].shape[-1] == 2


@pytest.mark.parametrize("module", ["tfdare.models.published", "tfdare.schema"])
def test_docstring_examples(module):
    assert run_doctests(module) > 0
