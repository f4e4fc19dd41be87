"""Does search find what matters? Against mutual information, full attention and planted truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfdare.analysis.batches import UserBatches, kept_and_attention
from tfdare.compat import tf
from tfdare.evaluation import Predictor
from tfdare.evaluation.slices import by_edges, item_frequency
from tfdare.files import as_json
from tfdare.metrics import search_ndcg, search_recall
from tfdare.metrics.bootstrap import interval, ratio_interval, resampled_ratios
from tfdare.sequences import Sequences
from tfdare.sequences.mutual_information import InterestTable
from tfdare.simulation.planted import PULLS, relations, relevance

MEASURES = {"ndcg": search_ndcg, "recall": search_recall}
TRUTHS = {
    "information": "mutual information",
    "information_for": "what speaks for the click",
    "attention": "its own full attention",
    "planted": "planted relations",
}
Relevance = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class PlantedTruth:
    """What the simulator planted: a behavior of category c, ``lag(c)`` page views before a target
    of c's partner category, is relevant (1); all else is not (0).

    Args:
        path: str. The ``.truth.json`` that `tfdare simulate` wrote beside its log.
        sequences: Sequences. That were prepared from this log, page views alone.
    """

    def __init__(self, path: str, sequences: Sequences):
        with open(path, encoding="utf-8") as file:
            self._relations = relations(json.load(file), sequences.vocabulary("category"))

    def __call__(self, requests) -> np.ndarray:
        target, history = (
            {name: requests[f"{side}_{name}"] for name in ("item", "category")}
            for side in ("target", "history")
        )
        grades = relevance(self._relations, target, history, requests["history_length"])
        return (grades == PULLS).astype(np.float32)


class InformationTruth:
    """Mutual information of "category c at position p" and the click on the target's category.

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
    """NDCG@K and recall@K of what models' searches keep, all on the same targets.

    Args:
        models: mapping of name to RequestModel; the first is the reference of the differences.
        sequences: Sequences.
        truths: mapping of name to function of requests (arrays) to relevance ``[U, C, N]``, oldest
            behavior first, such as :class:`InformationTruth` and :class:`PlantedTruth`. Full
            attention is measured besides.
        split: str.
        limit: int or None. Requests, about; the first users of the split.
        top_k: int or None. K; None: all that each search keeps.
        resamples: int. Of users.
        batch_size: int. Requests at once.
        progress: function that passes batches on, to show progress.

    Returns:
        ``targets``, ``users``, ``top_k``; by truth and model ``ndcg`` and ``recall`` with 95%
        intervals over users and the share of targets for which something is relevant; the same
        ``by_length`` of the history and ``by_frequency`` of the target's item; and
        ``differences`` to the reference, resample by resample.
    """
    askers = {name: Predictor(model, kept_and_attention) for name, model in models.items()}
    frequency = item_frequency(sequences)
    columns: dict[str, list] = {"user": [], "length": [], "frequency": []}
    found: dict[tuple, list] = {}
    for requests, _, weight, user in progress(UserBatches(sequences, split, batch_size, limit)):
        real = weight.numpy() > 0
        arrays = {name: value.numpy() for name, value in requests.items()}
        relevance = {name: truth(arrays) for name, truth in truths.items()}
        for name, ask in askers.items():
            index, attention = ask(requests)
            for truth, value in {**relevance, "attention": attention}.items():
                for measure, function in MEASURES.items():
                    values = function(tf.constant(value), tf.constant(index), top_k).numpy()
                    found.setdefault((truth, name, measure), []).append(values[real])
        shape = real.shape
        columns["user"].append(np.broadcast_to(user[:, None], shape)[real])
        length = arrays["history_length"]
        columns["length"].append(np.broadcast_to(length[:, None], shape)[real])
        item = arrays[f"target_{sequences.schema.item.name}"]
        columns["frequency"].append(frequency[item][real])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    joined["user"] = np.unique(joined["user"], return_inverse=True)[1]
    values = {key: np.concatenate(parts) for key, parts in found.items()}
    slices = {f"by_{name}": by_edges(joined[name]) for name in ("length", "frequency")}
    numbers: dict[str, Any] = {
        "split": split,
        "top_k": top_k,
        "targets": int(joined["user"].size),
        "users": int(joined["user"].max()) + 1,
        "truths": {},
    }
    for truth in [*truths, "attention"]:
        numbers["truths"][truth] = _of_truth(
            truth, list(models), values, joined["user"], slices, resamples
        )
    return as_json(numbers)


