"""What the models that read a sequence or average it do beyond what every published model does."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    assert_same,
    randomize,
    requests,
    rich_shared_schema,
    shared_schema,
    tensors,
)
from tfdare.compat import raw
from tfdare.layers import Cross, TwoStreamHead
from tfdare.losses import CandidateCrossentropy
from tfdare.models import build_model

pytestmark = pytest.mark.keras

RIVALS = ["DIEN", "TransAct", "MIRRN", "DCNv2", "FinalMLP"]


@pytest.fixture(scope="module")
def models():
    """Provides the models with the parts of their papers, heads too, and random weights."""
    return {name: randomize(build_model(name, shared_schema(), top_k=3)) for name in RIVALS}


@pytest.fixture(params=RIVALS)
def model(models, request):
    return models[request.param]


def test_units_are_the_published_ones(models):
    assert models["DIEN"].head.units == (200, 80)
    transact, head = models["TransAct"].pooling_layer, models["DCNv2"].head
    assert (len(transact.encoder), transact.encoder[0].units, transact.latest) == (2, 32, 10)
    assert isinstance(head.cross, Cross)
    assert (head.cross.layers, head.units) == (5, (400, 400, 400))
    assert isinstance(models["FinalMLP"].head, TwoStreamHead)
    assert models["FinalMLP"].head.units == (400, 800)
    assert models["MIRRN"].search_layer.slots == 9


def test_files_and_gradients_of_the_whole_model(model, tmp_path):
    inputs = tensors(requests(model.schema, users=4, behaviors=12, lengths=[12, 9, 2, 0], seed=1))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert_same(loaded.forward(inputs), model.forward(inputs), 0)
    weights = [raw(weight) for weight in model.trainable_weights]
    with tf.GradientTape() as tape:
        probability, auxiliary = model.forward(inputs, training=True)
        total = CandidateCrossentropy()(tf.ones_like(probability), probability)
        if auxiliary is not None:
            total += tf.reduce_sum(auxiliary)
    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all() and np.abs(values).max() > 0, weight.name


@pytest.mark.parametrize("name", ["DIEN", "TransAct", "MIRRN"])
def test_score_reads_no_id_of_an_empty_slot(models, name):
    model = models[name]
    found = dict(model.search(requests(model.schema, users=3, lengths=[8, 2, 0], seed=2)))
    probability = model.score(found).numpy()
    empty = found["behavior_position"] == 0
    assert empty.numpy().any()
    for feature in model.schema.names:
        ids = found[f"behavior_{feature}"]
        found[f"behavior_{feature}"] = tf.where(empty, tf.ones_like(ids) * 5, ids)
    np.testing.assert_array_equal(model.score(found), probability)


@pytest.mark.parametrize("name", ["DIEN", "TransAct"])
def test_behaviors_come_newest_first(models, name):
    model = models[name]
    inputs = requests(model.schema, users=5, behaviors=12, lengths=[12, 9, 4, 2, 0], seed=3)
    position = model.search(inputs)["behavior_position"].numpy()
    last = np.where(position > 0, position, 10**6)
    assert (np.diff(last, axis=-1) >= 0).all()


@pytest.mark.parametrize("name", ["DIEN", "TransAct"])
def test_the_order_of_the_behaviors_found_matters(models, name):
    model = models[name]
    found = model.search(requests(model.schema, users=2, behaviors=12, lengths=[12, 12], seed=4))
    turned = {k: v[:, :, ::-1] if k.startswith("behavior_") else v for k, v in found.items()}
    turned["attention_score"] = found["attention_score"][:, :, ::-1]
    difference = np.abs(model.score(turned) - model.score(found))
    assert difference.max() > 1e-5


@pytest.mark.parametrize("name", ["DCNv2", "FinalMLP"])
def test_the_order_of_an_averaged_history_does_not_matter(models, name):
    model = models[name]
    inputs = requests(model.schema, users=2, behaviors=6, lengths=[6, 6], seed=5)
    turned = {
        k: v[:, ::-1] if k in ("history_item", "history_category") else v for k, v in inputs.items()
    }
    np.testing.assert_allclose(model(turned), model(inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RIVALS)
def test_every_kind_of_feature_is_taken(name):
    inputs = requests(rich_shared_schema(), users=2, behaviors=6, lengths=[6, 0], seed=6)
    model = build_model(name, rich_shared_schema(), top_k=2)
    assert np.isfinite(model(inputs)).all()
    assert_same(model.forward(tensors(inputs)).probability, model(inputs), 1e-6)


@pytest.mark.parametrize("name", RIVALS)
def test_a_relation_of_target_and_history_is_learned(name):
    model = build_model(name, shared_schema(), top_k=3)
    inputs = requests(model.schema, users=128, behaviors=6, candidates=4, seed=7)
    inputs["history_length"][:] = 6
    rng = np.random.default_rng(8)  # a user has one half of the categories
    half = rng.integers(0, 2, (128, 1))
    inputs["history_category"] = (2 + 2 * half + rng.integers(0, 2, (128, 6))).astype(np.int32)
    inputs["target_category"] = rng.integers(2, 6, (128, 4)).astype(np.int32)
    label = (inputs["target_category"] // 2 - 1 == half).astype(np.float32)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(0.01), loss=CandidateCrossentropy(), jit_compile=False
    )
    model.fit(tf.data.Dataset.from_tensors((inputs, label)).repeat(30), verbose=0)
    right = (model(tensors(inputs)).numpy() > 0.5) == (label > 0.5)
    assert right.mean() > 0.9
