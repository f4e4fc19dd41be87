"""The two-stage model: against plain loops, one stage after the other, and what changes nothing."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import assert_same, cut, flat, randomize, requests, tensors, tiny_schema
from tests.reference import Reference
from tfdare.compat import raw
from tfdare.models import DARE
from tfdare.schema import Feature, Position, Schema

pytestmark = pytest.mark.keras


@pytest.fixture(params=["dare", "twin"])
def model(request):
    return request.getfixturevalue(request.param)


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
        (Feature("item", 4, 3, 1), Feature("category", 3, 1, 1)),
        2,
        position=Position(exact=2, attention_dim=4, representation_dim=0),
    )
    model = DARE(schema, top_k=1)
    embedding = model.embedding
    raw(embedding.attention_tables["item"]).assign([[0] * 3, [0] * 3, [1, 2, 3], [4, 0, 2]])
    raw(embedding.attention_tables["category"]).assign([[0], [0], [6]])
    raw(embedding.attention_position_table).assign([[2, 0, 0, 0], [5, 1, 1, 1], [-3, 0, 0, 9]])
    made = {
        "history_item": [[2, 3]],
        "history_category": [[2, 2]],
        "history_length": [2],
        "target_item": [[3]],
        "target_category": [[2]],
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
        for name in (
            "target_item",
            "target_category",
            "behavior_item",
            "behavior_category",
            "behavior_position",
            "attention_score",
        )
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
    index = model.search(made)["behavior_index"].numpy()
    np.testing.assert_array_equal(model.search(moved)["behavior_index"], index[:, order])


@pytest.mark.parametrize("behaviors,lengths", [(0, [0, 0]), (1, [0, 1]), (2, [2, 1])])
def test_short_histories_are_finite_and_as_wide_as_k(model, behaviors, lengths):
    made = requests(model.schema, users=2, behaviors=behaviors, lengths=lengths, candidates=4)
    found = model.search(made)
    assert found["behavior_index"].shape == (2, 4, 3)
    present = np.minimum(lengths, 3)[:, None, None] > np.arange(3)
    for name in ("behavior_position", "behavior_item", "behavior_category"):
        np.testing.assert_array_equal(found[name].numpy() > 0, np.broadcast_to(present, (2, 4, 3)))
    np.testing.assert_array_equal(
        found["behavior_index"].numpy() >= 0, np.broadcast_to(present, (2, 4, 3))
    )
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