def _of_truth(truth, names, values, user, slices, resamples):
    of_truth: dict[str, Any] = {"models": {}, "differences": {}}
    drawn = {}
    for name in names:
        numbers: dict[str, Any] = {}
        for measure in MEASURES:
            of_targets = values[truth, name, measure]
            known = np.isfinite(of_targets)
            sums = _by_user(of_targets, known, user)
            numbers[measure] = ratio_interval(*sums, resamples)
            numbers["targets_with_truth"] = float(known.mean())
            drawn[name, measure] = resampled_ratios(*sums, resamples)
            for kind, (titles, place) in slices.items():
                numbers.setdefault(kind, {"titles": titles, "targets": []})
                inside = [known & (place == i) for i in range(len(titles))]
                numbers[kind]["targets"] = [int(one.sum()) for one in inside]
                numbers[kind][measure] = [
                    ratio_interval(*_by_user(of_targets, one, user), max(resamples // 5, 1))
                    for one in inside
                ]
        of_truth["models"][name] = numbers
    first = names[0]
    for name in names[1:]:
        of_truth["differences"][f"{first} - {name}"] = {
            measure: interval(
                of_truth["models"][first][measure].estimate
                - of_truth["models"][name][measure].estimate,
                drawn[first, measure] - drawn[name, measure],
            )
            for measure in MEASURES
        }
    return of_truth


def _by_user(values, known, user):
    users = int(user.max()) + 1
    return (
        np.bincount(user[known], values[known], users),
        np.bincount(user[known], minlength=users),
    )


def plot_search_quality(numbers: Mapping[str, Any], measure: str = "ndcg"):
    """Draws one row a truth: all targets, by history length, by target frequency.

    A truth that every model meets fully, as exact search meets full attention, is left out.

    Args:
        numbers: mapping. What :func:`measure_search_quality` returns.
        measure: str. ``"ndcg"`` or ``"recall"``.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import color_of, finish, new_figure

    truths = {
        truth: found
        for truth, found in numbers["truths"].items()
        if any((one[measure]["estimate"] or 0) < 0.9995 for one in found["models"].values())
    } or numbers["truths"]
    figure, axes = new_figure(len(truths), 3, height=2.7)
    what = f"{measure.upper() if measure == 'ndcg' else measure}@{numbers['top_k'] or 'K'}"
    for (truth, found), (whole, *others) in zip(truths.items(), axes):
        for place, (model, one) in enumerate(found["models"].items()):
            value = one[measure]
            if value["estimate"] is None:
                continue
            whole.bar(place, value["estimate"], color=color_of(model), width=0.7)
            whole.errorbar(
                place, value["estimate"], yerr=_arms(value), color="black", capsize=3, linewidth=1
            )
            whole.annotate(
                f"{value['estimate']:.3f}",
                (place, value["high"]),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            for axis, kind in zip(others, ("by_length", "by_frequency")):
                kept = [i for i, v in enumerate(one[kind][measure]) if v["estimate"] is not None]
                values = [one[kind][measure][i] for i in kept]
                axis.errorbar(
                    [i + 0.04 * place for i in kept],
                    [v["estimate"] for v in values],
                    yerr=np.concatenate([_arms(v) for v in values], axis=1) if values else None,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=color_of(model),
                    linewidth=1.4,
                    label=model,
                )
                axis.set_xticks(range(len(one[kind]["titles"])), one[kind]["titles"])
                axis.set_xlim(-0.5, len(one[kind]["titles"]) - 0.3)
        whole.set_xticks(range(len(found["models"])), list(found["models"]))
        whole.margins(y=0.15)
        whole.set_title(f"{what}: {TRUTHS.get(truth, truth)}")
        others[0].set_title("by length of the history")
        others[1].set_title("by training events of the target's item")
        for axis in others:
            axis.margins(y=0.15)
            axis.set_ylabel(what)
    return finish(figure)


def _arms(value):
    low, high = value["low"], value["high"]
    if low is None:
        return np.zeros((2, 1))
    return np.array([[value["estimate"] - low], [high - value["estimate"]]]).clip(0)
