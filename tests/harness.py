"""The test that every layer passes, and small schemas and requests that tests share."""

import dataclasses
import doctest
import importlib
import json

import numpy as np
import tensorflow as tf

from tfdare.compat import deserialize, raw, register, serialize
from tfdare.layers import TopKSearch
from tfdare.schema import (
    CategoricalContext,
    Feature,
    NumericContext,
    Position,
    Schema,
    TimeGap,
)

UNKNOWN = None


@register
class StraightSearch(TopKSearch):
    """A subclass of TopKSearch, to which a model therefore passes all scores."""

    def call(self, scores, history_length, query=None, key=None, target=None, history=None):
        return super().call(scores, history_length)


def tiny_schema(window=12, **position) -> Schema:
    """Returns two features whose dimensions all differ, and positions that fold into buckets."""
    options = {"exact": 4, "per_octave": 2, "attention_dim": 5, "representation_dim": 2, **position}
    return Schema(
        (
            Feature("item", 30, attention_dim=3, representation_dim=4),
            Feature("category", 7, attention_dim=2, representation_dim=3),
        ),
        window=window,
        position=Position(**options),
    )


def shared_schema() -> Schema:
    """Returns :func:`tiny_schema` with dimensions that one table can serve."""
    return tiny_schema().with_dims(4, 4)


def rich_schema(window=12) -> Schema:
    """Adds a feature of several values, a time gap and context of every kind to the tiny schema."""
    tiny = tiny_schema(window)
    return dataclasses.replace(
        tiny,
        features=(*tiny.features, Feature("tag", 9, 2, 3, max_values=3)),
        time_gap=TimeGap(octaves=6, per_octave=1, attention_dim=3, representation_dim=2),
        context=(
            CategoricalContext("hour", 6, dim=3),
            CategoricalContext("interest", 8, dim=2, max_values=2),
            NumericContext("age", mean=40.0, deviation=10.0),
        ),
    )


def rich_shared_schema() -> Schema:
    """Returns :func:`rich_schema` with dimensions that one table can serve."""
    return rich_schema().with_dims(4, 4)


def randomize(model, seed=0):
    """Sets random weights, large enough that no test passes because outputs are nearly zero."""
    rng = np.random.default_rng(seed)

    def values(weight):
        if "variance" in weight.name:
            return rng.uniform(0.5, 1.5, weight.shape)
        if "kernel" in weight.name:
            return rng.normal(0, weight.shape[0] ** -0.5, weight.shape)
        return rng.normal(0, 0.5, weight.shape)

    model.set_weights([values(weight) for weight in model.weights])
    return model


def requests(schema, users=3, behaviors=8, candidates=4, lengths=None, seed=0):
    """Draws random requests; the padding of histories is random ids, which nothing may read.

    Features of several values have none to all of them, time gaps all magnitudes, and every other
    number of the context is unknown.
    """
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = rng.integers(0, behaviors + 1, users)
    arrays = {"history_length": np.asarray(lengths, np.int32)}

    def ids(part, *shape):
        if part.max_values == 1:
            return rng.integers(1, part.vocabulary_size, shape).astype(np.int32)
        values = rng.integers(1, part.vocabulary_size, (*shape, part.max_values))
        count = rng.integers(0, part.max_values + 1, (*shape, 1))
        return np.where(np.arange(part.max_values) < count, values, 0).astype(np.int32)

    for feature in schema.features:
        for kind, columns in (("history", behaviors), ("target", candidates)):
            arrays[f"{kind}_{feature.name}"] = ids(feature, users, columns)
    if schema.time_gap is not None:
        gap = np.exp2(rng.uniform(0, 9, (users, behaviors))) - 1
        arrays["history_time_gap"] = gap.astype(np.int32)
    for part in schema.context:
        if isinstance(part, CategoricalContext):
            arrays[f"context_{part.name}"] = ids(part, users)
        else:
            number = part.mean + part.deviation * rng.normal(size=users)
            number[1::2] = np.nan
            arrays[f"context_{part.name}"] = number.astype(np.float32)
    return arrays


def cut(arrays, users=slice(None), behaviors=slice(None)):
    """Selects users of requests, and columns of their histories."""
    return {
        name: array[users][:, behaviors]
        if name.startswith("history_") and array.ndim > 1
        else array[users]
        for name, array in arrays.items()
    }


def tensors(arrays):
    return {name: tf.constant(array) for name, array in arrays.items()}


