"""Metrics by slices of a split, with intervals over users, and paired differences of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfdare.evaluation.predictions import Predictions
from tfdare.metrics import Interval, auc_by_group
from tfdare.metrics.bootstrap import WeightedAUC, interval, resamples_of
from tfdare.metrics.calibration import BINS, bin_of, entropy, probability_bins
from tfdare.schema import FIRST_ID
from tfdare.sequences import Sequences
from tfdare.text import text_table

METRICS = ("auc", "gauc", "logloss", "normalized_entropy", "ece")
ALL = "all"
_TINY = 1e-7


class Slices(NamedTuple):
    """One way to cut a split into parts.

    Attributes:
        title: str. What the split is cut by.
        parts: list of str. Titles of the parts.
        part_index: int ``[n]``. The part that each target belongs to.
    """

    title: str
    parts: list[str]
    part_index: np.ndarray


def slices_of(predictions: Predictions, sequences: Sequences, split: str) -> dict[str, Slices]:
    """Cuts a split in four ways: into quarters of a number, or into categories.

    Args:
        predictions: Predictions. Of any model; slices depend on the data alone.
        sequences: Sequences.
        split: str. The split of `predictions`.

    Returns:
        ``history_length`` (in the window), ``target`` (whether the request's click is on an item
        that the user had before), ``target_frequency`` (of the candidate's item in the training
        period) and ``activity`` (events of the user).
    """
    events = {record.user: record.history_time.size for record in sequences.records(split)}
    activity = np.array([events[name] for name in predictions.names], np.int64)[predictions.user]
    frequency = item_frequency(sequences)[predictions.item]
    return {
        "history_length": Slices("length of the history", *by_edges(predictions.history_length)),
        "target": Slices(
            "item of the click",
            ["new to the user", "seen before"],
            predictions.clicked_before.astype(np.int64),
        ),
        "target_frequency": Slices("training events of the item", *by_edges(frequency)),
        "activity": Slices("events of the user", *by_edges(activity)),
    }


class Resampled:
    """All metrics of one model on some targets, and on resamples of their users.

    Args:
        predictions: Predictions.
        rows: bool ``[n]`` or None. Targets that count; None: all.
        resamples: int. Equal for all models, so that differences are paired.
        bins: int. Bins of the calibration error; their edges are quantiles of the probabilities.
    """

    def __init__(
        self,
        predictions: Predictions,
        rows: np.ndarray | None = None,
        resamples: int = 200,
        bins: int = BINS,
    ):
        rows = np.ones(predictions.label.size, bool) if rows is None else rows
        label = predictions.label[rows].astype(np.float64)
        probability = predictions.probability[rows].astype(np.float64)
        user = predictions.user[rows]
        users = int(predictions.user.max()) + 1
        sums = _sums_by_user(label, probability, user, users, bins)
        auc = WeightedAUC(label, probability, user)
        whole = np.ones((1, users))
        self.targets, self.clicks = int(label.size), int(label.sum())
        self._estimate = _metrics(whole, sums, auc)
        drawn = [_metrics(weights, sums, auc) for weights in resamples_of(users, resamples)]
        self._drawn = {name: np.concatenate([block[name] for block in drawn]) for name in METRICS}

    def interval(self, metric: str) -> Interval:
        """Returns a metric with its 95% interval."""
        return interval(self._estimate[metric][0], self._drawn[metric])

    def difference(self, other: Resampled, metric: str) -> Interval:
        """Returns this model's metric minus the other's, resample by resample."""
        return interval(
            self._estimate[metric][0] - other._estimate[metric][0],
            self._drawn[metric] - other._drawn[metric],
        )


def _sums_by_user(label, probability, user, users, bins):
    """Computes each user's sums for all metrics but AUC, as columns of ``[users, ...]``."""
    clipped = np.clip(probability, _TINY, 1 - _TINY)
    loss = -(label * np.log(clipped) + (1 - label) * np.log1p(-clipped))
    edges = probability_bins(probability, bins)
    gap = np.zeros((users, edges.size))
    np.add.at(gap, (user, bin_of(probability, edges)), label - probability)
    of_user, size = auc_by_group(label, probability, user, users)
    both = np.isfinite(of_user)
    columns = [
        size,
        np.bincount(user, label, users),
        np.bincount(user, loss, users),
        np.where(both, of_user, 0) * size,
        both * size,
    ]
    return np.column_stack([*columns, gap])


