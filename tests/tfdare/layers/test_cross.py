"""The cross layer: by hand, against loops, in mixed precision, and in a model's head."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    flat,
    learned_dare,
    randomize,
    requests,
    run_doctests,
    run_layer_test,
    tensors,
)
from tfdare.compat import raw
from tfdare.layers import Head
from tfdare.layers.cross import Cross

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def randomized(cross, width):
    cross.build((None, None, width))
    cross.set_weights([RNG.normal(0, 0.5, weight.shape) for weight in cross.weights])
    return cross


@pytest.mark.parametrize("projection_dim", [None, 2], ids=["full", "low-rank"])
def test_cross_lives_through_config_trace_fit_and_files(projection_dim, tmp_path):
    config = {"projection_dim": projection_dim, "layers": 3}
    run_layer_test(Cross, config, {"inputs": floats(2, 3, 4)}, tmp_path)


def test_one_layer_by_hand():
    cross = Cross(layers=1)
    cross.build((None, 2))
    cross.set_weights([np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([10.0, 20.0])])
    # W x + b = [1 + 3 * 2, 2 + 4 * 2] + [10, 20] = [17, 30]; times x = [17, 60]; plus x
    assert cross(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[18.0, 62.0]]


def test_low_rank_by_hand():
    cross = Cross(projection_dim=1, layers=1)
    cross.build((None, 2))
    cross.set_weights([np.array([[1.0], [3.0]]), np.array([[2.0, -1.0]]), np.array([0.0, 5.0])])
    # down: 1 * 1 + 3 * 2 = 7; up: [14, -7]; plus bias: [14, -2]; times x: [14, -4]; plus x
    assert cross(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[15.0, -2.0]]


@pytest.mark.parametrize("projection_dim", [None, 3])
def test_layers_against_a_loop(projection_dim):
    cross, inputs = randomized(Cross(projection_dim, layers=3), 5), floats(4, 2, 5)
    weights = iter(cross.get_weights())
    wanted = inputs.astype(np.float64)
    for _ in range(3):
        kernel = next(weights)
        if projection_dim:
            kernel = kernel @ next(weights)
        wanted = inputs * (wanted @ kernel + next(weights)) + wanted
    np.testing.assert_allclose(cross(inputs), wanted, rtol=1e-4, atol=1e-4)


def test_degree_grows_by_one_a_layer():
    """Fits a polynomial of that degree to outputs along a line through 0, without biases."""
    for layers in (1, 2, 3):
        cross = Cross(layers=layers)
        cross.build((None, 3))
        weights = [
            floats(*w.shape) if len(w.shape) > 1 else np.zeros(w.shape, np.float32)
            for w in cross.weights
        ]
        cross.set_weights(weights)
        scale = np.linspace(-1, 1, 9)[:, np.newaxis]
        values = np.asarray(cross(tf.constant(scale * [[1.0, -2.0, 0.5]], tf.float32)))[:, 0]
        lower = np.polynomial.polynomial.polyfit(scale[:, 0], values, layers, full=True)[1][0]
        exact = np.polynomial.polynomial.polyfit(scale[:, 0], values, layers + 1, full=True)[1][0]
        assert exact < 1e-9 < 1e-3 < lower


def test_leading_axes_change_nothing():
    cross, inputs = randomized(Cross(), 4), floats(2, 3, 4)
    together = cross(tf.constant(inputs))
    apart = [cross(tf.constant(row)) for row in inputs.reshape(6, 1, 4)]
    np.testing.assert_allclose(
        np.reshape(together, (6, 4)), np.concatenate(flat(apart)), rtol=1e-5, atol=1e-6
    )


def test_every_weight_gets_a_finite_gradient():
    for cross in (Cross(), Cross(projection_dim=2)):
        randomized(cross, 4)
        weights = [raw(weight) for weight in cross.trainable_weights]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(cross(tf.constant(floats(3, 4))) ** 2)
        for gradient in tape.gradient(loss, weights):
            assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    inputs = floats(2, 3, 4)
    exact = randomized(Cross(projection_dim=2), 4)
    mixed = Cross(projection_dim=2, dtype=tf.keras.mixed_precision.Policy(policy))
    mixed.build((None, None, 4))
    mixed.set_weights(exact.get_weights())
    outputs = mixed(tf.constant(inputs))
    assert outputs.dtype.name == policy.removeprefix("mixed_")
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32), exact(tf.constant(inputs)), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("option", [{"projection_dim": 0}, {"layers": 0}, {"layers": -1}])
def test_sizes_must_be_positive(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"`{name}` must be positive. Received: {name}={value}"):
        Cross(**option)


def test_docstring_examples():
    assert run_doctests("tfdare.layers.cross") > 0


def test_in_the_head_of_a_model(schema, tmp_path):
    def make(**options):
        return randomize(
            learned_dare(schema, top_k=3, head=Head((6,), **options), auxiliary_weight=0)
        )

    model = make(cross=Cross(projection_dim=2))
    inputs = tensors(requests(schema))
    width = model.head_dim
    assert model.head.hidden[0].kernel.shape[0] == 2 * width
    model.save(str(tmp_path / "model.keras"))
    loaded = tf.keras.models.load_model(str(tmp_path / "model.keras"))
    assert isinstance(loaded.head.cross, Cross) and loaded.head.cross.projection_dim == 2
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    # Without what it adds, the head's own half of the input is all that counts.
    kernel = model.head.hidden[0].get_weights()
    kernel[0][width:] = 0
    model.head.hidden[0].set_weights(kernel)
    plain = make()
    kernel[0] = kernel[0][:width]
    plain.head.hidden[0].set_weights(kernel)
    for part in ("norm", "logit"):
        getattr(plain.head, part).set_weights(getattr(model.head, part).get_weights())
    plain.head.slopes[0].set_weights(model.head.slopes[0].get_weights())
    plain.embedding.set_weights(model.embedding.get_weights())
    np.testing.assert_allclose(plain(inputs), model(inputs), atol=1e-6)
