"""The two-stage model: against plain loops, stage by stage, and unchanged by padding."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import (
    assert_same,
    cut,
    flat,
    learned_dare,
    randomize,
    requests,
    tensors,
    tiny_schema,
)
from tests.reference import Reference
from tfdare.compat import raw
from tfdare.schema import Feature, Position, Schema

pytestmark = pytest.mark.keras


@pytest.fixture(params=["dare", "twin"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("behaviors,seed", [(8, 0), (12, 1), (2, 2), (0, 3)])
def test_model_equals_plain_loops(model, behaviors, seed):
    inputs = requests(model.schema, users=4, behaviors=behaviors, candidates=3, seed=seed)
    index, score, probability, whole = Reference(model).forward(inputs)
    results = model.search(inputs)
    np.testing.assert_array_equal(results["behavior_index"], index)
    np.testing.assert_allclose(results["attention_score"], score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(inputs), probability, rtol=1e-5)
    outputs = model.forward(tensors(inputs))
    np.testing.assert_allclose(outputs.probability, probability, rtol=1e-5)
    np.testing.assert_allclose(outputs.auxiliary_probability, whole, rtol=1e-5)


def test_score_scales_features_and_position_apart():
    schema = Schema(
        (Feature("item", 4, 3, 1), Feature("category", 3, 1, 1)),
        2,
        position=Position(exact=2, attention_dim=4, representation_dim=0),
    )
    model = learned_dare(schema, top_k=1)
    embedding = model.embedding
    raw(embedding.attention_tables["item"]).assign([[0] * 3, [0] * 3, [1, 2, 3], [4, 0, 2]])
    raw(embedding.attention_tables["category"]).assign([[0], [0], [6]])
    raw(embedding.attention_position_table).assign([[2, 0, 0, 0], [5, 1, 1, 1], [-3, 0, 0, 9]])
    inputs = {
        "history_item": [[2, 3]],
        "history_category": [[2, 2]],
        "history_length": [2],
        "target_item": [[3]],
        "target_category": [[2]],
    }
    # Features over sqrt(3 + 1), position over sqrt(4):
    # (4 + 6 + 36) / 2 - 6 / 2, and (16 + 4 + 36) / 2 + 10 / 2.
    assert model.attend(inputs).numpy().tolist() == [[[33.0, 20.0]]]  # newest first
    results = model.search(inputs)
    assert results["behavior_index"].numpy().tolist() == [[[1]]]
    assert results["attention_score"].numpy().tolist() == [[[33.0]]]
    assert results["behavior_item"].numpy().tolist() == [[[3]]]
    assert results["behavior_position"].numpy().tolist() == [[[1]]]


# One stage after the other


def test_score_of_search_is_the_model(model):
    inputs = requests(model.schema, users=5, behaviors=12, seed=4)
    np.testing.assert_array_equal(model.score(model.search(inputs)), model(inputs))


def test_score_needs_only_what_the_signature_names(model):
    inputs = requests(model.schema, seed=5)
    results = model.search(inputs)
    named = {
        name: results[name]
        for name in (
            "target_item",
            "target_category",
            "behavior_item",
            "behavior_category",
            "behavior_position",
            "attention_score",
            *(["mean_score"] if model.needs_mean_score else []),
        )
    }
    np.testing.assert_array_equal(model.score(named), model(inputs))


def test_forward_equals_call_and_traced_equals_eager(model):
    inputs = requests(model.schema, behaviors=11, seed=6)
    probability = model(inputs)
    assert_same(model.forward(inputs).probability, probability)
    specs = {
        name: tf.TensorSpec([None] * array.ndim, array.dtype, name)
        for name, array in inputs.items()
    }
    traced = tf.function(lambda r: (model(r), model.forward(r)), autograph=False)
    traced = traced.get_concrete_function(specs)
    assert_same(traced(tensors(inputs)), (probability, model.forward(inputs)))
    other = requests(model.schema, users=2, behaviors=2, candidates=1, seed=7)
    assert_same(traced(tensors(other))[0], model(other))


# Properties


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    padding=st.integers(0, 5),
    seed=st.integers(0, 10**6),
)
def test_padding_and_other_users_change_nothing(dare, twin, lengths, padding, seed):
    for model in (dare, twin):
        columns = max(lengths) + padding
        inputs = requests(model.schema, len(lengths), columns, lengths=lengths, seed=seed)
        results, probability = model.search(inputs), model(inputs).numpy()
        assert np.isfinite(probability).all()
        for u, length in enumerate(lengths):
            alone = cut(inputs, slice(u, u + 1), slice(length))
            np.testing.assert_allclose(model(alone)[0], probability[u], rtol=1e-5)
            searched = model.search(alone)
            for name in ("behavior_index", "behavior_position", "behavior_item"):
                np.testing.assert_array_equal(searched[name][0], results[name][u])


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
    inputs = requests(model.schema, users=3, candidates=5, seed=9)
    order = [3, 0, 4, 1, 2]
    moved = {k: v[:, order] if k.startswith("target_") else v for k, v in inputs.items()}
    np.testing.assert_allclose(model(moved), model(inputs).numpy()[:, order], rtol=1e-6)
    index = model.search(inputs)["behavior_index"].numpy()
    np.testing.assert_array_equal(model.search(moved)["behavior_index"], index[:, order])


@pytest.mark.parametrize("behaviors,lengths", [(0, [0, 0]), (1, [0, 1]), (2, [2, 1])])
def test_short_histories_are_finite_and_as_wide_as_k(model, behaviors, lengths):
    inputs = requests(model.schema, users=2, behaviors=behaviors, lengths=lengths, candidates=4)
    results = model.search(inputs)
    assert results["behavior_index"].shape == (2, 4, 3)
    present = np.minimum(lengths, 3)[:, None, None] > np.arange(3)
    for name in ("behavior_position", "behavior_item", "behavior_category"):
        np.testing.assert_array_equal(
            results[name].numpy() > 0, np.broadcast_to(present, (2, 4, 3))
        )
    np.testing.assert_array_equal(
        results["behavior_index"].numpy() >= 0, np.broadcast_to(present, (2, 4, 3))
    )
    for probability in flat(model.forward(tensors(inputs))):
        assert probability.shape == (2, 4)
        assert np.isfinite(probability).all()


def test_ties_are_won_by_the_newest():
    # Without a score of position, equal behaviors score the same.
    model = randomize(learned_dare(tiny_schema(attention_dim=0), top_k=4))
    inputs = requests(model.schema, users=1, behaviors=12, candidates=2, lengths=[12])
    for name in ("item", "category"):
        inputs[f"history_{name}"][:] = 2
    assert model.search(inputs)["behavior_index"].numpy().tolist() == [[[11, 10, 9, 8]] * 2]


def test_a_history_beyond_the_window_shares_the_last_bucket(dare):
    inputs = requests(dare.schema, users=1, behaviors=40, candidates=2, lengths=[40])
    for name in ("item", "category"):
        inputs[f"history_{name}"][:] = 2
    scores = dare.attend(inputs).numpy()
    # Window 12: the oldest 28 behaviors, and four inside, have the last row.
    np.testing.assert_allclose(scores[0, :, 11:], np.repeat(scores[0, :, 11:12], 29, 1), rtol=1e-5)
    assert not np.isclose(scores[0, 0, 11], scores[0, 0, 10])
    assert np.isfinite(dare(inputs)).all()


def test_ids_may_be_int64(dare):
    inputs = requests(dare.schema, seed=10)
    wide = {name: array.astype(np.int64) for name, array in inputs.items()}
    np.testing.assert_array_equal(dare(wide), dare(inputs))
    np.testing.assert_array_equal(
        dare.forward(wide).auxiliary_probability, dare.forward(inputs).auxiliary_probability
    )
