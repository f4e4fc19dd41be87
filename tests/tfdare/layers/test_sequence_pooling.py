"""Poolings that read behaviors in order: each against plain loops over single behaviors."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests, run_layer_test
from tfdare.compat import raw
from tfdare.layers import (
    EncoderLayer,
    EvolutionPooling,
    FourierPooling,
    MultiHeadPooling,
    ScaledDense,
    TransformerPooling,
)
from tfdare.layers.fourier import hilbert_matrix

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)
DIM, SLOTS = 4, 5


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def slots(count):
    """Draws targets, behaviors, scores, and which slots are real: some, the first, none, all."""
    real = np.ones((2, 3, count), bool)
    real[0, 1, 1:], real[0, 2] = False, False
    real[1, :, -1], real[1, 0, 1] = False, False
    return {
        "target": floats(2, 3, DIM),
        "behaviors": floats(2, 3, count, DIM),
        "scores": floats(2, 3, count),
        "real": real,
    }


FOUND, THREE_SETS = slots(SLOTS), slots(3 * SLOTS)
POOLINGS = {
    "EvolutionPooling": (EvolutionPooling, {}, FOUND),
    "TransformerPooling": (
        TransformerPooling,
        {"layers": 2, "heads": 2, "units": 3, "latest": 2},
        FOUND,
    ),
    "FourierPooling": (FourierPooling, {"blocks": 2, "heads": 2, "head_dim": 3}, THREE_SETS),
}


def pooled(layer, inputs):
    return layer(**inputs, top_k=SLOTS)


def built(name):
    """Returns a pooling with random weights, and inputs as tensors."""
    layer_class, config, inputs = POOLINGS[name]
    layer = layer_class(**config)
    layer.build((None, None, DIM))
    layer.set_weights([0.5 * floats(*weight.shape) for weight in layer.get_weights()])
    return layer, {key: tf.constant(value) for key, value in inputs.items()}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_lives_through_config_trace_fit_and_files(name, tmp_path):
    run_layer_test(*POOLINGS[name], tmp_path, pooled, known=("target", "behaviors"))


def test_encoder_layer_lives_through_config_trace_fit_and_files(tmp_path):
    inputs = {"inputs": FOUND["behaviors"], "real": FOUND["real"]}
    run_layer_test(EncoderLayer, {"heads": 2, "units": 3}, inputs, tmp_path, known=("inputs",))


def test_scaled_dense_lives_through_config_trace_fit_and_files(tmp_path):
    inputs = {"inputs": floats(2, 3, DIM)}
    run_layer_test(
        ScaledDense, {"units": 3, "activation": "relu"}, inputs, tmp_path, known=("inputs",)
    )


def test_scaled_dense_divides_by_the_root_of_the_width():
    layer = ScaledDense(1)
    layer.build((None, 4))
    layer.set_weights([np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([0.5])])
    assert layer(tf.constant([[1.0, 1.0, 1.0, 1.0]])).numpy().tolist() == [[5.5]]


@pytest.mark.parametrize("module", ["encoder_layer", "scaled_dense"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


# Properties


@pytest.mark.parametrize("name", POOLINGS)
def test_output_dim_is_the_width_and_permuted_candidates_permute(name):
    layer, inputs = built(name)
    outputs = pooled(layer, inputs)
    assert outputs.shape == (2, 3, layer.output_dim(DIM))
    np.testing.assert_array_equal(outputs[..., :DIM], inputs["target"])
    order = [2, 0, 1]
    moved = pooled(layer, {k: tf.gather(v, order, axis=1) for k, v in inputs.items()})
    np.testing.assert_allclose(moved, outputs.numpy()[:, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_garbage_in_empty_slots_changes_nothing(name):
    layer, inputs = built(name)
    outputs = pooled(layer, inputs)
    assert np.isfinite(outputs).all()
    real = inputs["real"][..., tf.newaxis]
    inputs["behaviors"] = tf.where(real, inputs["behaviors"], 1e6)
    inputs["scores"] = tf.where(inputs["real"], inputs["scores"], 1e6)
    np.testing.assert_array_equal(pooled(layer, inputs), outputs)


@pytest.mark.parametrize("name", ["EvolutionPooling", "TransformerPooling"])
def test_slots_beyond_those_searched_are_not_read(name):
    layer, inputs = built(name)
    wider = {
        key: value if key == "target" else tf.concat([value, value], axis=2)
        for key, value in inputs.items()
    }
    np.testing.assert_allclose(pooled(layer, wider), pooled(layer, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_are_finite_and_reach_every_weight(name):
    layer, inputs = built(name)
    weights = [raw(weight) for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(inputs["behaviors"])
        total = tf.reduce_sum(pooled(layer, inputs) ** 2)
    *gradients, of_behaviors = tape.gradient(total, [*weights, inputs["behaviors"]])
    for weight, gradient in zip(weights, gradients):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, weight.name
    reached = np.abs(of_behaviors).max(-1) > 0
    np.testing.assert_array_equal(reached, inputs["real"])


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(name, policy):
    layer, inputs = built(name)
    layer_class, config, _ = POOLINGS[name]
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        low = layer_class(**config)
        low.build((None, None, DIM))
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    low.set_weights(layer.get_weights())
    half = {
        k: tf.cast(v, low.compute_dtype) if v.dtype.is_floating else v for k, v in inputs.items()
    }
    outputs = pooled(low, half)
    assert outputs.dtype.name == low.compute_dtype
    difference = np.abs(tf.cast(outputs, tf.float32) - pooled(layer, inputs))
    assert np.isfinite(difference).all() and np.median(difference) < 0.05


def permuted(inputs, order):
    return {k: v if k == "target" else tf.gather(v, order, axis=2) for k, v in inputs.items()}


def test_the_order_of_behaviors_matters_to_evolution_alone():
    layer, inputs = built("EvolutionPooling")
    inputs["real"] = tf.ones_like(inputs["real"])
    outputs = pooled(layer, inputs).numpy()
    moved = pooled(layer, permuted(inputs, [1, 0, 3, 2, 4])).numpy()
    np.testing.assert_allclose(moved[..., : 3 * DIM], outputs[..., : 3 * DIM], atol=1e-5)
    assert (np.abs(moved - outputs)[..., 3 * DIM :].max(-1) > 1e-3).all()


def test_permuted_behaviors_permute_outputs_of_the_encoder():
    layer = EncoderLayer(heads=2, units=3)
    layer.build((None, None, None, DIM))
    behaviors, real = tf.constant(FOUND["behaviors"]), tf.constant(FOUND["real"])
    order = [3, 0, 4, 1, 2]
    moved = layer(tf.gather(behaviors, order, axis=2), tf.gather(real, order, axis=2))
    outputs = tf.gather(layer(behaviors, real), order, axis=2)
    np.testing.assert_allclose(moved, outputs, rtol=1e-4, atol=1e-5)


def test_which_behaviors_are_the_newest_matters_to_the_transformer():
    layer, inputs = built("TransformerPooling")
    inputs["real"] = tf.ones_like(inputs["real"])
    outputs = pooled(layer, inputs)
    older = pooled(layer, permuted(inputs, [0, 1, 4, 3, 2]))  # behind those passed on
    np.testing.assert_allclose(older, outputs, rtol=1e-4, atol=1e-5)
    moved = pooled(layer, permuted(inputs, [1, 0, 2, 3, 4]))
    assert (np.abs(moved - outputs)[..., DIM:].max(-1) > 1e-3).all()


# Against plain loops


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_gru(cell, inputs, gates):
    """Returns the states of a GRU, one behavior after the other."""
    kernel, recurrent, bias = (
        np.split(raw(cell[name]).numpy(), 3, axis=-1) for name in ("kernel", "recurrent", "bias")
    )
    state, states = np.zeros(DIM), []
    for x, gate in zip(inputs, gates):
        update = gate * sigmoid(x @ kernel[0] + state @ recurrent[0] + bias[0])
        reset = sigmoid(x @ kernel[1] + state @ recurrent[1] + bias[1])
        candidate = np.tanh(x @ kernel[2] + reset * (state @ recurrent[2]) + bias[2])
        state = (1 - update) * state + update * candidate
        states.append(state)
    return states


def test_evolution_equals_plain_loops():
    layer, inputs = built("EvolutionPooling")
    outputs = pooled(layer, inputs).numpy()
    kernel = raw(layer.attention_kernel).numpy()
    for u, c in np.ndindex(2, 3):
        target = inputs["target"][u, c].numpy()
        behaviors = inputs["behaviors"][u, c].numpy()[inputs["real"][u, c].numpy()][::-1]
        interests = plain_gru(layer.cells["interest"], behaviors, np.ones(len(behaviors)))
        exponents = np.exp([interest @ kernel @ target for interest in interests])
        weights = exponents / exponents.sum() if len(interests) else []
        final = plain_gru(layer.cells["evolution"], interests, weights)
        total = behaviors.sum(0)
        final = final[-1] if final else np.zeros(DIM)
        wanted = np.concatenate([target, total, target * total, final])
        np.testing.assert_allclose(outputs[u, c], wanted, rtol=1e-4, atol=1e-5)


def normalized(x, norm):
    gamma, beta = norm.get_weights()
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + norm.epsilon
    ) * gamma + beta


def plain_encoder(layer, inputs):
    """Computes an encoder layer over real behaviors [K, D], one head at a time."""
    dense = {
        name: getattr(layer, name).get_weights()
        for name in ("query_key_value", "joined", "hidden", "outward")
    }

    def mapped(x, name):
        kernel, bias = dense[name]
        return x @ kernel / np.sqrt(x.shape[-1]) + bias

    query, key, value = (
        np.split(part, layer.heads, axis=-1)
        for part in np.split(
            mapped(normalized(inputs, layer.attention_norm), "query_key_value"), 3, axis=-1
        )
    )
    heads = []
    for q, k, v in zip(query, key, value):
        exponents = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
        heads.append(exponents / exponents.sum(-1, keepdims=True) @ v)
    attended = mapped(np.concatenate(heads, -1), "joined")
    outputs = inputs + attended
    hidden = np.maximum(mapped(normalized(outputs, layer.output_norm), "hidden"), 0)
    return outputs + mapped(hidden, "outward")


def test_transformer_equals_plain_loops():
    layer, inputs = built("TransformerPooling")
    outputs = pooled(layer, inputs).numpy()
    kernel, bias = layer.joined.get_weights()
    for u, c in np.ndindex(2, 3):
        target = inputs["target"][u, c].numpy()
        real = inputs["real"][u, c].numpy()
        every = np.zeros((SLOTS, 2 * DIM))
        highest = np.zeros(2 * DIM)
        if real.any():
            behaviors = inputs["behaviors"][u, c].numpy()[real]
            encoded = np.concatenate([behaviors, np.tile(target, (len(behaviors), 1))], -1)
            for encoder in layer.encoder:
                encoded = plain_encoder(encoder, encoded)
            encoded = normalized(encoded, layer.output_norm)
            every[real], highest = encoded, encoded.max(0)
        joined = np.concatenate([highest, every[:2].ravel()])
        wanted = np.concatenate([target, joined @ kernel / np.sqrt(len(joined)) + bias])
        np.testing.assert_allclose(outputs[u, c], wanted, rtol=1e-3, atol=1e-4)


def test_fewer_slots_than_outputs_are_filled_with_zeros():
    layers = [TransformerPooling(latest=latest, units=3) for latest in (3, 5)]
    for layer in layers:
        layer.build((None, None, DIM))
    weights = layers[0].get_weights()
    wider = [
        np.pad(w, [(0, b - a) for a, b in zip(w.shape, other.shape)])
        for w, other in zip(weights, layers[1].get_weights())
    ]
    layers[1].set_weights(wider)
    inputs = {key: tf.constant(value) for key, value in FOUND.items()}
    narrow, wide = (layer(**inputs, top_k=3).numpy()[..., DIM:] for layer in layers)
    np.testing.assert_allclose(wide, narrow * np.sqrt(4 / 6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_hilbert_matrix_equals_the_transform(size):
    sequence = RNG.normal(size=(size, 3))
    turned = np.fft.irfft(1j * np.fft.rfft(sequence, axis=0), n=size, axis=0)
    np.testing.assert_allclose(hilbert_matrix(size) @ sequence, turned, atol=1e-5)


def test_fourier_equals_transforms_of_single_sequences():
    layer, inputs = built("FourierPooling")
    outputs = pooled(layer, inputs).numpy()
    interests, present = np.zeros((2, 3, 3, DIM), np.float32), np.zeros((2, 3, 3), bool)
    for u, c, i in np.ndindex(2, 3, 3):
        part = slice(i * SLOTS, (i + 1) * SLOTS)
        real = inputs["real"][u, c, part].numpy()
        behaviors = np.where(real[:, None], inputs["behaviors"][u, c, part].numpy(), 0)
        spectrum = np.fft.rfft(behaviors, axis=0)
        plain, imaginary = (raw(weight).numpy() for weight in layer.filters[i])
        for block in range(2):
            columns = slice(2 * block, 2 * block + 2)
            spectrum[:, columns] = spectrum[:, columns] @ (plain[block] + 1j * imaginary[block])
        refined = behaviors + np.fft.irfft(spectrum, n=SLOTS, axis=0)
        refined = normalized(refined, layer.norms[i])[real]
        present[u, c, i] = real.any()
        interests[u, c, i] = refined.mean(0) if real.any() else 0
    attention = MultiHeadPooling(2, 3)
    attention.build((None, None, DIM))
    attention.set_weights(layer.attention.get_weights())
    wanted = attention(
        inputs["target"], tf.constant(interests), None, tf.constant(present), top_k=3
    )
    np.testing.assert_allclose(outputs, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dim,blocks", [(4, 4), (6, 2), (5, 1)])
def test_blocks_divide_the_columns(dim, blocks):
    layer = FourierPooling()
    layer.build((None, None, dim))
    assert layer.filters[0][0].shape == (blocks, dim // blocks, dim // blocks)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: TransformerPooling(layers=0), "`layers` must be positive. Received: layers=0"),
        (lambda: TransformerPooling(latest=0), "Received: latest=0"),
        (lambda: EncoderLayer(heads=0, units=1), "Received: heads=0"),
        (lambda: EncoderLayer(heads=1, units=0), "Received: units=0"),
        (lambda: FourierPooling(blocks=0), "Received: blocks=0"),
        (
            lambda: TransformerPooling(heads=3).build((None, None, 4)),
            "`heads` must divide 8 columns. Received: heads=3",
        ),
    ],
)
def test_wrong_arguments_are_quoted(make, message):
    with pytest.raises(ValueError, match=message):
        make()