def flat(outputs):
    """Flattens nested outputs to a list of numpy arrays."""
    return [np.asarray(output) for output in tf.nest.flatten(outputs) if output is not None]


def assert_same(got, wanted, tolerance=1e-6):
    got, wanted = flat(got), flat(wanted)
    assert len(got) == len(wanted)
    for actual, expected in zip(got, wanted):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def run_doctests(name: str) -> int:
    """Runs the examples of a module; returns how many there were."""
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0
    return result.attempted


def run_layer_test(layer_class, config, inputs, folder, call=None, known=()):
    """Tests a layer's config, call, trace, fit, ``.keras`` file and SavedModel.

    Args:
        layer_class: the class.
        config: its arguments, without a name.
        inputs: arrays by name, batch first.
        folder: an empty folder.
        call: function of the layer and tensors by name. Defaults to passing them as keywords.
        known: names of inputs whose last axis is always known.
    """
    call = call or (lambda layer, tensors: layer(**tensors))
    layer = layer_class(**config, name="tested")
    _check_config(layer_class, layer)
    arguments = tensors(inputs)
    eager = call(layer, arguments)
    again = layer_class.from_config(layer.get_config())
    call(again, arguments)
    again.set_weights(layer.get_weights())
    assert_same(call(again, arguments), eager)
    specs = {
        name: tf.TensorSpec(
            [UNKNOWN] * (array.ndim - 1) + [array.shape[-1] if name in known else UNKNOWN],
            array.dtype,
            name,
        )
        for name, array in inputs.items()
    }
    traced = tf.function(lambda **kw: call(layer, kw), autograph=False).get_concrete_function(
        **specs
    )
    assert_same(traced(**arguments), eager)
    _check_saved_model(layer, call, arguments, specs, eager, str(folder / "saved_model"))
    _check_fit_and_keras_file(layer_class, config, inputs, str(folder / "model.keras"), call)


def _check_config(layer_class, layer):
    config = json.loads(json.dumps(layer.get_config()))
    rebuilt = layer_class.from_config(config)
    assert json.loads(json.dumps(rebuilt.get_config())) == config
    assert rebuilt.name == "tested"
    packed = json.loads(json.dumps(serialize(layer)))
    assert packed["registered_name"] == f"tfdare>{layer_class.__name__}"
    unpacked = deserialize(packed)
    assert type(unpacked) is layer_class
    assert json.loads(json.dumps(unpacked.get_config())) == config


def _check_saved_model(layer, call, arguments, specs, eager, path):
    module = tf.Module()
    module.held = [raw(weight) for weight in layer.weights]
    function = tf.function(
        lambda **kw: {str(i): x for i, x in enumerate(tf.nest.flatten(call(layer, kw)))},
        autograph=False,
    ).get_concrete_function(**specs)
    tf.saved_model.save(module, path, signatures=function)
    answers = tf.saved_model.load(path).signatures["serving_default"](**arguments)
    assert_same([answers[str(i)] for i in range(len(answers))], tf.nest.flatten(eager))


def _check_fit_and_keras_file(layer_class, config, inputs, path, call):
    layer = layer_class(**config, name="tested")
    symbolic = {
        name: tf.keras.Input(array.shape[1:], dtype=str(array.dtype), name=name)
        for name, array in inputs.items()
    }
    outputs = call(layer, symbolic)
    floats = [x for x in tf.nest.flatten(outputs) if "float" in str(x.dtype)]
    ends = [tf.keras.layers.Flatten()(x) for x in floats]
    together = ends[0] if len(ends) == 1 else tf.keras.layers.Concatenate()(ends)
    last = tf.keras.layers.Dense(1)(together)
    model = tf.keras.Model(symbolic, [last, *tf.nest.flatten(outputs)])
    fitted = tf.keras.Model(symbolic, last)
    before = [weight.copy() for weight in layer.get_weights()]
    fitted.compile(optimizer=tf.keras.optimizers.SGD(0.1), loss="mse")
    history = fitted.fit(inputs, np.ones((len(next(iter(inputs.values()))), 1)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    if layer.trainable_weights:
        moved = [not np.array_equal(a, b) for a, b in zip(before, layer.get_weights())]
        assert any(moved)
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.get_layer("tested")) is layer_class
    assert_same(loaded(tensors(inputs)), model(tensors(inputs)))


def learned_dare(schema, top_k: int = 20, **kwargs):
    """Builds a DARE whose attention is learned: every part of the published model, and evidence."""
    from tfdare.models import build_model

    return build_model("DARE-learned", schema, top_k=top_k, **kwargs)
