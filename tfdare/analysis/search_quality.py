"""Quality of search: NDCG and recall of the behaviors kept, by several measures of relevance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfdare.analysis.batches import UserBatches, search_and_attention
from tfdare.compat import tf
from tfdare.evaluation import Predictor
from tfdare.evaluation.slices import by_edges, item_frequency
from tfdare.files import as_json
from tfdare.metrics import search_ndcg, search_recall
from tfdare.metrics.bootstrap import interval, ratio_interval, resampled_ratios
from tfdare.sequences import Sequences
from tfdare.sequences.mutual_information import InterestTable
from tfdare.simulation.planted import PULLS, relations, relevance, second_kind

MEASURES = {"ndcg": search_ndcg, "recall": search_recall}
TRUTHS = {
    "information": "mutual information",
    "information_for": "mutual information, lift > 1",
    "attention": "the model's full attention",
    "planted": "planted relations",
    "planted_against": "planted relations, against the click",
}
EXACT = 0.9995
"""Above this NDCG, search counts as exact."""
Relevance = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""A truth: function of requests (arrays) to the relevance of their behaviors, ``[U, C, N]``."""


class PlantedTruth:
    """Relevance by the relations that the simulator planted.

    A behavior of category c, ``lag(c)`` page views before a target of c's partner category, is
    relevant (1); all others are not (0).

    Args:
        path: str. The ``.truth.json`` that `tfdare simulate` wrote beside its log.
        sequences: Sequences. Prepared from the page views of this log.

    Attributes:
        conflicts: bool. Whether the log has `conflict`: kinds of items that say for or against.
    """

    def __init__(self, path: str, sequences: Sequences):
        with open(path, encoding="utf-8") as file:
            truth = json.load(file)
        self._relations = relations(truth, sequences.vocabulary("category").tolist())
        self.conflicts = "second_kind" in truth
        if self.conflicts:
            self._second_kind = second_kind(truth, sequences.vocabulary("item").tolist())

    def __call__(self, requests) -> np.ndarray:
        target, history = (
            {name: requests[f"{side}_{name}"] for name in ("item", "category")}
            for side in ("target", "history")
        )
        grades = relevance(self._relations, target, history, requests["history_length"])
        return (grades == PULLS).astype(np.float32)

    def against(self, requests) -> np.ndarray:
        """Returns the relevance of those that make the click less likely: of the target's kind."""
        target, history = (self._second_kind[requests[f"{s}_item"]] for s in ("target", "history"))
        return self(requests) * (history[:, None, :] == target[:, :, None])


class InformationTruth:
    """Relevance by mutual information of "category c at position p" and the target's click.

    Args:
        table: InterestTable. Of all categories, from the train split.
        category: str. The feature that the table is about.
    """

    def __init__(self, table: InterestTable, category: str):
        self._table, self._category = table, category

    def __call__(self, requests) -> np.ndarray:
        return self._table.relevance(
            requests[f"history_{self._category}"],
            requests["history_length"],
            requests[f"target_{self._category}"],
        )


def measure_search_quality(
    models: Mapping[str, Any],
    sequences: Sequences,
    truths: Mapping[str, Relevance],
    split: str = "test",
    limit: int | None = 6000,
    top_k: int | None = 20,
    resamples: int = 1000,
    batch_size: int = 256,
    progress: Callable = iter,
) -> dict[str, Any]:
    """Computes NDCG@K and recall@K of the behaviors that models' searches keep.

    Args:
        models: mapping of name to RequestModel; the first is the reference of the differences.
        sequences: Sequences.
        truths: mapping of name to function of requests (arrays) to relevance ``[U, C, N]``, oldest
            behavior first, such as :class:`InformationTruth` and :class:`PlantedTruth`. Each
            model's own attention over the whole history is added as ``"attention"``.
        split: str.
        limit: int or None. About how many requests are read, of the first users; None: all.
        top_k: int or None. K; None counts all behaviors that each search keeps.
        resamples: int. Resamples of users.
        batch_size: int. Requests at once.
        progress: function that wraps an iterable of batches to show progress.

    Returns:
        ``targets``, ``users``, ``top_k``; by truth and model ``ndcg`` and ``recall`` with 95%
        intervals over users and ``targets_with_truth``, the share of targets with any relevant
        behavior; the same ``by_length`` of the history and ``by_frequency`` of the target's item;
        and ``differences`` from the reference, resample by resample.
    """
    predictors = {name: Predictor(model, search_and_attention) for name, model in models.items()}
    frequency = item_frequency(sequences)
    columns: dict[str, list] = {"user": [], "length": [], "frequency": []}
    measured: dict[tuple, list] = {}
    for requests, _, weight, user in progress(UserBatches(sequences, split, batch_size, limit)):
        real = weight.numpy() > 0
        arrays = {name: value.numpy() for name, value in requests.items()}
        relevance = {name: truth(arrays) for name, truth in truths.items()}
        for name, predictor in predictors.items():
            index, attention = predictor(requests)
            for truth, value in {**relevance, "attention": attention}.items():
                for measure, function in MEASURES.items():
                    values = function(tf.constant(value), tf.constant(index), top_k).numpy()
                    measured.setdefault((truth, name, measure), []).append(values[real])
        shape = real.shape
        columns["user"].append(np.broadcast_to(user[:, None], shape)[real])
        length = arrays["history_length"]
        columns["length"].append(np.broadcast_to(length[:, None], shape)[real])
        item = arrays[f"target_{sequences.schema.item.name}"]
        columns["frequency"].append(frequency[item][real])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    joined["user"] = np.unique(joined["user"], return_inverse=True)[1]
    values = {key: np.concatenate(parts) for key, parts in measured.items()}
    slices = {f"by_{name}": by_edges(joined[name]) for name in ("length", "frequency")}
    numbers: dict[str, Any] = {
        "split": split,
        "top_k": top_k,
        "targets": int(joined["user"].size),
        "users": int(joined["user"].max()) + 1,
        "truths": {},
    }
    for truth in [*truths, "attention"]:
        numbers["truths"][truth] = _numbers_of_truth(
            truth, list(models), values, joined["user"], slices, resamples
        )
    return as_json(numbers)


