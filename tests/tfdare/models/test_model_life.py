"""A model's files, its size, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import assert_same, learned_dare, randomize, requests, run_doctests, tensors
from tfdare.layers import ClusterAttention, DecoupledEmbedding, Head, MatchSearch, TopKSearch
from tfdare.losses import CandidateCrossentropy
from tfdare.models import TwoStageModel, build_model
from tfdare.schema import Feature, Schema

pytestmark = pytest.mark.keras


@pytest.mark.parametrize("name", ["dare", "twin", "no auxiliary"])
def test_keras_file_and_weights_round_trip(name, request, schema, tmp_path):
    if name == "no auxiliary":
        model = randomize(learned_dare(schema, top_k=3, auxiliary_weight=0, head=Head((6,))))
    else:
        model = request.getfixturevalue(name)
    inputs = requests(model.schema, behaviors=10, seed=15)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert isinstance(loaded, TwoStageModel)
    assert loaded.name == model.name
    assert loaded.schema == model.schema
    assert loaded.search_layer.top_k == 3
    assert loaded.auxiliary_weight == model.auxiliary_weight
    assert_same(loaded(inputs), model(inputs), 0)
    assert_same(loaded.forward(inputs), model.forward(inputs), 0)
    fresh = TwoStageModel.from_config(model.get_config())
    assert len(fresh.weights) == len(model.weights)
    weights = str(tmp_path / "model.weights.h5")
    model.save_weights(weights)
    assert not np.allclose(fresh(inputs), model(inputs), atol=1e-3)
    fresh.load_weights(weights)
    assert_same(fresh.forward(inputs), model.forward(inputs), 0)


def test_model_is_built_without_data(schema):
    model = learned_dare(
        schema, top_k=3, head=Head((6, 4)), auxiliary_head=Head((5,), batch_norm=False)
    )
    assert model.built
    tables = 30 * 3 + 7 * 2 + 30 * 4 + 7 * 3 + 9 * 5 + 9 * 2
    # Three times 9 columns come in, counts of two features, two facts of scores and affinities
    # each, the number of behaviors, and mean scores of two features; batch normalization has two
    # moving ones more.
    head = 4 * 36 + (36 * 6 + 6 + 6) + (6 * 4 + 4 + 4) + (4 + 1)
    auxiliary = (27 * 5 + 5 + 5) + (5 + 1)
    assert model.count_params() == tables + head + auxiliary


def test_wrong_arguments_are_quoted(schema):
    with pytest.raises(ValueError, match="must not be negative. Received: -0.5"):
        learned_dare(schema, auxiliary_weight=-0.5)
    with pytest.raises(ValueError, match="Received: top_k=0"):
        learned_dare(schema, top_k=0)
    with pytest.raises(ValueError, match="window of 12 behaviors. Received: top_k=13"):
        learned_dare(schema, top_k=13)
    with pytest.raises(ValueError, match="window of 12 behaviors. Received: recent=13"):
        learned_dare(schema, search=TopKSearch(3, recent=13))


@pytest.mark.parametrize(
    "parts",
    [
        {"search": MatchSearch(2)},
        {"search": MatchSearch(2, feature="tag")},
        {"attention": ClusterAttention(2), "search": TopKSearch(2)},
    ],
)
def test_a_feature_to_compare_that_is_missing_is_named_at_build_time(parts):
    schema = Schema((Feature("item", 9), Feature("tag", 9, max_values=2)), window=12)
    with pytest.raises(
        ValueError,
        match=(
            r"(MatchSearch|ClusterAttention) needs the feature '(category|tag)', with one value. "
            r"Received: features with one value \['item'\]"
        ),
    ):
        TwoStageModel(DecoupledEmbedding(schema), **parts)


@pytest.mark.parametrize(
    "missing", ["history_item", "history_category", "history_length", "target_category"]
)
@pytest.mark.parametrize("what", ["search", "forward", "__call__"])
def test_missing_tensors_are_named(dare, missing, what):
    inputs = tensors(requests(dare.schema))
    del inputs[missing]
    with pytest.raises(ValueError, match=rf"Missing tensors \['{missing}'\]. Received: "):
        getattr(dare, what)(inputs)


@pytest.mark.parametrize("missing", ["behavior_position", "attention_score", "behavior_item"])
def test_missing_tensors_of_score_are_named(dare, missing):
    results = dare.search(requests(dare.schema))
    del results[missing]
    with pytest.raises(ValueError, match=rf"Missing tensors \['{missing}'\]"):
        dare.score(results)


def test_search_layer_is_the_one_given(schema):
    model = TwoStageModel(DecoupledEmbedding(schema), search=TopKSearch(2))
    assert model.search(requests(schema))["behavior_index"].shape[-1] == 2


def held_tensors(model):
    """Lists the attributes of a model and its layers that hold a tensor."""
    return [
        name
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if any(isinstance(x, tf.Tensor) for x in (value if isinstance(value, tuple) else [value]))
    ]


@pytest.mark.parametrize("kind", ["eager", "traced"])
def test_a_training_call_outside_fit_leaves_no_tensor_behind(schema, kind):
    model = randomize(learned_dare(schema, top_k=3, head=Head((6,))))
    model.compile("sgd", CandidateCrossentropy())
    inputs = tensors(requests(schema))
    label = tf.cast(inputs["target_item"] % 2, tf.float32)
    wanted = CandidateCrossentropy()(label, model(inputs))
    call = model if kind == "eager" else tf.function(model, autograph=False)
    probability = call(inputs, training=True)
    assert isinstance(probability, tf.Tensor) and probability.shape == label.shape
    assert held_tensors(model) == []
    randomize(model)  # the call moved batch statistics
    assert float(model.compute_loss(inputs, label, model(inputs))) == pytest.approx(float(wanted))


def test_a_training_step_that_fails_leaves_the_model_as_it_was(schema):
    model = randomize(learned_dare(schema, top_k=3, head=Head((6,))))
    model.compile("sgd", CandidateCrossentropy(), run_eagerly=True)
    inputs = requests(schema)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be finite"):
        model.fit(inputs, np.full((3, 4), np.nan), verbose=0)
    assert held_tensors(model) == []
    assert isinstance(model(inputs, training=True), tf.Tensor)


def test_only_the_two_stage_model_searches(schema):
    assert learned_dare(schema, top_k=3).searches
    assert not build_model("DARE-whole", schema).searches


@pytest.mark.parametrize(
    "module", ["tfdare.models.published", "tfdare.schema.schema", "tfdare.schema.features"]
)
def test_docstring_examples(module):
    assert run_doctests(module) > 0