def _metrics(weights, sums, auc) -> dict[str, np.ndarray]:
    total = weights @ sums
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = total[:, 2] / total[:, 0]
        return {
            "auc": auc(weights),
            "gauc": total[:, 3] / total[:, 4],
            "logloss": loss,
            "normalized_entropy": loss / entropy(total[:, 1] / total[:, 0]),
            "ece": np.abs(total[:, 5:]).sum(axis=1) / total[:, 0],
        }


def evaluate_in_full(
    predictions: Mapping[str, Predictions], slices: Mapping[str, Slices], resamples: int = 200
) -> dict[str, Any]:
    """Computes all metrics of all models on all slices, and differences to the first model.

    Args:
        predictions: mapping of model to Predictions of the same targets in the same order.
        slices: mapping of name to Slices; see :func:`slices_of`.
        resamples: int. Resamples of users.

    Returns:
        By slicing (``all`` first) ``title`` and ``parts``, each with ``title``, ``targets``,
        ``clicks``, ``models`` (metric to Interval) and ``differences`` (``"A - B"``: metric to
        Interval).

    Raises:
        ValueError: predictions are not of the same targets.
    """
    first, *others = predictions
    for name in others:
        if not (
            np.array_equal(predictions[first].label, predictions[name].label)
            and np.array_equal(predictions[first].user, predictions[name].user)
        ):
            raise ValueError(f"Predictions of {first} and {name} are not of the same targets")
    size = predictions[first].label.size
    every = {ALL: Slices("all targets", ["all"], np.zeros(size, np.int64)), **slices}
    return {
        name: {
            "title": cut.title,
            "parts": [
                _evaluate_part(predictions, title, cut.part_index == index, resamples)
                for index, title in enumerate(cut.parts)
                if (cut.part_index == index).any()
            ],
        }
        for name, cut in every.items()
    }


def _evaluate_part(predictions, title, rows, resamples) -> dict[str, Any]:
    models = {name: Resampled(of_model, rows, resamples) for name, of_model in predictions.items()}
    first, *others = models
    return {
        "title": title,
        "targets": models[first].targets,
        "clicks": models[first].clicks,
        "models": {
            name: {metric: resampled.interval(metric) for metric in METRICS}
            for name, resampled in models.items()
        },
        "differences": {
            f"{first} - {name}": {
                metric: models[first].difference(models[name], metric) for metric in METRICS
            }
            for name in others
        },
    }


def slices_table(numbers: Mapping[str, Any], metric: str = "auc") -> str:
    """Formats one metric by slice as a table for a terminal.

    Args:
        numbers: mapping. What :func:`evaluate_in_full` returns.
        metric: str. One of :data:`METRICS`.
    """
    parts = [
        (part["title"] if name == ALL else f"{cut['title']}: {part['title']}", part)
        for name, cut in numbers.items()
        for part in cut["parts"]
    ]
    rows = [
        [title, *(f"{values[metric]:.4f}" for values in _columns(part).values())]
        for title, part in parts
    ]
    return text_table([[metric, *_columns(parts[0][1])], *rows])


def _columns(part: Mapping[str, Any]) -> dict[str, Mapping[str, Interval]]:
    return {**part["models"], **part["differences"]}


def item_frequency(sequences: Sequences) -> np.ndarray:
    """Counts the events of each item's row in the training period; 0 for padding and unknown ids.

    Returns:
        int64 ``[rows]``.
    """
    counts = sequences.frequencies(sequences.schema.item.name)
    return np.concatenate([np.zeros(FIRST_ID, np.int64), counts])


def by_edges(values: np.ndarray, parts: int = 4) -> tuple[list[str], np.ndarray]:
    """Cuts values into parts of about equal size, quarters by default.

    Equal values stay together, so that there may be fewer parts.

    Args:
        values: int ``[n]``.
        parts: int. Defaults to 4.

    Returns:
        A title for each part, and the part that each value belongs to, int ``[n]``.
    """
    edges = np.unique(np.quantile(values, np.arange(1, parts) / parts, method="lower"))
    edges = edges[edges < values.max()].astype(np.int64)
    lows = [int(values.min()), *(edges + 1).tolist()]
    highs = [*edges.tolist(), int(values.max())]
    titles = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high in zip(lows, highs)]
    return titles, np.searchsorted(edges, values, side="left")
