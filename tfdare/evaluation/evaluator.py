"""How well a trained model ranks one split, beside the baselines that any model must beat."""

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

BASELINE_TARGETS = 200_000


def evaluate(model, sequences: Sequences, split: str, batch_size: int = 512) -> dict[str, Any]:
    """The numbers of ``metrics.json`` for one split; see :func:`evaluate_splits`."""
    return evaluate_splits(model, sequences, (split,), batch_size)[split]


def evaluate_splits(
    model,
    sequences: Sequences,
    splits: Sequence[str],
    batch_size: int = 512,
    keep: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """The numbers of ``metrics.json``, by split; the baseline is fitted once for all.

    A request counts as *seen* when the item it clicked is already in the user's earlier history,
    as *new* otherwise; sampled negatives are never items of the user, so the two slices compare
    clicks of either kind with the negatives of their own requests.

    Args:
        model: RequestModel.
        sequences: Sequences.
        splits: sequence of str.
        batch_size: int. Requests at once.
        keep: mapping of split to path, or None. Where to :meth:`Predictions.save` what the model
            predicted.

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
    numbers, predictor = {}, Predictor(model)
    for split in splits:
        found = predict(predictor, sequences, split, batch_size)
        wrong = np.flatnonzero(~np.isfinite(found.probability))
        if wrong.size:
            raise UsageError(
                f"The model predicts {found.probability[wrong[0]]} for a candidate of request "
                f"{found.request[wrong[0]]:,} (from 0) of the {split} split, and for "
                f"{wrong.size - 1:,} more: its weights or the inputs are not finite"
            )
        if keep and split in keep:
            found.save(keep[split])
        numbers[split] = _numbers(found, regression)
    return numbers


def _numbers(found: Predictions, regression: LogisticRegression | None) -> dict[str, Any]:
    item_seen, seen = found.repeats[:, 0] > 0, found.clicked_before
    numbers: dict[str, Any] = {}
    for suffix, rows in (("", slice(None)), ("_seen", seen), ("_new", ~seen)):
        label, probability = found.label[rows], found.probability[rows]
        numbers[f"auc{suffix}"] = auc(label, probability)
        numbers[f"gauc{suffix}"] = gauc(label, probability, found.user[rows])
    numbers["request_gauc"] = gauc(found.label, found.probability, found.request)
    numbers["logloss"] = logloss(found.label, found.probability)
    numbers["normalized_entropy"] = normalized_entropy(found.label, found.probability)
    numbers["ece"] = expected_calibration_error(found.label, found.probability)
    numbers["targets"] = int(found.label.size)
    numbers["clicks"] = int(found.label.sum())
    numbers["requests"] = int(found.request.max()) + 1
    numbers["requests_seen"] = int(np.unique(found.request[seen]).size)
    numbers["users"] = int(found.user.max()) + 1
    numbers["baselines"] = {
        "seen": auc(found.label, item_seen),
        "repeat_counts": None
        if regression is None
        else auc(found.label, regression.decision_function(_counts(found))),
    }
    return numbers


def _fit_repeat_counts(sequences: Sequences) -> LogisticRegression | None:
    train = predict(None, sequences, "train", limit=BASELINE_TARGETS)
    if len(np.unique(train.label)) < 2:
        return None
    regression = LogisticRegression(max_iter=1000)
    return regression.fit(_counts(train), train.label > 0.5)


def _counts(found: Predictions) -> np.ndarray:
    return np.concatenate([np.log1p(found.repeats), found.repeats > 0], axis=1)


def summary(numbers: dict[str, Any]) -> str:
    """The numbers as a person reads them, a few lines."""

    def show(name):
        value = numbers[name]
        return "  n/a " if value is None else f"{value:.4f}"

    base = numbers["baselines"]
    counts = "n/a" if base["repeat_counts"] is None else f"{base['repeat_counts']:.4f}"
    return "\n".join(
        [
            f"  {'targets':<22}{'AUC':>8}{'GAUC':>9}",
            f"  {'all':<22}{show('auc'):>8}{show('gauc'):>9}",
            f"  {'item seen before':<22}{show('auc_seen'):>8}{show('gauc_seen'):>9}",
            f"  {'item new to the user':<22}{show('auc_new'):>8}{show('gauc_new'):>9}",
            f"  log loss {numbers['logloss']:.4f}, calibration error {numbers['ece']:.4f}; "
            f"{numbers['targets']:,} targets of "
            f"{numbers['users']:,} users; repeat counts alone reach AUC {counts}",
        ]
    )
