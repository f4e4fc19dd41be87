"""How well a trained model ranks one split, beside the baselines that any model must beat."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from tfdare.calibration import expected_calibration_error, normalized_entropy
from tfdare.command import Parser, UsageError, run
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.differences import open_matching
from tfdare.metrics import auc, gauc, logloss
from tfdare.runs import METRICS_FILE, Run, load_run, update_metrics, write_json
from tfdare.schema import SchemaError
from tfdare.sequences import SPLITS, Sequences

BASELINE_TARGETS = 200_000
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Predictions:
    """One entry a candidate, padded ones left out.

    Attributes:
        label: float32 ``[n]``.
        probability: float32 ``[n]``.
        user: str ``[n]``, as integers that stand for users.
        request: int64 ``[n]``.
        repeats: int32 ``[n, features]``. How often the candidate's value of each feature of one
            value occurs in the user's earlier history.
        history_length: int32 ``[n]``. Behaviors in the request's window.
        item: int32 ``[n]``. Row id of the candidate's item.
        names: list of str. Of the users that `user` stands for.
    """

    label: np.ndarray
    probability: np.ndarray
    user: np.ndarray
    request: np.ndarray
    repeats: np.ndarray
    history_length: np.ndarray
    item: np.ndarray
    names: list[str]

    @property
    def clicked_before(self) -> np.ndarray:
        """bool ``[n]``. Whether the request's click is on an item of the user's earlier history."""
        before = np.zeros(int(self.request.max()) + 1, bool)
        np.logical_or.at(before, self.request, (self.repeats[:, 0] > 0) & (self.label > 0.5))
        return before[self.request]

    def save(self, path: str) -> None:
        """Writes `label` (uint8), `probability` and `user` (int32) as a compressed npz, put in
        place in one step; equal sequences and splits give equal users in equal order."""
        unfinished = f"{path}.tmp"
        with open(unfinished, "wb") as file:
            np.savez_compressed(
                file,
                label=(self.label > 0.5).astype(np.uint8),
                probability=self.probability.astype(np.float32),
                user=self.user.astype(np.int32),
            )
        os.replace(unfinished, path)


class Predictor:
    """A model as a graph that is traced once, for batches of any size.

    Args:
        model: RequestModel.
        ask: function of model and requests to tensors, or None for the probabilities ``[U, C]``.
    """

    def __init__(self, model, ask: Callable | None = None):
        self._model, self._call = model, None
        self._ask = ask or (lambda model, requests: model(requests, training=False))

    def __call__(self, requests: Mapping[str, tf.Tensor]):
        """What the model answers, as arrays."""
        if self._call is None:
            like = {
                name: tf.TensorSpec([None, *value.shape[1:]], value.dtype, name)
                for name, value in requests.items()
            }
            graph = tf.function(lambda given: self._ask(self._model, given), autograph=False)
            self._call = graph.get_concrete_function(like)
        return tf.nest.map_structure(lambda value: value.numpy(), self._call(dict(requests)))


def predict(
    model, sequences: Sequences, split: str, batch_size: int = 512, limit: int | None = None
) -> Predictions:
    """Probabilities of every candidate of a split.

    Args:
        model: RequestModel, Predictor, or None for the facts alone (probabilities are then zero).
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once.
        limit: int or None. Stop after about this many candidates.
    """
    predictor = model if model is None or isinstance(model, Predictor) else Predictor(model)
    names = [feature.name for feature in sequences.schema.features if feature.max_values == 1]
    columns: dict[str, list] = {
        name: []
        for name in ("label", "probability", "user", "request", "repeats", "history_length", "item")
    }
    seen_requests = count = 0
    for requests, label, weight in read_requests(
        sequences, split, batch_size, with_history_facts=True
    ):
        users = requests.pop("user").numpy()
        repeats = [requests.pop(f"target_repeats_{name}").numpy() for name in names]
        real = weight.numpy() > 0
        probability = np.zeros_like(label) if predictor is None else predictor(requests)
        request = np.broadcast_to(seen_requests + np.arange(len(users))[:, np.newaxis], real.shape)
        columns["label"].append(label.numpy()[real])
        columns["probability"].append(probability[real])
        columns["user"].append(np.broadcast_to(users[:, np.newaxis], real.shape)[real])
        columns["request"].append(request[real])
        columns["repeats"].append(np.stack(repeats, axis=-1)[real])
        length = requests["history_length"].numpy()[:, np.newaxis]
        columns["history_length"].append(np.broadcast_to(length, real.shape)[real])
        columns["item"].append(requests[f"target_{sequences.schema.item.name}"].numpy()[real])
        seen_requests += len(users)
        count += int(real.sum())
        if limit is not None and count >= limit:
            break
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    names, joined["user"] = np.unique(joined["user"], return_inverse=True)
    return Predictions(**joined, names=[name.decode() for name in names.tolist()])


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
        ``normalized_entropy`` and ``ece`` (see :mod:`tfdare.calibration`) over all targets;
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


def _in_full(runs, sequences, options) -> None:
    from tfdare.analysis.numbers import as_json
    from tfdare.slices import METRICS, evaluate_in_full, slices_of, slices_table

    found = {
        run_name(one, runs): predict(one.model(), sequences, options.split, options.batch_size)
        for one in runs
    }
    slices = slices_of(next(iter(found.values())), sequences, options.split)
    numbers = evaluate_in_full(found, slices, options.resamples)
    for metric in METRICS:
        print(f"\n{slices_table(numbers, metric)}")
    path = os.path.join(options.run, EVALUATION)
    write_json(path, as_json({"split": options.split, "slices": numbers}))
    print(f"\n  written to {path}")


def run_name(run: Run, runs: Sequence[Run]) -> str:
    """What tells a run from others: its model, or its folder where models are alike."""
    models = [one.options["model"] for one in runs]
    model = run.options["model"]
    return model if models.count(model) == 1 else os.path.basename(os.path.abspath(run.path))


def main(argv: list[str] | None = None) -> int:
    """``tfdare evaluate``."""
    parser = Parser(
        "evaluate",
        "tfdare evaluate --run build/dare --sequences build/sequences --split test",
        "Metrics of a trained model on one split, printed and kept in RUN/metrics.json. With "
        "--slices or --against also by slices, with 95% intervals over users, printed and kept in "
        "RUN/evaluation.json.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split", default="test", choices=SPLITS, help="which part to rank")
    parser.add_argument("--batch_size", type=int, default=512, help="requests at once")
    parser.add_argument(
        "--slices",
        action="store_true",
        help="also by history length, item seen before, item frequency and user activity",
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="second run on the same sequences: differences, slice by slice, in pairs",
    )
    parser.add_argument("--resamples", type=int, default=200, help="of users, for the intervals")

    def action(options):
        for name in ("batch_size", "resamples"):
            if getattr(options, name) < 1:
                raise UsageError(f"--{name} must be positive. Received: {getattr(options, name)}")
        opened = load_run(options.run)
        sequences = open_matching(options.sequences, opened.schema)
        numbers = evaluate(opened.model(), sequences, options.split, options.batch_size)
        update_metrics(options.run, options.split, numbers)
        print(f"{options.split} split of {options.sequences}")
        print(summary(numbers))
        print(f"  written to {os.path.join(options.run, METRICS_FILE)}")
        if options.slices or options.against:
            runs = [opened] + ([load_run(options.against)] if options.against else [])
            _in_full(runs, sequences, options)

    return run(parser, argv, action)