def _numbers_of_truth(truth, names, values, user, slices, resamples) -> dict[str, Any]:
    of_truth: dict[str, Any] = {"models": {}, "differences": {}}
    resampled = {}
    for name in names:
        numbers: dict[str, Any] = {}
        for measure in MEASURES:
            of_targets = values[truth, name, measure]
            known = np.isfinite(of_targets)
            sums = _sums_by_user(of_targets, known, user)
            numbers[measure] = ratio_interval(*sums, resamples)
            numbers["targets_with_truth"] = float(known.mean())
            resampled[name, measure] = resampled_ratios(*sums, resamples)
            for kind, (titles, part) in slices.items():
                numbers.setdefault(kind, {"titles": titles, "targets": []})
                parts = [known & (part == i) for i in range(len(titles))]
                numbers[kind]["targets"] = [int(rows.sum()) for rows in parts]
                numbers[kind][measure] = [
                    ratio_interval(*_sums_by_user(of_targets, rows, user), max(resamples // 5, 1))
                    for rows in parts
                ]
        of_truth["models"][name] = numbers
    first = names[0]
    for name in names[1:]:
        of_truth["differences"][f"{first} - {name}"] = {
            measure: interval(
                of_truth["models"][first][measure].estimate
                - of_truth["models"][name][measure].estimate,
                resampled[first, measure] - resampled[name, measure],
            )
            for measure in MEASURES
        }
    return of_truth


def _sums_by_user(values, known, user) -> tuple[np.ndarray, np.ndarray]:
    users = int(user.max()) + 1
    return (
        np.bincount(user[known], values[known], users),
        np.bincount(user[known], minlength=users),
    )


def plot_search_quality(numbers: Mapping[str, Any], measure: str = "ndcg"):
    """Draws one row per truth: all targets, by history length, by target frequency.

    A truth on which every model is exact is left out, such as full attention with exact search.

    Args:
        numbers: mapping. What :func:`measure_search_quality` returns.
        measure: str. ``"ndcg"`` or ``"recall"``.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import color_of, finish, new_figure

    truths = {
        truth: of_truth
        for truth, of_truth in numbers["truths"].items()
        if any((m[measure]["estimate"] or 0) < EXACT for m in of_truth["models"].values())
    } or numbers["truths"]
    figure, axes = new_figure(len(truths), 3, height=2.7)
    metric = f"{measure.upper() if measure == 'ndcg' else measure}@{numbers['top_k'] or 'K'}"
    for (truth, of_truth), (whole, *others) in zip(truths.items(), axes):
        for index, (model, of_model) in enumerate(of_truth["models"].items()):
            value = of_model[measure]
            if value["estimate"] is None:
                continue
            whole.bar(index, value["estimate"], color=color_of(model), width=0.7)
            whole.errorbar(
                index,
                value["estimate"],
                yerr=_error_bars(value),
                color="black",
                capsize=3,
                linewidth=1,
            )
            whole.annotate(
                f"{value['estimate']:.3f}",
                (index, value["high"]),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            for axis, kind in zip(others, ("by_length", "by_frequency")):
                titles, values = of_model[kind]["titles"], of_model[kind][measure]
                known = [i for i, v in enumerate(values) if v["estimate"] is not None]
                bars = [_error_bars(values[i]) for i in known]
                axis.errorbar(
                    [i + 0.04 * index for i in known],
                    [values[i]["estimate"] for i in known],
                    yerr=np.concatenate(bars, axis=1) if bars else None,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=color_of(model),
                    linewidth=1.4,
                    label=model,
                )
                axis.set_xticks(range(len(titles)), titles)
                axis.set_xlim(-0.5, len(titles) - 0.3)
        whole.set_xticks(range(len(of_truth["models"])), list(of_truth["models"]))
        whole.margins(y=0.15)
        whole.set_title(f"{metric}: {TRUTHS.get(truth, truth)}")
        others[0].set_title("by history length")
        others[1].set_title("by training events of the target item")
        for axis in others:
            axis.margins(y=0.15)
            axis.set_ylabel(metric)
    return finish(figure)


def _error_bars(value):
    low, high = value["low"], value["high"]
    if low is None:
        return np.zeros((2, 1))
    return np.array([[value["estimate"] - low], [high - value["estimate"]]]).clip(0)
