"""The head of two streams, and the attention that averages."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests, run_layer_test
from tfdare.compat import raw
from tfdare.layers import Average, TwoStreamHead, UniformAttention

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)
SMALL = {"units": (4, 6), "gate_units": 3, "heads": 2}
REAL = np.array([[True, True, True], [True, False, False]])


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def built(**changes):
    """Returns a head with random weights, and inputs."""
    head = TwoStreamHead(**{**SMALL, **changes})
    head.build((None, None, 5))
    head.set_weights([np.abs(floats(*weight.shape)) for weight in head.get_weights()])
    return head, tf.constant(floats(2, 3, 5))


def test_head_lives_through_config_trace_fit_and_files(tmp_path):
    inputs = {"inputs": floats(2, 3, 5), "real": REAL}
    run_layer_test(TwoStreamHead, {**SMALL, "dropout": 0.1}, inputs, tmp_path, known=("inputs",))


def test_attention_lives_through_config_trace_fit_and_files(tmp_path):
    inputs = {"query": floats(2, 3, 4), "key": floats(2, 5, 4)}
    run_layer_test(UniformAttention, {}, inputs, tmp_path, known=("query", "key"))


@pytest.mark.parametrize("module", ["two_stream", "uniform"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


def test_head_equals_the_formula():
    head, inputs = built()
    gamma, beta, mean, variance = head.norm.get_weights()
    x = (inputs.numpy() - mean) / np.sqrt(variance + head.norm.epsilon) * gamma + beta

    def dense(layer, x):
        kernel, bias = layer.get_weights()
        return x @ kernel + bias

    streams = []
    for hidden, gate, stream in zip(head.gate_hidden, head.gates, head.streams):
        share = 1 / (1 + np.exp(-dense(gate, np.maximum(dense(hidden, x), 0))))
        streams.append(np.maximum(dense(stream, 2 * share * x), 0))
    wanted = dense(head.linear, np.concatenate(streams, -1))[..., 0]
    kernel = raw(head.bilinear).numpy()
    for u, c in np.ndindex(2, 3):
        for i in range(2):
            first, second = streams[0][u, c, 2 * i : 2 * i + 2], streams[1][u, c, 3 * i : 3 * i + 3]
            wanted[u, c] += first @ kernel[i] @ second
    np.testing.assert_allclose(head(inputs), wanted, rtol=1e-4)


def test_padded_candidates_stay_out_of_the_batch_statistics():
    logits, means = [], []
    for garbage in (0.0, 1e6):
        rng = np.random.default_rng(1)
        head = TwoStreamHead(**SMALL)
        head.build((None, None, 5))
        head.set_weights([rng.uniform(0, 1, weight.shape) for weight in head.get_weights()])
        inputs = rng.normal(size=(2, 3, 5))
        inputs = tf.constant(np.where(REAL[..., None], inputs, garbage), tf.float32)
        logits.append(head(inputs, real=tf.constant(REAL), training=True).numpy()[REAL])
        means.append(np.asarray(head.norm.moving_mean))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(means[0], means[1])


def test_gradients_reach_every_weight():
    head, inputs = built()
    weights = [raw(weight) for weight in head.trainable_weights]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(head(inputs) ** 2)
    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, weight.name


def test_dropout_acts_in_training_alone():
    head, inputs = built(dropout=0.5)
    np.testing.assert_array_equal(head(inputs), head(inputs))
    assert not np.allclose(head(inputs, training=True), head(inputs, training=True))


def test_uniform_attention_averages():
    query, key = (
        [tf.zeros([2, 3, 4]), tf.ones([2, 3, 2])],
        [tf.zeros([2, 5, 4]), tf.ones([2, 5, 2])],
    )
    scores = UniformAttention()(query, key, position_score=tf.range(5.0))
    assert scores.shape == (2, 3, 5)
    real = tf.constant([True, True, False, True, True])
    weights = Average()(scores, real, top_k=5)
    np.testing.assert_allclose(weights, np.broadcast_to([0.25, 0.25, 0, 0.25, 0.25], (2, 3, 5)))


@pytest.mark.parametrize(
    "options,message",
    [
        (
            {"units": (4,)},
            r"`units` must be two positive multiples of heads=2. Received: units=\(4,",
        ),
        ({"units": (4, 5)}, r"Received: units=\(4, 5\)"),
        ({"heads": 0}, "`heads` must be positive. Received: heads=0"),
        ({"gate_units": 0}, "Received: gate_units=0"),
        ({"dropout": 1.0}, "Received: dropout=1.0"),
    ],
)
def test_wrong_arguments_are_quoted(options, message):
    with pytest.raises(ValueError, match=message):
        TwoStreamHead(**{**SMALL, **options})
