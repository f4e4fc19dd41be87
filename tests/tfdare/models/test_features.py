"""Features of several values, time gaps and context, through a DARE and a TWIN."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    assert_same,
    cut,
    learned_dare,
    randomize,
    requests,
    rich_schema,
    rich_shared_schema,
    run_layer_test,
    tensors,
)
from tests.reference import Reference
from tests.tfdare.models.test_published import policy
from tfdare.compat import raw
from tfdare.layers import AffinityFacts, ContextEmbedding, Head, MatchCounts, ScoreFacts
from tfdare.losses import CandidateCrossentropy
from tfdare.models import TWIN, build_model
from tfdare.schema import CategoricalContext, NumericContext

pytestmark = pytest.mark.keras

CONTEXT = {
    "hour": np.array([2, 5, 0], np.int32),
    "interest": np.array([[2, 7], [3, 0], [0, 0]], np.int32),
    "age": np.array([55.0, np.nan, -np.inf], np.float32),
}


@pytest.fixture(scope="module")
def models():
    return {
        "DARE": randomize(learned_dare(rich_schema(), top_k=3)),
        "TWIN": randomize(
            TWIN(rich_shared_schema(), top_k=3, evidence=[AffinityFacts(), MatchCounts()])
        ),
    }


@pytest.fixture(params=["DARE", "TWIN"])
def model(models, request):
    return models[request.param]


# The layer


def test_context_lives_through_config_trace_fit_and_files(tmp_path):
    inputs = {**CONTEXT, "age": np.array([55.0, np.nan, 1.0], np.float32)}
    run_layer_test(
        ContextEmbedding,
        {"schema": rich_schema()},
        inputs,
        tmp_path,
        lambda layer, context: layer(context),
    )


def test_context_by_hand():
    layer = ContextEmbedding(rich_schema())
    layer.build()
    assert layer.output_dim == 3 + 2 + 2
    output = layer(tensors(CONTEXT)).numpy()
    hour, interest = (raw(layer.tables[name]).numpy() for name in ("hour", "interest"))
    np.testing.assert_array_equal(output[:, :3], hour[[2, 5, 0]])
    wanted = [(interest[2] + interest[7]) / 2, interest[3], [0, 0]]
    np.testing.assert_allclose(output[:, 3:5], wanted, rtol=1e-6)
    # (55 - 40) / 10, known; what is not finite counts as the mean.
    np.testing.assert_allclose(output[:, 5:], [[1.5, 1], [0, 0], [0, 0]], rtol=1e-6)


def test_missing_context_is_named():
    with pytest.raises(ValueError, match=r"Missing context \['age'\]. Received: \['hour', 'int"):
        ContextEmbedding(rich_schema())({k: v for k, v in CONTEXT.items() if k != "age"})


def test_gradient_of_a_number_that_is_not_known_is_finite():
    layer = ContextEmbedding(rich_schema())
    age = tf.constant(CONTEXT["age"])
    with tf.GradientTape() as tape:
        tape.watch(age)
        total = tf.reduce_sum(layer({**CONTEXT, "age": age}))
    np.testing.assert_allclose(tape.gradient(total, age), [0.1, 0, 0], rtol=1e-6)


# The models


@pytest.mark.parametrize("behaviors,seed", [(12, 0), (2, 1), (0, 2)])
def test_model_equals_plain_loops(model, behaviors, seed):
    inputs = requests(model.schema, users=4, behaviors=behaviors, candidates=3, seed=seed)
    index, score, probability, whole = Reference(model).forward(inputs)
    results = model.search(inputs)
    np.testing.assert_array_equal(results["behavior_index"], index)
    np.testing.assert_allclose(results["attention_score"], score, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(inputs), probability, rtol=1e-5)
    outputs = model.forward(tensors(inputs))
    np.testing.assert_allclose(outputs.probability, probability, rtol=1e-5)
    np.testing.assert_allclose(outputs.auxiliary_probability, whole, rtol=1e-5)
    np.testing.assert_array_equal(model.score(results), model(inputs))


def test_every_new_input_matters(model):
    inputs = requests(model.schema, users=2, behaviors=9, lengths=[9, 6], seed=3)
    probability = model(inputs).numpy()
    for name, change in {
        "history_tag": lambda x: np.where(x > 0, x % 7 + 1, 0),
        "target_tag": lambda x: np.where(x > 0, x % 7 + 1, 2),
        "history_time_gap": lambda x: 2 * x + 1,
        "context_hour": lambda x: x % 4 + 1,
        "context_interest": lambda x: np.full_like(x, 6),
        "context_age": lambda x: x + 30,
    }.items():
        moved = model({**inputs, name: change(inputs[name])}).numpy()
        assert np.abs(moved - probability).max() > 1e-4, name


def test_padding_and_the_order_of_values_change_nothing(model):
    inputs = requests(model.schema, users=3, behaviors=9, lengths=[9, 4, 0], seed=4)
    probability = model(inputs).numpy()
    dirty = {name: values.copy() for name, values in inputs.items()}
    beyond = np.arange(9) >= inputs["history_length"][:, None]
    dirty["history_tag"][beyond], dirty["history_time_gap"][beyond] = 8, 2**31 - 1
    np.testing.assert_array_equal(model(dirty), probability)
    assert_same(model.forward(tensors(dirty)), model.forward(tensors(inputs)), 0)
    turned = {
        k: v[..., ::-1] if k.endswith(("_tag", "_interest")) else v for k, v in inputs.items()
    }
    np.testing.assert_allclose(model(turned), probability, rtol=1e-5)
    for u, length in enumerate([9, 4, 0]):
        alone = model(cut(inputs, slice(u, u + 1), slice(length)))
        np.testing.assert_allclose(alone[0], probability[u], rtol=1e-5)


def test_gradients_are_finite_and_reach_every_weight(model):
    inputs = requests(model.schema, users=4, behaviors=9, lengths=[9, 2, 1, 0], seed=11)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.stack(model.forward(tensors(inputs))) ** 2)
    weights = [raw(weight) for weight in model.trainable_weights]
    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all() and np.abs(values).max() > 0, weight.name


def test_keras_file_round_trip(model, tmp_path):
    inputs = requests(model.schema, behaviors=10, seed=5)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert loaded.schema == model.schema
    assert_same(loaded.forward(inputs), model.forward(inputs), 0)


@pytest.mark.parametrize("name", ["SIM-soft", "TWIN-V2", "DARE-whole"])
def test_other_recipes_take_every_kind_of_feature(name):
    inputs = requests(rich_shared_schema(), users=2, behaviors=6, lengths=[6, 0], seed=6)
    parts = {} if name == "DARE-whole" else {"evidence": [MatchCounts(), ScoreFacts()]}
    model = build_model(name, rich_shared_schema(), top_k=2, **parts)
    assert np.isfinite(model(inputs)).all()
    assert_same(model.forward(tensors(inputs)).probability, model(inputs), 1e-6)


@pytest.mark.parametrize("missing", ["history_tag", "history_time_gap", "context_interest"])
def test_missing_tensors_are_named(models, missing):
    inputs = tensors(requests(models["DARE"].schema))
    del inputs[missing]
    for call in (models["DARE"], models["DARE"].forward):
        with pytest.raises(ValueError, match=rf"Missing tensors \['{missing}'\]. Received: "):
            call(inputs)


@pytest.mark.parametrize("name,rank", [("history_tag", 3), ("target_item", 2)])
def test_tensors_of_other_axes_are_refused(models, name, rank):
    inputs = requests(models["DARE"].schema)
    wrong = inputs[name][..., 0] if rank == 3 else inputs[name][..., np.newaxis]
    with pytest.raises(ValueError, match=rf"`{name}` must have {rank} axes. Received: shape"):
        models["DARE"](tensors({**inputs, name: wrong}))


def test_context_alone_can_be_learned():
    schema = dataclasses.replace(
        rich_schema(), context=(CategoricalContext("hour", 6, 3), NumericContext("age"))
    )
    model = learned_dare(schema, top_k=3, head=Head((8,)), auxiliary_weight=0)
    inputs = requests(schema, users=64, behaviors=6, candidates=2, seed=7)
    label = np.repeat((inputs["context_hour"] > 3).astype(np.float32)[:, None], 2, 1)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(0.05), loss=CandidateCrossentropy(), jit_compile=False
    )
    model.fit(inputs, label, batch_size=64, epochs=25, verbose=0)
    right = (model.predict(inputs, verbose=0) > 0.5) == (label > 0.5)
    assert right.mean() > 0.9


@pytest.mark.parametrize("half", ["mixed_float16", "mixed_bfloat16"])
def test_large_numbers_keep_their_precision_in_half_precision(half):
    schema = dataclasses.replace(
        rich_schema(), context=(NumericContext("price", mean=1e6, deviation=10.0),)
    )
    with policy(half):
        model = learned_dare(schema, top_k=3)
    batch = requests(schema, users=2, behaviors=4, seed=8)
    batch["context_price"] = np.array([1e6 + 5, 1e6 - 20], np.float32)
    seen = []
    head = model.head.call

    def call(inputs, **how):
        seen.append(inputs)
        return head(inputs, **how)

    model.head.call = call
    model(tensors(batch))
    assert seen[0].dtype == half.removeprefix("mixed_")
    context = tf.cast(seen[0], tf.float32)[:, 0, -2:]
    np.testing.assert_array_equal(context, [[0.5, 1], [-2, 1]])
