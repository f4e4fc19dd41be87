"""Metrics of a trained model on a split, and of simple baselines on the same targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from tfdare.errors import UsageError
from tfdare.evaluation.predictions import Predictions, Predictor, predict
from tfdare.metrics import auc, expected_calibration_error, gauc, logloss, normalized_entropy
from tfdare.schema import SchemaError
from tfdare.sequences import Sequences
from tfdare.text import text_table

BASELINE_TARGETS = 200_000


def evaluate(model, sequences: Sequences, split: str, batch_size: int = 512) -> dict[str, Any]:
    """Computes the numbers of ``metrics.json`` for one split; see :func:`evaluate_splits`."""
    return evaluate_splits(model, sequences, (split,), batch_size)[split]


def evaluate_splits(
    model,
    sequences: Sequences,
    splits: Sequence[str],
    batch_size: int = 512,
    keep: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Computes the numbers of ``metrics.json`` by split, with one baseline fitted for all.

    A request counts as *seen* when the item it clicked is already in the user's earlier history,
    as *new* otherwise; the other candidates of a request fall into its slice, so each slice
    compares clicks of one kind with the negatives of their own requests.

    Args:
        model: RequestModel.
        sequences: Sequences.
        splits: sequence of str.
        batch_size: int. Requests at once.
        keep: mapping of split to path, or None. Files to write the predictions to, see
            :meth:`Predictions.save`.

    Returns:
        For each split ``auc``, ``gauc`` (by user), ``request_gauc`` (by request), ``logloss``,
        ``normalized_entropy`` and ``ece`` (see :mod:`tfdare.metrics.calibration`) over all targets;
        ``auc_seen``, ``gauc_seen``, ``auc_new``, ``gauc_new`` by slice (None where a class is
        missing); counts; and ``baselines``: the AUC of "was this item in the history"
        (``seen``) and of a logistic regression on repeat counts (``repeat_counts``), which was
        fitted on the train split.

    Raises:
        SchemaError: a split holds no requests.
        UsageError: the model predicts something that is not a finite number.
    """
    for split in splits:
        if not sequences.requests(split):
            raise SchemaError(f"The {split} split of {sequences.path!r} holds no requests")
    regression = _fit_repeat_counts(sequences)
    numbers: dict[str, dict[str, Any]] = {}
    predictor = Predictor(model)
    for split in splits:
        predictions = predict(predictor, sequences, split, batch_size)
        wrong = np.flatnonzero(~np.isfinite(predictions.probability))
        if wrong.size:
            raise UsageError(
                f"The model predicts {predictions.probability[wrong[0]]} for a candidate of "
                f"request {predictions.request[wrong[0]]:,} (from 0) of the {split} split, and for "
                f"{wrong.size - 1:,} more: its weights or the inputs are not finite"
            )
        if keep and split in keep:
            predictions.save(keep[split])
        numbers[split] = _numbers(predictions, regression)
    return numbers


def _numbers(predictions: Predictions, regression: LogisticRegression | None) -> dict[str, Any]:
    label, probability = predictions.label, predictions.probability
    user, request, seen = predictions.user, predictions.request, predictions.clicked_before
    numbers: dict[str, Any] = {}
    for suffix, rows in (("", slice(None)), ("_seen", seen), ("_new", ~seen)):
        numbers[f"auc{suffix}"] = auc(label[rows], probability[rows])
        numbers[f"gauc{suffix}"] = gauc(label[rows], probability[rows], user[rows])
    numbers["request_gauc"] = gauc(label, probability, request)
    numbers["logloss"] = logloss(label, probability)
    numbers["normalized_entropy"] = normalized_entropy(label, probability)
    numbers["ece"] = expected_calibration_error(label, probability)
    numbers["targets"] = int(label.size)
    numbers["clicks"] = int(label.sum())
    numbers["requests"] = int(np.unique(request).size)
    numbers["requests_seen"] = int(np.unique(request[seen]).size)
    numbers["users"] = int(user.max()) + 1
    numbers["baselines"] = {
        "seen": auc(label, predictions.repeats[:, 0] > 0),
        "repeat_counts": None
        if regression is None
        else auc(label, regression.decision_function(_repeat_features(predictions))),
    }
    return numbers


def _fit_repeat_counts(sequences: Sequences) -> LogisticRegression | None:
    train = predict(None, sequences, "train", limit=BASELINE_TARGETS)
    if len(np.unique(train.label)) < 2:
        return None
    regression = LogisticRegression(max_iter=1000)
    return regression.fit(_repeat_features(train), train.label > 0.5)


def _repeat_features(predictions: Predictions) -> np.ndarray:
    repeats = predictions.repeats
    return np.concatenate([np.log1p(repeats), repeats > 0], axis=1)


def summary(numbers: dict[str, Any]) -> str:
    """Formats the main numbers of a split as a table and a line for a terminal."""

    def digits(value: float | None) -> str:
        return "n/a" if value is None else f"{value:.4f}"

    titles = {"": "all", "_seen": "item seen before", "_new": "item new to the user"}
    rows = [
        [title, digits(numbers[f"auc{suffix}"]), digits(numbers[f"gauc{suffix}"])]
        for suffix, title in titles.items()
    ]
    return "\n".join(
        [
            text_table([["targets", "AUC", "GAUC"], *rows]),
            f"  log loss {numbers['logloss']:.4f}, calibration error {numbers['ece']:.4f}; "
            f"{numbers['targets']:,} targets of {numbers['users']:,} users; "
            f"repeat counts alone reach AUC {digits(numbers['baselines']['repeat_counts'])}",
        ]
    )
