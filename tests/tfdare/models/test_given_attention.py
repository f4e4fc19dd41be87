"""Tests of given attention: what search finds is given, what is aggregated is learned."""

import numpy as np
import pytest

from tests.harness import assert_same, randomize, requests, rich_schema, tensors, tiny_schema
from tests.reference import Reference
from tfdare.compat import raw, tf
from tfdare.layers import DecoupledEmbedding, Head, SharedEmbedding
from tfdare.layers.tables import fit_columns
from tfdare.models import DARE, build_model, recipe_of
from tfdare.training import compile_model

pytestmark = pytest.mark.keras


def unit_rows(rows, columns, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def vectors(schema):
    return {f.name: unit_rows(f.vocabulary_size, f.attention_dim) for f in schema.features}


@pytest.fixture
def batch(schema):
    inputs = tensors(requests(schema))
    label = np.zeros(inputs["target_item"].shape, np.float32)
    label[:, 0] = 1
    return inputs, tf.constant(label)


def attention_tables(model):
    return {name: raw(t).numpy() for name, t in model.embedding.attention_tables.items()}


@pytest.mark.parametrize("make,behaviors", [(tiny_schema, 12), (rich_schema, 12), (tiny_schema, 0)])
def test_model_equals_plain_loops(make, behaviors):
    model = randomize(DARE(make(), top_k=3))
    inputs = requests(model.schema, users=4, behaviors=behaviors, seed=2)
    index, score, probability, _ = Reference(model).forward(inputs)
    results = model.search(inputs)
    np.testing.assert_array_equal(results["behavior_index"], index)
    np.testing.assert_allclose(results["attention_score"], score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(inputs), probability, rtol=1e-5)
    np.testing.assert_allclose(model.forward(tensors(inputs)).probability, probability, rtol=1e-5)


def test_training_leaves_attention_and_search_as_given(schema, vectors, batch):
    model = DARE(schema, top_k=3, vectors=vectors)
    assert all((attention_tables(model)[name] == vectors[name]).all() for name in vectors)
    compile_model(model, 0.1)
    inputs, label = batch
    before, start = model.search(inputs), model(inputs)
    model.fit(tf.data.Dataset.from_tensors((inputs, label)).repeat(3), verbose=0)
    assert all((attention_tables(model)[name] == vectors[name]).all() for name in vectors)
    after = model.search(inputs)
    for name in ("behavior_index", "attention_score"):
        assert (before[name].numpy() == after[name].numpy()).all()
    assert not np.allclose(start, model(inputs), atol=1e-3)
    slots = sum(np.prod(v.shape) for v in model.optimizer.variables)
    trained = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert slots < 2 * trained + 10  # two moments of what is trained, none of attention
    assert not any("attention" in v.name for v in model.trainable_variables)


def test_representation_starts_from_the_vectors_in_its_own_columns(schema, vectors):
    model = DARE(schema, top_k=3, vectors=vectors)
    for feature in schema.features:
        table = raw(model.embedding.representation_tables[feature.name]).numpy()
        columns = min(feature.attention_dim, feature.representation_dim)
        assert_same(table[:, :columns], fit_columns(vectors[feature.name], columns))
        assert table.shape[1] == feature.representation_dim


def test_turning_all_vectors_changes_nothing(schema, vectors, batch):
    model = randomize(DARE(schema, top_k=3))
    inputs, _ = batch
    model.embedding.start_from(vectors, ["attention"])
    before, found = model(inputs), model.search(inputs)
    turned = {}
    for name, values in vectors.items():
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=[values.shape[1]] * 2))[0]
        turned[name] = (values @ turn).astype(np.float32)
    model.embedding.start_from(turned, ["attention"])
    after = model.search(inputs)
    assert (found["behavior_index"].numpy() == after["behavior_index"].numpy()).all()
    assert_same(model(inputs), before, 1e-5)


