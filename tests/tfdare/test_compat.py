"""One code for Keras 2 and 3: variables, registration, fit, backup, and TF Recommenders."""

import os
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import learned_dare, randomize, requests, shared_schema
from tfdare.compat import KERAS_3, deserialize, raw, register, serialize
from tfdare.layers import Head, TopKSearch
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics import RequestGAUC
from tfdare.models import TWIN
from tfdare.optimizers import SparseAdam

pytestmark = pytest.mark.keras


def test_keras_is_of_the_requested_generation():
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "0").lower() in ("1", "true")
    assert legacy != KERAS_3
    assert hasattr(tf.keras, "ops") == KERAS_3


def test_raw_is_the_variable_itself():
    layer = tf.keras.layers.Dense(2)
    layer.build((None, 3))
    kernel = raw(layer.kernel)
    assert isinstance(kernel, tf.Variable)
    kernel.assign(tf.ones([3, 2]))
    assert layer.get_weights()[0].tolist() == [[1.0, 1.0]] * 3
    variable = tf.Variable([1.0, 2.0])
    assert raw(variable) is variable


def test_gather_from_raw_has_a_sparse_gradient():
    layer = tf.keras.layers.Embedding(5, 2)
    layer.build((None,))
    table = raw(layer.embeddings)
    with tf.GradientTape() as tape:
        looked_up = tf.gather(table, [3, 3])
    assert isinstance(tape.gradient(looked_up, table), tf.IndexedSlices)


def test_serialize_and_deserialize():
    packed = serialize(TopKSearch(7, name="seven"))
    assert packed["registered_name"] == "tfdare>TopKSearch"
    again = deserialize(packed)
    assert (type(again), again.top_k, again.name) == (TopKSearch, 7, "seven")
    assert deserialize(again) is again
    assert deserialize(None) is None


def test_register_names_the_package():
    @register
    class OnlyHere(tf.keras.layers.Layer):
        pass

    assert serialize(OnlyHere())["registered_name"] == "tfdare>OnlyHere"
    assert type(deserialize(serialize(OnlyHere()))) is OnlyHere


def _dataset(schema, batches=3, users=4):
    inputs = requests(schema, users=batches * users, seed=20)
    inputs["target_length"] = np.resize(np.array([4, 1, 3], np.int32), batches * users)
    label = (inputs["target_item"] % 2).astype(np.float32)
    weight = (np.arange(4) < inputs["target_length"][:, None]).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, label, weight)).batch(users)


def _model(schema, kind=learned_dare):
    return randomize(
        kind(schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False))
    )


def test_twin_fits():
    model = _model(shared_schema(), TWIN)
    model.compile(SparseAdam(0.05), CandidateCrossentropy(), run_eagerly=True)
    loss = model.fit(_dataset(model.schema, batches=1), epochs=6, verbose=0).history["loss"]
    assert loss[-1] < 0.8 * loss[0]


def test_plain_compile_and_fit_without_a_warning(schema, tmp_path):
    model = _model(schema)
    data = _dataset(schema)
    model.compile(
        optimizer=SparseAdam(0.05),
        loss=CandidateCrossentropy(),
        weighted_metrics=[tf.keras.metrics.AUC(name="auc"), RequestGAUC()],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(
            data,
            validation_data=data,
            epochs=12,
            verbose=0,
            shuffle=False,  # Keras 3 warns that it cannot shuffle a Dataset
            callbacks=[
                tf.keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
                tf.keras.callbacks.TensorBoard(str(tmp_path / "tensorboard"), write_graph=False),
            ],
        ).history
        model.save(str(tmp_path / "model.keras"))
        loaded = tf.keras.models.load_model(str(tmp_path / "model.keras"))
    # Keras's own reading of variables under NumPy 2 is not this package's to mend.
    assert [str(w.message) for w in caught if "__array__" not in str(w.message)] == []
    assert set(history) == {
        prefix + name for prefix in ("", "val_") for name in ("loss", "auc", "request_gauc")
    }
    for values in history.values():
        assert len(values) == 12 and np.isfinite(values).all()
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["request_gauc"][-1] > 0.9
    assert list((tmp_path / "tensorboard").glob("train/*"))
    again = loaded.evaluate(data, return_dict=True, verbose=0)
    for name in ("loss", "auc", "request_gauc"):
        assert again[name] == pytest.approx(history[f"val_{name}"][-1], abs=1e-6)


class _Killed(Exception):
    pass


def test_backup_and_restore_goes_on_with_weights_and_moments(schema, tmp_path):
    def train(backup, kill_at=None):
        model = _model(schema)
        model.compile(SparseAdam(0.05), CandidateCrossentropy(), run_eagerly=True)

        def killed(epoch, logs=None):
            if epoch == kill_at:
                raise _Killed

        callbacks = [
            tf.keras.callbacks.BackupAndRestore(str(backup)),
            tf.keras.callbacks.LambdaCallback(on_epoch_begin=killed),
        ]
        data = _dataset(schema, batches=1)
        return model, model.fit(data, epochs=3, verbose=0, callbacks=callbacks).epoch

    whole, done = train(tmp_path / "whole")
    assert done == [0, 1, 2]
    with pytest.raises(_Killed):
        train(tmp_path / "backup", kill_at=2)
    resumed, done = train(tmp_path / "backup")
    assert done == [2]
    for left, right in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(KERAS_3, reason="tensorflow-recommenders asks for Keras 2")
def test_a_task_of_tensorflow_recommenders_trains_a_model(schema):
    import tensorflow_recommenders as tfrs

    class Ranker(tfrs.Model):
        def __init__(self):
            super().__init__()
            self.dare = learned_dare(schema, top_k=3)
            self.task = tfrs.tasks.Ranking(loss=CandidateCrossentropy())

        def call(self, features):
            return self.dare(features)

        def compute_loss(self, inputs, training=False):
            features, label, weight = inputs
            outputs = self.dare.forward(features, training=training)
            return sum(
                self.task(labels=label, predictions=predicted, sample_weight=weight)
                for predicted in outputs
            )

    tf.keras.utils.set_random_seed(1)
    ranker = Ranker()
    ranker.compile(optimizer=SparseAdam(0.01))
    table = raw(ranker.dare.embedding.attention_tables["item"])
    before = table.numpy()
    history = ranker.fit(_dataset(schema), epochs=8, verbose=0).history["total_loss"]
    assert np.isfinite(history).all() and history[-1] < 0.8 * history[0]
    assert (table.numpy() != before).any()
