"""Every published model: both stages equal the whole; files, gradients, exports, precision."""

import contextlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    assert_same,
    randomize,
    requests,
    run_doctests,
    shared_schema,
    tensors,
    tiny_schema,
)
from tfdare.compat import raw
from tfdare.export.check import compare, run_in_subprocess
from tfdare.export.sample_requests import example_requests
from tfdare.export.signatures import ServingModule
from tfdare.layers import (
    AffinityFacts,
    BehaviorCount,
    Head,
    MatchCounts,
    MeanScore,
    ScoreFacts,
    TopKSearch,
)
from tfdare.losses import CandidateCrossentropy
from tfdare.models import MODELS, TWIN, OneStageModel, TwoStageModel, build_model
from tfdare.models.published import CLUSTER_SIZE
from tfdare.schema import Feature, Schema, SchemaError

pytestmark = pytest.mark.keras

TOP_K, RECENT = 2, 12
ONE_STAGE = {"SDIM", "DCNv2", "FinalMLP", "DARE-whole"}


def build(name):
    heads = {"head": Head((4,), batch_norm=not name.startswith("SIM"), name="head")}
    if name not in ONE_STAGE:
        heads["auxiliary_head"] = Head((3,), batch_norm=False, name="auxiliary_head")
    return randomize(build_model(name, shared_schema(), top_k=TOP_K, **heads))


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in MODELS}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(models, name):
    return models[name]


def test_published_recipes_are_those_of_the_papers():
    assert set(MODELS) == {
        "DIN",
        "DIEN",
        "SIM-hard",
        "SIM-soft",
        "ETA",
        "SDIM",
        "TWIN",
        "TWIN-hard",
        "TWIN-proj",
        "TWIN-noTR",
        "TWIN-V2",
        "TWIN-4E",
        "TransAct",
        "MIRRN",
        "DCNv2",
        "FinalMLP",
        "DARE",
        "DARE-learned",
        "DARE-paper",
        "DARE-whole",
    }
    dare, published = (build_model(name, tiny_schema(), top_k=2) for name in ("DARE", "DARE-paper"))
    facts = [MatchCounts, ScoreFacts, AffinityFacts, BehaviorCount, MeanScore]
    assert [type(layer) for layer in dare.evidence] == facts
    assert published.evidence == [] and dare.head_dim == published.head_dim + 2 + 2 + 2 + 1 + 2
    assert run_doctests("tfdare.models.published") > 0
    with pytest.raises(ValueError, match="one of DARE, .*Received: 'BST'"):
        build_model("BST", shared_schema())
    with pytest.raises(SchemaError, match="Received: Feature"):
        TWIN(tiny_schema())
    with pytest.raises(ValueError, match="MatchSearch needs the feature 'category'"):
        build_model("TWIN-hard", Schema((Feature("item", 9),), window=20))
    with pytest.raises(ValueError, match="Received: top_k=13"):
        build_model("TWIN-V2", shared_schema(), top_k=13)


def test_slots_of_search(model, name):
    if name in ONE_STAGE:
        assert isinstance(model, OneStageModel)
        return
    top_k = TOP_K * CLUSTER_SIZE if name == "TWIN-V2" else TOP_K
    more = {"SIM-hard": RECENT, "SIM-soft": RECENT, "MIRRN": 2 * TOP_K}.get(name, 0)
    assert (model.search_layer.top_k, model.search_layer.slots) == (top_k, top_k + more)
    results = model.search(requests(model.schema))
    assert results["behavior_index"].shape == (3, 4, top_k + more)


def test_score_of_search_is_the_model_and_forward_equals_call(model, name):
    inputs = requests(model.schema, users=4, behaviors=11, lengths=[11, 4, 1, 0], seed=1)
    probability = model(inputs)
    assert probability.shape == (4, 4) and probability.dtype == tf.float32
    assert np.isfinite(probability).all() and np.std(probability) > 1e-3
    outputs = model.forward(tensors(inputs))
    assert_same(outputs.probability, probability, 1e-6)
    if name in ONE_STAGE:
        assert outputs.auxiliary_probability is None
    else:
        np.testing.assert_array_equal(model.score(model.search(inputs)), probability)
        if name != "DARE":  # has no auxiliary head
            assert np.isfinite(outputs.auxiliary_probability).all()


def test_garbage_permutation_and_empty_histories(model, name):
    clean = requests(model.schema, users=3, behaviors=9, lengths=[9, 4, 0], seed=8)
    dirty = {key: values.copy() for key, values in clean.items()}
    beyond = np.arange(9) >= clean["history_length"][:, None]
    for feature in model.schema.features:
        clean[f"history_{feature.name}"][beyond] = 0
        dirty[f"history_{feature.name}"][beyond] = dirty[f"target_{feature.name}"][0, 0]
    probability = model(clean).numpy()
    np.testing.assert_array_equal(model(dirty), probability)
    assert_same(model.forward(tensors(dirty)), model.forward(tensors(clean)), 0)
    order = [3, 0, 2, 1]
    moved = {k: v[:, order] if k.startswith("target_") else v for k, v in clean.items()}
    np.testing.assert_allclose(model(moved), probability[:, order], rtol=1e-5)
    for behaviors in (0, 1):
        empty = requests(model.schema, users=2, behaviors=behaviors, lengths=[0, 0])
        assert np.isfinite(model(empty)).all()
        assert all(np.isfinite(x).all() for x in model.forward(tensors(empty)) if x is not None)


