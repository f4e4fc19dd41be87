"""Sample weights: the loss is weighted, AUC, GAUC and evaluation count each candidate once."""

import csv
import dataclasses

import numpy as np
import pytest

from tests.folders import make_splits, with_weights, write_folder
from tfdare.compat import raw, tf
from tfdare.data import read_requests
from tfdare.evaluation import evaluate
from tfdare.metrics import auc, gauc
from tfdare.models import build_model
from tfdare.training import compile_model, load_run, train

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=7, users=20)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory, splits):
    return write_folder(tmp_path_factory.mktemp("weighted") / "sequences", with_weights(splits))


def model_of(sequences, name="DARE-learned"):
    tf.keras.utils.set_random_seed(3)
    model = build_model(name, sequences.schema.with_dims(4, 4), top_k=4)
    compile_model(model)
    return model


def whole(sequences, split="train"):
    """Reads a split as one batch."""
    (batch,) = read_requests(sequences, split, 10_000)
    return batch


@pytest.mark.parametrize("name", ["DARE-learned", "SDIM"])
def test_loss_is_the_weighted_mean(weighted, name):
    requests, label, weight = whole(weighted)
    model = model_of(weighted, name)
    p, y, w = (np.float64(part) for part in (model(requests), label, weight))
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    logs = model.evaluate(read_requests(weighted, "train", 10_000), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx((w * entropy).sum() / w.size, rel=1e-5)
    real = w > 0
    group = np.broadcast_to(np.arange(len(w))[:, np.newaxis], w.shape)[real]
    counted_once = tf.keras.metrics.AUC(num_thresholds=1000)
    counted_once.update_state(y[real], p[real])
    assert logs["auc"] == pytest.approx(float(counted_once.result()), abs=1e-5)
    assert logs["request_gauc"] == pytest.approx(gauc(y[real], p[real], group), abs=1e-5)


def test_a_weight_of_two_trains_as_two_candidates_do(tmp_path, splits):
    """Compares gradients: twice the weight of all candidates is twice the loss and gradient."""
    gradients = []
    for factor in (1, 2):
        records = {
            split: [
                dataclasses.replace(r, weight=np.full(r.label.size, factor, np.float32))
                for r in part
            ]
            for split, part in splits.items()
        }
        opened = write_folder(tmp_path / str(factor), records)
        model = model_of(opened)
        requests, label, weight = whole(opened)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(requests, label, model(requests), weight)
        weights = [raw(v) for v in model.head.trainable_weights]
        gradients.append([loss, *tape.gradient(loss, weights)])
    for once, twice in zip(*gradients):
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-7)


def test_weights_of_one_train_as_none_do(tmp_path, splits):
    ones = {
        split: [dataclasses.replace(r, weight=np.ones(r.label.size, np.float32)) for r in part]
        for split, part in splits.items()
    }
    trained = []
    for name, records in (("none", splits), ("ones", ones)):
        opened = write_folder(tmp_path / name, records)
        model = model_of(opened)
        model.fit(read_requests(opened, "train", 8), epochs=1, verbose=0, shuffle=False)
        trained.append([raw(weight).numpy() for weight in model.weights])
    for first, second in zip(*trained):
        np.testing.assert_array_equal(first, second)


def test_a_run_on_weighted_sequences(weighted, tmp_path):
    sizes = {"attention_dim": 16, "representation_dim": 4, "top_k": 4, "batch_size": 16}
    # DARE searches once before training: its files carry the weights
    metrics = train(weighted.path, str(tmp_path / "run"), "DARE", epochs=1, verbose=0, **sizes)
    model = load_run(str(tmp_path / "run")).model()
    for split in ("validation", "test"):
        requests, label, weight = whole(weighted, split)
        y, p, real = np.array(label), np.array(model(requests)), np.array(weight) > 0
        assert metrics[split]["targets"] == real.sum() < weighted.candidates(split)
        assert metrics[split]["auc"] == pytest.approx(auc(y[real], p[real]), abs=1e-6)
        assert metrics[split]["requests"] == real.any(axis=1).sum()
    assert evaluate(model, weighted, "test")["auc"] == pytest.approx(metrics["test"]["auc"])
    with open(tmp_path / "run" / "history.csv", newline="", encoding="utf-8") as file:
        (epoch,) = csv.DictReader(file)
    assert float(epoch["val_auc"]) == pytest.approx(metrics["validation"]["auc"], abs=2e-3)


@pytest.mark.parametrize("name", ["DARE-learned", "SDIM"])
def test_weights_of_requests_and_of_classes(weighted, name):
    """Compares one epoch with each to one with the same weights given to candidates."""
    requests, label, weight = (
        {key: value.numpy() for key, value in part.items()}
        if isinstance(part, dict)
        else np.array(part)
        for part in whole(weighted)
    )
    users = 3  # as many as candidates, so that weights could be taken for those of candidates
    requests = {key: value[:users] for key, value in requests.items()}
    label, weight = label[:users], weight[:users]
    assert label.shape == (users, users)
    of_request = np.array([1.0, 3.0, 0.5], np.float32)
    of_class = np.where(label > 0.5, 5.0, 1.0).astype(np.float32)

    def trained(sample_weight, **more):
        model = model_of(weighted, name)
        options = {"batch_size": users, "epochs": 1, "verbose": 0, "shuffle": False}
        model.fit(requests, label, sample_weight=sample_weight, **options, **more)
        logs = model.evaluate(
            requests, label, sample_weight=sample_weight, verbose=0, return_dict=True
        )
        return [logs["loss"], logs["auc"], *(raw(v).numpy() for v in model.weights)]

    for first, second in (
        (trained(of_request), trained(of_request[:, np.newaxis] * np.ones_like(label))),
        (trained(weight, class_weight={1: 5.0})[2:], trained(weight * of_class)[2:]),
    ):
        for one, other in zip(first, second):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_class_weights_that_cannot_be_applied_are_refused(weighted):
    model = model_of(weighted)
    batch = whole(weighted)
    with pytest.raises(ValueError, match=r"must weigh the labels 0 and 1. Received: \[2\]"):
        model.fit(read_requests(weighted, "train", 8), class_weight={2: 1.0})
    with pytest.raises(ValueError, match="`class_weight` of train_on_batch is not supported"):
        model.train_on_batch(*batch[:2], class_weight={1: 2.0})
