"""Metrics of a split in full: by slices, with intervals over users, and two models in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfdare.evaluation.predictions import Predictions
from tfdare.metrics import Interval, auc_by_group
from tfdare.metrics.bootstrap import WeightedAUC, interval, resamples_of
from tfdare.metrics.calibration import BINS, bin_of, entropy, probability_bins
from tfdare.sequences import Sequences

METRICS = ("auc", "gauc", "logloss", "normalized_entropy", "ece")
ALL = "all"
_TINY = 1e-7


class Slices(NamedTuple):
    """One way to cut a split into parts.

    Attributes:
        title: str. What is told apart.
        parts: list of str. A title each.
        place: int ``[n]``. To which part each target belongs.
    """

    title: str
    parts: list[str]
    place: np.ndarray


def slices_of(found: Predictions, sequences: Sequences, split: str) -> dict[str, Slices]:
    """The slices in which a ranking model is looked at, quarters where there is an order.

    Args:
        found: Predictions. Of any model; slices depend on the data alone.
        sequences: Sequences.
        split: str. That `found` is of.

    Returns:
        ``history_length`` (in the window), ``target`` (whether the request's click is on an item
        that the user had before), ``target_frequency`` (of the candidate's item in the training
        period) and ``activity`` (events of the user).
    """
    length = {record.user: record.history_time.size for record in sequences.records(split)}
    activity = np.array([length[name] for name in found.names], np.int64)[found.user]
    frequency = item_frequency(sequences)[found.item]
    return {
        "history_length": Slices("length of the history", *by_edges(found.history_length)),
        "target": Slices(
            "item of the click",
            ["new to the user", "seen before"],
            found.clicked_before.astype(np.int64),
        ),
        "target_frequency": Slices("training events of the item", *by_edges(frequency)),
        "activity": Slices("events of the user", *by_edges(activity)),
    }


class Resampled:
    """All metrics of one model on some targets, and what they are in resamples of users.

    Args:
        found: Predictions.
        rows: bool ``[n]`` or None. Targets that count; None: all.
        resamples: int. Equal for all models, so that differences can be taken in pairs.
        bins: int. Of the calibration error; the edges are those of the data.
    """

    def __init__(
        self,
        found: Predictions,
        rows: np.ndarray | None = None,
        resamples: int = 200,
        bins: int = BINS,
    ):
        rows = np.ones(found.label.size, bool) if rows is None else rows
        label = found.label[rows].astype(np.float64)
        probability = found.probability[rows].astype(np.float64)
        user = found.user[rows]
        users = int(found.user.max()) + 1
        sums = _sums_by_user(label, probability, user, users, bins)
        auc = WeightedAUC(label, probability, user)
        whole = np.ones((1, users))
        self.targets, self.clicks = int(label.size), int(label.sum())
        self._estimate = _metrics(whole, sums, auc)
        drawn = [_metrics(block, sums, auc) for block in resamples_of(users, resamples)]
        self._drawn = {name: np.concatenate([one[name] for one in drawn]) for name in METRICS}

    def interval(self, metric: str) -> Interval:
        """A metric, and its 95% interval."""
        return interval(self._estimate[metric][0], self._drawn[metric])

    def difference(self, other: Resampled, metric: str) -> Interval:
        """This model's metric minus the other's, resample by resample."""
        return interval(
            self._estimate[metric][0] - other._estimate[metric][0],
            self._drawn[metric] - other._drawn[metric],
        )


def _sums_by_user(label, probability, user, users, bins):
    """What each user brings to every metric but AUC: columns of ``[users, ...]``."""
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
    """Every metric of every model on every slice, and differences to the first model.

    Args:
        predictions: mapping of model to Predictions of the same targets in the same order.
        slices: mapping of name to Slices; see :func:`slices_of`.
        resamples: int. Of users.

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
                _of_part(predictions, title, cut.place == place, resamples)
                for place, title in enumerate(cut.parts)
                if (cut.place == place).any()
            ],
        }
        for name, cut in every.items()
    }


def _of_part(predictions, title, rows, resamples):
    found = {name: Resampled(one, rows, resamples) for name, one in predictions.items()}
    first, *others = found
    return {
        "title": title,
        "targets": found[first].targets,
        "clicks": found[first].clicks,
        "models": {
            name: {metric: one.interval(metric) for metric in METRICS}
            for name, one in found.items()
        },
        "differences": {
            f"{first} - {name}": {
                metric: found[first].difference(found[name], metric) for metric in METRICS
            }
            for name in others
        },
    }


def slices_table(numbers: Mapping[str, Any], metric: str = "auc") -> str:
    """One metric by slice, as a person reads it."""
    first = next(iter(numbers.values()))["parts"][0]
    pairs = list(first["differences"])
    head = [*first["models"], *pairs]
    lines = [f"  {metric:<42}" + "".join(f"{name:>28}" for name in head)]
    for cut in numbers.values():
        for part in cut["parts"]:
            title = part["title"] if part["title"] == ALL else f"{cut['title']}: {part['title']}"
            values = [
                one[metric] for one in (*part["models"].values(), *part["differences"].values())
            ]
            lines.append(f"  {title:<42}" + "".join(f"{_shown(one):>28}" for one in values))
    return "\n".join(lines)


def _shown(one: Interval) -> str:
    if not np.isfinite(one.estimate):
        return "n/a"
    return f"{one.estimate:.4f} [{one.low:.4f}, {one.high:.4f}]"


def item_frequency(sequences: Sequences) -> np.ndarray:
    """Events of each item's row in the training period; 0 for padding and what is unknown."""
    name = sequences.schema.item.name
    with open(sequences.vocabulary_path(name), encoding="utf-8") as file:
        counts = [int(line.split("\t")[1]) for line in file]
    return np.array([0, 0, *counts], np.int64)


def by_edges(values: np.ndarray, parts: int = 4) -> tuple[list[str], np.ndarray]:
    """Quarters of the values: a title each, and to which one each value belongs.

    Equal values stay together, so that there may be fewer parts.
    """
    edges = np.unique(np.quantile(values, np.arange(1, parts) / parts, method="lower"))
    edges = edges[edges < values.max()].astype(np.int64)
    lows = [int(values.min()), *(edges + 1).tolist()]
    highs = [*edges.tolist(), int(values.max())]
    titles = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high in zip(lows, highs)]
    return titles, np.searchsorted(edges, values, side="left")
