"""Metrics of a split, against a plain reading and a model whose answers are known."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from tests.folders import make_record, make_splits, plain_requests, write_folder
from tests.tfdare.metrics.test_ranking import plain_auc, plain_gauc
from tfdare.compat import tf
from tfdare.evaluation import evaluate, predict, summary
from tfdare.schema import SchemaError


class Knower(tf.Module):
    """Stands where a model does: a candidate's probability is a fixed function of its item."""

    def __call__(self, requests, training=False):
        assert training is False
        assert sorted(requests) == [
            "history_category",
            "history_item",
            "history_length",
            "target_category",
            "target_item",
            "target_length",
        ]
        return tf.cast(requests["target_item"] * 7 % 10, tf.float32) / 20 + 0.2


def plain_targets(records):
    """Lists (label, probability, user, request, repeats of item, of category) by candidate."""
    targets = []
    for number, request in enumerate(plain_requests(records)):
        for candidate in range(request["target_length"]):
            targets.append(
                (
                    request["label"][candidate],
                    request["target_item"][candidate] * 7 % 10 / 20 + 0.2,
                    request["user"],
                    number,
                    request["target_repeats_item"][candidate],
                    request["target_repeats_category"][candidate],
                )
            )
    return targets


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=3, users=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    return write_folder(tmp_path_factory.mktemp("evaluation") / "s", splits)


def test_predictions(folder, splits):
    predictions = predict(Knower(), folder, "test", batch_size=7)
    expected = plain_targets(splits["test"])
    label, probability, user, request, *repeats = zip(*expected)
    assert predictions.label.tolist() == list(label)
    assert predictions.probability == pytest.approx(probability)
    assert predictions.request.tolist() == list(request)
    assert predictions.repeats.tolist() == [list(pair) for pair in zip(*repeats)]
    assert (
        len(set(zip(predictions.user.tolist(), user)))
        == len(set(user))
        == len(set(predictions.user))
    )


def test_predictions_up_to_a_limit(folder, splits):
    whole = predict(None, folder, "train", batch_size=2)
    assert not whole.probability.any()
    part = predict(None, folder, "train", batch_size=2, limit=10)
    assert 10 <= len(part.label) <= 10 + 2 * 3
    assert part.repeats.tolist() == whole.repeats[: len(part.label)].tolist()


def slices(targets):
    seen = {target[3] for target in targets if target[0] and target[4] > 0}
    return {
        "": targets,
        "_seen": [target for target in targets if target[3] in seen],
        "_new": [target for target in targets if target[3] not in seen],
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_numbers(folder, splits, split):
    numbers = evaluate(Knower(), folder, split, batch_size=7)
    targets = plain_targets(splits[split])
    parts = slices(targets)
    assert len(parts["_seen"]) > 10 and len(parts["_new"]) > 10
    for suffix, part in parts.items():
        assert numbers[f"auc{suffix}"] == pytest.approx(plain_auc([t[:2] for t in part]))
        assert numbers[f"gauc{suffix}"] == pytest.approx(plain_gauc([t[:3] for t in part]))
    by_request = [(label, probability, request) for label, probability, _, request, *_ in targets]
    assert numbers["request_gauc"] == pytest.approx(plain_gauc(by_request))
    label, probability, user, request, *_ = zip(*targets)
    assert numbers["logloss"] == pytest.approx(log_loss(label, probability), rel=1e-5)
    assert numbers["targets"] == len(targets) == folder.candidates(split)
    assert numbers["clicks"] == sum(label)
    assert numbers["requests"] == len(set(request)) == folder.requests(split)
    assert numbers["requests_seen"] == len({target[3] for target in parts["_seen"]})
    assert numbers["users"] == len(set(user))


def test_baselines(folder, splits):
    baselines = evaluate(Knower(), folder, "test")["baselines"]
    test, train = plain_targets(splits["test"]), plain_targets(splits["train"])
    assert baselines["seen"] == pytest.approx(plain_auc([(t[0], t[4] > 0) for t in test]))

    def counts(targets):
        repeats = np.array([target[4:] for target in targets])
        return np.hstack([np.log1p(repeats), repeats > 0])

    fitted = LogisticRegression(max_iter=1000).fit(counts(train), [t[0] for t in train])
    expected = roc_auc_score([t[0] for t in test], fitted.predict_proba(counts(test))[:, 1])
    assert baselines["repeat_counts"] == pytest.approx(expected, abs=1e-3)


def test_no_clicks_of_new_items(tmp_path):
    random = np.random.default_rng(8)
    records = [make_record(random, f"u{i}", requests=3, new=False) for i in range(6)]
    opened = write_folder(tmp_path / "s", {"train": records, "test": records})
    numbers = evaluate(Knower(), opened, "test")
    assert numbers["auc_new"] is None and numbers["gauc_new"] is None
    assert numbers["auc_seen"] == numbers["auc"] is not None
    assert numbers["requests_seen"] == numbers["requests"] == 18
    assert "n/a" in summary(numbers) and f"{numbers['auc']:.4f}" in summary(numbers)


def test_all_candidates_clicked(tmp_path):
    random = np.random.default_rng(9)
    records = [make_record(random, f"u{i}", requests=2) for i in range(4)]
    records = [dataclasses.replace(r, label=np.ones_like(r.label)) for r in records]
    opened = write_folder(tmp_path / "s", {"train": records, "test": records})
    numbers = evaluate(Knower(), opened, "test")
    for name in ("auc", "gauc", "auc_seen", "gauc_seen", "auc_new", "gauc_new", "request_gauc"):
        assert numbers[name] is None
    assert numbers["baselines"] == {"seen": None, "repeat_counts": None}
    assert numbers["logloss"] > 0
    assert "n/a" in summary(numbers)


def test_a_split_without_requests(tmp_path, splits):
    opened = write_folder(tmp_path / "s", {"train": splits["train"]})
    with pytest.raises(SchemaError, match="test split of .* no requests"):
        evaluate(Knower(), opened, "test")


def test_one_number_a_metric_in_the_summary(folder):
    numbers = evaluate(Knower(), folder, "validation")
    text = summary(numbers)
    for name in ("auc", "gauc", "auc_seen", "gauc_seen", "auc_new", "gauc_new", "logloss"):
        assert f"{numbers[name]:.4f}" in text
    assert f"{numbers['baselines']['repeat_counts']:.4f}" in text
    assert f"{numbers['targets']:,} targets of {numbers['users']} users" in text
