"""Tests of requests that were searched once: equal to searching in every step."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, make_splits, with_weights, write_folder
from tests.harness import randomize
from tfdare.compat import raw, tf
from tfdare.data import read_requests, read_searched, searched, write_searched
from tfdare.models import DARE
from tfdare.training import compile_model

pytestmark = pytest.mark.keras
BATCH = 5


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Writes a folder with features of every kind and sample weights."""
    splits = with_weights(make_splits(seed=3, users=24, multi_hot=MULTI_HOT, context=CONTEXT))
    return write_folder(
        tmp_path_factory.mktemp("searched") / "sequences",
        splits,
        shards=2,
        multi_hot=MULTI_HOT,
        context=CONTEXT,
        time_gap=TIME_GAP,
    )


def model_of(sequences):
    vectors = {name: sequences.vectors(name) for name in sequences.vector_columns}
    tf.keras.utils.set_random_seed(1)
    return randomize(DARE(sequences.schema.with_dims(16, 4), top_k=4, vectors=vectors))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sequences):
    """Writes what search finds for the training requests, in the order of the files."""
    path = str(tmp_path_factory.mktemp("searched") / "files")
    counts = []
    write_searched(
        model_of(sequences), read_requests(sequences, "train", BATCH), path, counts.append
    )
    assert counts == list(range(1, len(counts) + 1))
    return path


def test_holds_what_search_returns_bit_for_bit(sequences, folder):
    model, total = model_of(sequences), 0
    dataset = read_searched(folder, BATCH)
    requests = read_requests(sequences, "train", BATCH)
    assert len(dataset) == len(requests)
    for (inputs, label, weight), (batch, wanted_label, wanted_weight) in zip(dataset, requests):
        wanted = {**model.search(batch), "label": wanted_label, "weight": wanted_weight}
        del wanted["behavior_index"]
        actual = {**inputs, "label": label, "weight": weight}
        assert actual.keys() == wanted.keys()
        for name, values in wanted.items():
            assert actual[name].shape == values.shape, name
            # Bits, as unknown context is NaN.
            assert actual[name].numpy().tobytes() == values.numpy().tobytes(), name
        total += len(label)
    assert total == sequences.requests("train")


def test_training_is_the_same_bit_for_bit(sequences, folder):
    weights = []
    for dataset in (read_requests(sequences, "train", BATCH), read_searched(folder, BATCH)):
        model = model_of(sequences)
        compile_model(model, 0.01)
        model.fit(dataset, epochs=2, verbose=0, shuffle=False)
        weights.append([raw(weight).numpy() for weight in model.weights])
    for every_step, once in zip(*weights):
        assert (every_step == once).all()


def test_shuffled_epochs_hold_every_request_once_in_another_order(sequences, folder):
    def keys(dataset):
        return [
            (target.tobytes(), position.tobytes(), score.tobytes())
            for inputs, *_ in dataset
            for target, position, score in zip(
                inputs["target_item"].numpy(),
                inputs["behavior_position"].numpy(),
                inputs["attention_score"].numpy(),
            )
        ]

    plain, shuffled = read_searched(folder, 7), read_searched(folder, 7, shuffle=True, seed=1)
    first, second = keys(shuffled), keys(shuffled)
    assert sorted(first) == sorted(second) == sorted(keys(plain))
    assert first != second and first != keys(plain)
    assert keys(read_searched(folder, 7, shuffle=True, seed=1)) == first


def test_no_space_leaves_nothing(sequences, tmp_path, monkeypatch):
    path = str(tmp_path / "files")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(searched.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(searched.NoSpace, match="needs .* GB, more than half of the 0.0 GB"):
        write_searched(model_of(sequences), read_requests(sequences, "train", BATCH), path)
    assert not os.path.exists(path)


def test_an_interrupted_pass_is_no_finished_one(sequences, tmp_path):
    path = str(tmp_path / "files")

    def stop(count):
        if count == 2:
            raise KeyboardInterrupt

    requests = read_requests(sequences, "train", BATCH)
    with pytest.raises(KeyboardInterrupt):
        write_searched(model_of(sequences), requests, path, stop)
    assert not os.path.exists(os.path.join(path, searched.LAYOUT))
    write_searched(model_of(sequences), requests, path)
    with open(os.path.join(path, searched.LAYOUT), encoding="utf-8") as file:
        assert json.load(file)["requests"] == sequences.requests("train")


def test_shortened_requests_keep_their_newest_behaviors(sequences):
    whole = next(iter(read_requests(sequences, "train", 1000)))[0]
    share, length = 0.5, whole["history_length"].numpy()
    short = next(iter(read_requests(sequences, "train", 1000, shorten=share, seed=3)))[0]
    kept = short["history_length"].numpy()
    assert set(kept[kept != length]) <= {0, 1, 2, 4, 8} and (kept <= length).all()
    assert 0.2 < np.mean(kept < length) < 0.6
    for row, (before, after) in enumerate(zip(length, kept)):
        old = whole["history_item"][row].numpy()[before - after : before]
        assert (short["history_item"][row].numpy()[:after] == old).all()
        assert not short["history_item"][row].numpy()[after:].any()
    assert (whole["target_item"].numpy() == short["target_item"].numpy()).all()
    with pytest.raises(ValueError, match=r"`shorten` must be in \[0, 1\). Received: shorten=1.5"):
        read_requests(sequences, "train", 5, shorten=1.5)
