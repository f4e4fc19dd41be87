"""Search in blocks and tiles finds what ``tf.math.top_k`` finds, ties and all."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import (
    StraightSearch,
    learned_dare,
    randomize,
    requests,
    rich_schema,
    tensors,
    tiny_schema,
)
from tfdare.compat import raw
from tfdare.export.signatures import ServingModule
from tfdare.layers import TopKSearch
from tfdare.layers.top_k import Blocks, top_k_of_product
from tfdare.models import build_model
from tfdare.session import SavedModelSession

pytestmark = pytest.mark.keras


def laid_out(scores, blocks):
    """Makes a query and a key whose products are exactly the scores ``[U, C, N]``.

    Each candidate has a column of its own: its query is one there, the key is the score.
    """
    users, candidates, behaviors = scores.shape
    places = np.minimum(blocks.indices.numpy(), behaviors)
    padded = np.concatenate([scores, np.full((users, candidates, 1), -3e38, np.float32)], axis=2)
    query = np.broadcast_to(np.eye(candidates, dtype=np.float32), (users, candidates, candidates))
    return tf.constant(query), tf.constant(padded[:, :, places].transpose(0, 2, 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    users=st.integers(1, 3),
    candidates=st.integers(1, 4),
    behaviors=st.integers(0, 150),
    top_k=st.integers(1, 9),
    size=st.sampled_from([8, 16]),
    tile=st.integers(1, 1500),
    kinds=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_blocks_equal_top_k(users, candidates, behaviors, top_k, size, tile, kinds, seed):
    random = np.random.default_rng(seed)
    # Few distinct scores, so that ties are common, in a block and across blocks; both zeros.
    values = np.concatenate([random.normal(size=kinds), [0.0, -0.0, -3e38, 3e38]])
    scores = random.choice(values, (users, candidates, behaviors)).astype(np.float32)
    blocks = Blocks(behaviors, users * candidates, top_k, size, short=1, few=0)
    assert bool(blocks.needed) == (behaviors >= size * top_k)
    query, key = laid_out(scores, blocks)
    value, index = top_k_of_product(query, key, top_k, blocks, tile)
    wanted = tf.math.top_k(scores, min(top_k, behaviors))
    kept = index.numpy() < behaviors
    assert kept.sum() == wanted.indices.numpy().size
    np.testing.assert_array_equal(index.numpy()[kept], wanted.indices.numpy().ravel())
    np.testing.assert_array_equal(value.numpy()[kept], wanted.values.numpy().ravel())


@pytest.mark.parametrize("behaviors", [0, 1, 7, 128, 131, 400])
def test_every_behavior_has_one_position(behaviors):
    blocks = Blocks(behaviors, 1, 2, 8, short=100, few=0)
    places = blocks.indices.numpy()
    assert sorted(places[places < behaviors].tolist()) == list(range(behaviors))
    some = np.arange(behaviors)
    np.testing.assert_array_equal(places[blocks.cells(tf.range(behaviors)).numpy()], some)
    assert int(blocks.size) == (8 if behaviors >= 100 else 1)


def test_where_all_histories_are_short_nothing_is_decided_at_run_time():
    schema = tiny_schema(window=1199)
    model = learned_dare(schema, top_k=3, evidence=[], auxiliary_weight=0)
    traced = tf.function(model.search, autograph=False).get_concrete_function(
        tensors(requests(schema))
    )
    assert not [op for op in traced.graph.get_operations() if "If" in op.type]
    longer = Blocks(tf.constant(400), 1, 2, longest=1200)
    assert longer.needed is not False


@pytest.fixture(scope="module")
def pair():
    """Builds two equal models: one searches long histories in blocks, the other never does."""
    schema = rich_schema(window=1500)
    models = [
        randomize(learned_dare(schema, search=search, auxiliary_weight=0))
        for search in (TopKSearch(5, recent=2), StraightSearch(5, recent=2))
    ]
    models[1].set_weights(models[0].get_weights())
    return models


def alike(first, second):
    """Checks that behaviors are the same; where they differ, scores are a rounding step apart."""
    assert first.keys() == second.keys()
    score = first["attention_score"].numpy()
    np.testing.assert_allclose(score, second["attention_score"], atol=1e-5)
    np.testing.assert_allclose(first["mean_score"], second["mean_score"], atol=1e-5)
    differ = first["behavior_index"].numpy() != second["behavior_index"].numpy()
    assert differ.mean() < 0.02
    np.testing.assert_array_equal(
        first["behavior_position"].numpy() == 0, second["behavior_position"].numpy() == 0
    )


@pytest.mark.parametrize("lengths", [[1500, 0, 3, 1207], [1400, 1499, 1, 2]])
def test_a_model_finds_the_same_in_blocks(pair, lengths):
    inputs = requests(pair[0].schema, users=4, behaviors=1500, candidates=40, lengths=lengths)
    results = [model.search(inputs) for model in pair]
    alike(*results)
    index, length = results[0]["behavior_index"].numpy(), np.array(lengths)[:, None, None]
    assert (index < length).all()
    np.testing.assert_array_equal(
        (index[..., :5] >= 0).sum(-1), np.broadcast_to(np.minimum(length[..., 0], 5), (4, 40))
    )
    for name in ("item", "tag", "time_gap"):
        history = inputs[f"history_{name}"]
        gathered = history[np.arange(4)[:, None, None], np.maximum(index, 0)]
        there = (index >= 0)[(...,) + (None,) * (gathered.ndim - 3)]
        np.testing.assert_array_equal(results[0][f"behavior_{name}"], np.where(there, gathered, 0))


def test_repeats_of_one_behavior_are_found_from_the_newest_on():
    schema = tiny_schema(window=2000)
    model = randomize(learned_dare(schema, top_k=20))
    inputs = requests(schema, users=1, behaviors=2000, candidates=90, lengths=[2000])
    for name in schema.names:  # the score hangs on the position's row alone
        inputs[f"history_{name}"][:] = 3
    results = model.search(inputs)
    index = results["behavior_index"].numpy()[0]
    bucket = model.embedding.bucket(2000 - np.arange(2000)).numpy()
    score = results["attention_score"].numpy()[0]
    for c in range(90):
        for row in np.unique(bucket[index[c]]):
            same = index[c][bucket[index[c]] == row]
            assert np.ptp(score[c][bucket[index[c]] == row]) < 1e-5
            newest = np.flatnonzero(bucket == row)[::-1]
            np.testing.assert_array_equal(same, newest[: len(same)])


def test_gradients_pass_through_blocks(pair):
    inputs = tensors(requests(pair[0].schema, users=2, behaviors=1300, candidates=70))
    inputs["history_length"] = tf.constant([1300, 900])
    gradients = []
    for model in pair:
        tables = [raw(table) for table in model.embedding.attention_tables.values()]
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model.search(inputs)["attention_score"] ** 2)
        gradients.append([tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, tables)])
    for blockwise, straight in zip(*gradients):
        np.testing.assert_allclose(blockwise, straight, rtol=1e-3, atol=1e-3)
        assert np.abs(blockwise).max() > 1


def test_predict_compiles_as_keras_chooses(pair):
    inputs = requests(pair[0].schema, users=2, behaviors=1500, candidates=60, lengths=[1500, 1])
    pair[0].compile(loss="mse")
    np.testing.assert_allclose(pair[0].predict(inputs, verbose=0), pair[1](inputs), atol=1e-5)


def test_one_signature_serves_short_and_long_histories(pair, tmp_path):
    module = ServingModule(pair[0], None)
    tf.saved_model.save(module, str(tmp_path), signatures=module.signatures_by_name)
    session = SavedModelSession(str(tmp_path))
    known = session.signatures["search"].inputs
    sizes = ((0, 2), (1, 1), (300, 3), (1500, 100), (1203, 125), (30_000, 130))
    for behaviors, candidates in sizes:
        inputs = requests(
            pair[0].schema,
            users=2,
            behaviors=behaviors,
            candidates=candidates,
            lengths=[behaviors, behaviors // 2],
        )
        answer = session.run("search", {k: v for k, v in inputs.items() if k in known})
        wanted = pair[1].search(inputs)
        np.testing.assert_allclose(answer["attention_score"], wanted["attention_score"], atol=1e-5)
        same = answer["behavior_index"] == wanted["behavior_index"].numpy()
        assert same.mean() > 0.98
    session.close()


@pytest.mark.parametrize("name", ["SIM-soft", "ETA", "TWIN-V2", "SIM-hard", "DIN"])
def test_models_whose_scores_are_no_product_search_as_before(name):
    model = build_model(name, rich_schema(window=30).with_dims(4, 4))
    inputs = requests(model.schema, behaviors=9)
    assert model.search(inputs)["behavior_index"].shape[-1] == model.search_layer.slots
    assert model._searches_by_product == (name == "SIM-soft")
