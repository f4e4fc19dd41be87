"""The head: normalization over real candidates, crosses, dropout."""

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests, run_layer_test
from tfdare.layers import Head
from tfdare.layers.cross import Cross

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


REAL = np.array([[True, True, True], [True, False, False]])
LIVES = {
    "normalized": ({"units": (6, 4)}, {"inputs": floats(2, 3, 5), "real": REAL}),
    "plain": ({"units": (6,), "batch_norm": False, "dropout": 0.1}, {"inputs": floats(2, 3, 5)}),
    "crossed": ({"units": (6,), "cross": Cross(2)}, {"inputs": floats(2, 3, 5)}),
}


@pytest.mark.parametrize("name", LIVES)
def test_head_lives_through_config_trace_fit_and_files(name, tmp_path):
    config, inputs = LIVES[name]
    run_layer_test(Head, config, inputs, tmp_path, known=("inputs",))


def test_docstring_examples():
    assert run_doctests("tfdare.layers.head") > 0


def test_head_by_hand():
    head = Head(units=(2,), batch_norm=False)
    head.build((None, None, 2))
    head.set_weights(
        [
            np.array([[1.0, 0.0], [0.0, -1.0]]),  # kernel
            np.array([0.5, 0.0]),  # bias
            np.array([[0.1, 0.25]]),  # slopes of PReLU
            np.array([[2.0], [4.0]]),
            np.array([1.0]),
        ]
    )
    # [3, 2] -> [3.5, -2] -> [3.5, -0.5] -> 7 - 2 + 1
    assert head(tf.constant([[[3.0, 2.0]]])).numpy().tolist() == [[6.0]]


def test_head_normalizes_over_real_candidates_only():
    inputs = floats(3, 4, 5)
    lengths = np.array([4, 2, 3])
    real = np.arange(4) < lengths[:, None]
    heads = [Head(units=(6,)) for _ in range(2)]
    for head in heads:
        head.build((None, None, 5))
    heads[1].set_weights(heads[0].get_weights())
    garbage = np.where(real[:, :, None], inputs, 1e6).astype(np.float32)
    logits = heads[0](tf.constant(garbage), real=tf.constant(real), training=True)
    kept = heads[1](tf.constant(inputs[real][:, None, :]), training=True)
    np.testing.assert_allclose(logits.numpy()[real], kept[:, 0], rtol=1e-4, atol=1e-5)
    moving = [head.norm.moving_mean for head in heads]
    np.testing.assert_allclose(moving[0], moving[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moving[0], 0.1 * inputs[real].mean(0), rtol=1e-4, atol=1e-6)
    moving = [head.norm.moving_variance for head in heads]
    np.testing.assert_allclose(moving[0], 0.9 + 0.1 * inputs[real].var(0), rtol=1e-4)


def test_head_refuses_units():
    with pytest.raises(ValueError, match=r"Received: units=\(8, 0\)"):
        Head(units=(8, 0))


@pytest.mark.parametrize("dropout", [-0.1, 1])
def test_head_refuses_dropout(dropout):
    with pytest.raises(ValueError, match=f"Received: dropout={dropout}"):
        Head(dropout=dropout)


def test_dropout_acts_in_training_alone():
    head = Head(units=(50,), batch_norm=False, dropout=0.5)
    inputs = tf.constant(floats(1, 2, 5))
    np.testing.assert_array_equal(head(inputs), head(inputs))
    assert not np.allclose(head(inputs, training=True), head(inputs, training=True))


def test_cross_is_put_beside_its_input():
    class Double(tf.keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    head = Head(units=(), batch_norm=False, cross=Double())
    head.build((None, None, 2))
    head.set_weights([np.array([[1.0], [10.0], [100.0], [1000.0]]), np.array([0.5])])
    # [3, 4] and [6, 8] beside it.
    assert head(tf.constant([[[3.0, 4.0]]])).numpy().tolist() == [[3 + 40 + 600 + 8000 + 0.5]]