def test_a_model_takes_what_search_returned_in_the_place_of_requests(schema, vectors, batch):
    model = randomize(DARE(schema, top_k=3))
    inputs, _ = batch
    searched = model.search(inputs)
    assert model.searches_once
    for training in (False, True):
        whole = model(inputs, training=training)
        assert (model(searched, training=training).numpy() == whole.numpy()).all()
    learned = build_model("DARE-learned", schema, top_k=3)
    assert not learned.searches_once
    assert not DARE(schema, top_k=3, auxiliary_weight=1.0).searches_once


def test_position_and_attention_dims_are_no_part_of_given_attention(schema):
    embedding = DecoupledEmbedding(schema, attention_given=True)
    embedding.build()
    assert embedding.position_score(tf.range(3)) is None
    assert embedding.representation_position_table is not None
    copy = DecoupledEmbedding.from_config(embedding.get_config())
    assert copy.attention_given and not DecoupledEmbedding(schema).attention_given


@pytest.mark.parametrize("name", ["TWIN", "TWIN-4E", "TWIN-proj", "DIN", "DARE-learned"])
def test_rivals_start_from_the_same_vectors_and_learn(name):
    schema = tiny_schema(attention_dim=3, representation_dim=3).with_dims(3, 3)
    vectors = {f.name: unit_rows(f.vocabulary_size, 3) for f in schema.features}
    suffix = "" if recipe_of(name).evidence else "+evidence"
    model = build_model(f"{name}{suffix}+vectors", schema, top_k=3, vectors=vectors)
    tables = [
        model.embedding.table_of(side, feature, role)
        for side in ("attention", "representation")
        for feature in vectors
        for role in ("history", "target")
    ]
    for table, feature in zip(tables, [f for f in vectors for _ in range(2)] * 2):
        assert (raw(table).numpy() == vectors[feature]).all() and table.trainable
    assert len(model.evidence) == 5


def test_evidence_of_a_whole_history_equals_that_of_a_search_for_all_of_it():
    schema = tiny_schema(window=8)
    head = {"head": Head((4,), name="head")}
    whole = randomize(build_model("DARE-whole+evidence", schema, **head))
    found = build_model("DARE-paper+evidence", schema, top_k=8, auxiliary_weight=0, **head)
    found.set_weights(whole.get_weights())
    inputs = tensors(requests(schema, users=4, behaviors=8, lengths=[8, 5, 1, 0]))
    np.testing.assert_allclose(whole(inputs), found(inputs), atol=1e-6)
    mean = found.search(inputs)["mean_score"].numpy()
    assert mean.shape == (4, 4, 2) and (mean[3] == 0).all()


def test_names_of_parts():
    assert recipe_of("TWIN+evidence+vectors").title == "TWIN + evidence + vectors"
    assert recipe_of("DARE").title == "DARE" and recipe_of("DARE").vectors
    for name in (
        "TWIN+magic",
        "TWIN+evidence+evidence",
        "DARE+evidence",
        "twin",
        "",
    ):
        with pytest.raises(ValueError, match=f"Received: '{name}'".replace("+", r"\+")):
            recipe_of(name)


def test_wrong_vectors_are_refused(schema, vectors):
    embedding = SharedEmbedding(tiny_schema(attention_dim=4).with_dims(4, 4))
    embedding.build()
    with pytest.raises(ValueError, match="must be of item, category. Received: 'brand'"):
        embedding.start_from({"brand": vectors["item"]})
    with pytest.raises(ValueError, match=r"'item' must have \d+ rows. Received: shape \(5, 3\)"):
        embedding.start_from({"item": vectors["item"][:5]})
    broken = vectors["item"].copy()
    broken[4, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite.*row 4"):
        embedding.start_from({"item": broken})


def test_columns_are_reduced_by_the_directions_of_largest_variance():
    low = unit_rows(50, 3)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:3]
    wide = (low @ turn).astype(np.float32)  # three directions in eight columns
    narrow = fit_columns(wide, 3)
    assert_same(narrow @ narrow.T, low @ low.T, 1e-5)
    lengths = np.linalg.norm(fit_columns(wide, 2), axis=1)
    assert_same(lengths, np.ones(50, np.float32), 1e-5)
    assert (fit_columns(np.zeros((4, 8)), 2) == 0).all() and fit_columns(low, 9).shape == (50, 3)
