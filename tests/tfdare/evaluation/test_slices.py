"""Metrics by slice, against the whole-split functions on the rows of each slice alone."""

import numpy as np
import pytest

from tests.folders import make_splits, write_folder
from tests.tfdare.evaluation.test_evaluator import Knower
from tfdare.compat import tf
from tfdare.evaluation import evaluate_in_full, predict, slices_of, slices_table
from tfdare.evaluation.slices import METRICS, Resampled, by_edges
from tfdare.metrics import (
    auc,
    auc_by_group,
    expected_calibration_error,
    gauc,
    logloss,
    normalized_entropy,
)
from tfdare.metrics.bootstrap import ratio_interval, resampled_ratios, resamples_of


class Guesser(tf.Module):
    """Another fixed function of the item."""

    def __call__(self, requests, training=False):
        return tf.cast(requests["target_item"] * 3 % 11, tf.float32) / 30 + 0.1


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=5, users=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    return write_folder(tmp_path_factory.mktemp("slices") / "s", splits)


@pytest.fixture(scope="module")
def predictions(folder):
    return {
        "Knower": predict(Knower(), folder, "test"),
        "Guesser": predict(Guesser(), folder, "test"),
    }


def test_slices_hold_the_targets_of_their_titles(folder, splits, predictions):
    knower = predictions["Knower"]
    slices = slices_of(knower, folder, "test")
    length = {record.user: record.history_time.size for record in splits["test"]}
    frequency = {
        2 + row: count
        for row, count in enumerate(
            int(line.split("\t")[1]) for line in open(folder.vocabulary_path("item"))
        )
    }
    values = {
        "history_length": knower.history_length.tolist(),
        "target_frequency": [frequency.get(item, 0) for item in knower.item.tolist()],
        "activity": [length[knower.names[user]] for user in knower.user.tolist()],
    }
    for name, of_targets in values.items():
        cut = slices[name]
        for number, title in enumerate(cut.parts):
            low, *high = (int(part.replace(",", "")) for part in title.split("–"))
            inside = [value for value, at in zip(of_targets, cut.part_index) if at == number]
            assert low <= min(inside) and max(inside) <= (high or [low])[0]
        assert sorted(set(cut.part_index.tolist())) == list(range(len(cut.parts)))
    new = ~knower.clicked_before
    assert slices["target"].part_index.tolist() == (~new).astype(int).tolist()


def test_metrics_of_every_slice(folder, predictions):
    slices = slices_of(predictions["Knower"], folder, "test")
    numbers = evaluate_in_full(predictions, slices, resamples=20)
    assert numbers["all"]["parts"][0]["targets"] == predictions["Knower"].label.size
    for name, cut in slices.items():
        assert [part["title"] for part in numbers[name]["parts"]] == cut.parts
        for number, part in enumerate(numbers[name]["parts"]):
            rows = cut.part_index == number
            for model, prediction in predictions.items():
                label, probability = prediction.label[rows], prediction.probability[rows]
                expected = {
                    "auc": auc(label, probability),
                    "gauc": gauc(label, probability, prediction.user[rows]),
                    "logloss": logloss(label, probability),
                    "normalized_entropy": normalized_entropy(label, probability),
                    "ece": expected_calibration_error(label, probability),
                }
                for metric, value in expected.items():
                    assert part["models"][model][metric].estimate == pytest.approx(value), metric
            for metric in METRICS:
                knower, guesser = (part["models"][m][metric] for m in ("Knower", "Guesser"))
                difference = part["differences"]["Knower - Guesser"][metric]
                assert difference.estimate == pytest.approx(knower.estimate - guesser.estimate)
                assert difference.low <= difference.estimate <= difference.high
    assert "item of the click: seen before" in slices_table(numbers)


def test_resamples_are_of_whole_users(predictions):
    """Compares resamples with metrics of targets repeated as often as their user was drawn."""
    knower = predictions["Knower"]
    resampled = Resampled(knower, resamples=3)
    users = int(knower.user.max()) + 1
    for number, weights in enumerate(np.concatenate(list(resamples_of(users, 3)))):
        repeats = weights[knower.user]
        label, probability = (np.repeat(x, repeats) for x in (knower.label, knower.probability))
        copy = np.concatenate([np.arange(r) for r in repeats])
        group = np.repeat(knower.user, repeats) * 1000 + copy
        assert resampled._drawn["auc"][number] == pytest.approx(auc(label, probability))
        assert resampled._drawn["logloss"][number] == pytest.approx(logloss(label, probability))
        assert resampled._drawn["gauc"][number] == pytest.approx(gauc(label, probability, group))
        assert resampled._drawn["normalized_entropy"][number] == pytest.approx(
            normalized_entropy(label, probability)
        )


def test_a_model_does_not_differ_from_itself(predictions):
    resampled = Resampled(predictions["Knower"], resamples=10)
    for metric in METRICS:
        difference = resampled.difference(resampled, metric)
        assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)


def test_other_targets_are_refused(folder, predictions):
    other = predict(Knower(), folder, "validation")
    with pytest.raises(ValueError, match="not of the same targets"):
        evaluate_in_full({"a": predictions["Knower"], "b": other}, {})


def test_quarters_keep_equal_values_together():
    titles, part_index = by_edges(np.array([5] * 6 + [7, 8, 9, 1000]))
    assert titles == ["5", "6–7", "8–1,000"]
    assert part_index.tolist() == [0] * 6 + [1, 2, 2, 2]
    titles, part_index = by_edges(np.array([3, 3]))
    assert titles == ["3"] and part_index.tolist() == [0, 0]


def test_ratios_of_resamples():
    above, below = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 8.0])
    drawn = resampled_ratios(above, below, resamples=5, seed=2)
    weights = np.concatenate(list(resamples_of(3, 5, 2)))
    assert weights.sum(axis=1).tolist() == [3] * 5
    for row, value in zip(weights.tolist(), drawn):
        assert value == pytest.approx(
            sum(w * a for w, a in zip(row, above)) / sum(w * b for w, b in zip(row, below))
        )
    interval = ratio_interval(above, below)
    assert interval.estimate == pytest.approx(9 / 13) and 0.5 <= interval.low < interval.high <= 1
    assert np.isnan(ratio_interval([0.0], [0.0]).estimate)


def test_auc_by_group():
    value, size = auc_by_group([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.4], [0, 0, 2, 2], groups=4)
    assert size.tolist() == [2, 0, 2, 0]
    assert value[[0, 2]].tolist() == [1.0, 0.0] and np.isnan(value[[1, 3]]).all()