def test_keras_file_round_trip(model, name, tmp_path):
    inputs = requests(model.schema, users=2, behaviors=7, lengths=[7, 3], seed=2)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded) is type(model) and loaded.name == model.name
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert_same(loaded.forward(inputs), model.forward(inputs), 0)


def test_gradients_are_finite_and_reach_every_weight(model, name):
    inputs = requests(model.schema, users=4, behaviors=12, lengths=[12, 9, 2, 0], seed=3)
    for feature in model.schema.features:  # a hard search must find something
        inputs[f"target_{feature.name}"][:, :2] = inputs[f"history_{feature.name}"][:, :2]
    with tf.GradientTape() as tape:
        outputs = [y for y in model.forward(tensors(inputs)) if y is not None]
        total = tf.reduce_sum(tf.stack(outputs) ** 2)
    untaught = set()
    for weight, gradient in zip(
        model.trainable_weights,
        tape.gradient(total, [raw(weight) for weight in model.trainable_weights]),
    ):
        values = 0 if gradient is None else tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all(), weight.name
        if not np.abs(values).max() > 0:
            untaught.add(raw(weight).name.split(":")[0].split("/")[-1])
    # A sequence of two has no frequency but 0 and the highest: no phase to turn.
    assert untaught == ({f"imaginary_{i}" for i in range(3)} if name == "MIRRN" else set())


# Half precision


@contextlib.contextmanager
def policy(name):
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize("half", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_finite_and_near(models, name, half):
    model = models[name]
    inputs = requests(model.schema, users=3, behaviors=12, lengths=[12, 3, 0], seed=4)
    with policy(half):
        low = build(name)
    low.set_weights(model.get_weights())
    with tf.GradientTape() as tape:
        outputs = [y for y in low.forward(tensors(inputs)) if y is not None]
        total = tf.reduce_sum(tf.stack(outputs))
    for output in outputs:
        assert output.dtype == tf.float32 and np.isfinite(output).all()
    weights = [raw(weight) for weight in low.trainable_weights]
    assert all(weight.dtype == tf.float32 for weight in weights)
    for gradient in tape.gradient(total, weights):
        assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient)).all()
    if name in ("ETA", "SDIM"):  # a hash may tip over
        return
    wanted = [y for y in model.forward(tensors(inputs)) if y is not None]
    for output, expected in zip(outputs, wanted):
        assert np.median(np.abs(output - expected)) < (0.01 if half == "mixed_float16" else 0.05)


@pytest.mark.parametrize("half", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_fits(half):
    with policy(half):
        model = build("DARE")
    inputs = requests(model.schema, users=8, behaviors=12, seed=5)
    label = np.random.default_rng(0).integers(0, 2, (8, 4)).astype(np.float32)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(0.01), loss=CandidateCrossentropy(), jit_compile=False
    )
    loss = model.fit(inputs, label, batch_size=8, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(loss).all() and loss[-1] < loss[0]
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# Exports: all in one process


@pytest.fixture(scope="module")
def answers(models, tmp_path_factory):
    """Runs every model's SavedModel on its example requests, over row ids."""
    folder, exports = tmp_path_factory.mktemp("exports"), {}
    for name, model in models.items():
        path = os.path.join(folder, name)
        module = ServingModule(model, None)
        tf.saved_model.save(module, path, signatures=module.signatures_by_name)
        exports[name] = (path, example_requests(model, None))
    outputs = run_in_subprocess(exports.values())
    return {name: (exports[name][1], got) for name, got in zip(exports, outputs)}


def test_every_signature_answers_as_the_model_does(models, answers, name):
    examples, got = answers[name]
    assert compare(models[name], examples, got, None) < 1e-5
    signatures = {"serving_default"}
    outputs = {"probability"}
    if name not in ONE_STAGE:
        signatures |= {"search", "score"}
        outputs |= {"behavior_index", "attention_score"}
    for batch in got:
        assert set(batch) == signatures
        assert set(batch["serving_default"]) == outputs
        if name not in ONE_STAGE:
            assert (
                np.abs(batch["search"]["attention_score"]).max() > 0
                or (batch["search"]["behavior_index"] < 0).all()
            )


def test_an_own_search_layer_replaces_the_recipes():
    model = build_model("TWIN-hard", shared_schema(), search=TopKSearch(3, recent=1))
    assert isinstance(model, TwoStageModel) and model.search_layer.slots == 4
