"""The sections of the report: words, figures and tables for each measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdare.analysis.accuracy import plot_calibration, plot_slices
from tfdare.analysis.attention import plot_attention
from tfdare.analysis.convergence import plot_convergence, plot_efficiency
from tfdare.analysis.discriminability import plot_discriminability
from tfdare.analysis.gradients import plot_gradients
from tfdare.analysis.report import Section
from tfdare.analysis.search_quality import TRUTHS, plot_search_quality
from tfdare.evaluation.slices import METRICS


def sections_of(numbers: Mapping[str, Any]) -> list[Section]:
    """A section for every measurement that the numbers hold, in the order of the paper."""
    made = (
        _gradients,
        _attention,
        _search,
        _discriminability,
        _convergence,
        _efficiency,
        _accuracy,
    )
    return [section for section in (make(numbers) for make in made) if section is not None]


def _gradients(numbers):
    found = numbers["gradients"]
    feature = numbers["data"]["category"]
    looks = max(len(one["steps"]) for one in found.values())
    rows = [
        [
            model,
            name,
            str(one["rows"]),
            _shown(one["ratio"], 2),
            "n/a" if one["median_ratio"] is None else f"{one['median_ratio']:.2f}",
            _shown(one["conflict"], 3) if one["shared"] else "two tables",
        ]
        for model, of_model in found.items()
        for name, one in of_model["features"].items()
    ]
    return Section(
        "gradients",
        "Gradients: domination and conflict",
        "Where one table serves both sides, each row hears two gradients of the training loss: "
        "through its attention scores and through its representation, taken apart look-up by "
        f"look-up on one fixed batch at {looks} moments of a training with the run's options and "
        "seed. In conflict is a row whose two gradients have a negative cosine. Tables that are "
        "separate cannot conflict; their norms are shown for what they are. Intervals are over "
        "rows.",
        [
            (f"gradient norms and conflict, {name} table", plot_gradients(found, name))
            for name in dict.fromkeys([feature, next(iter(next(iter(found.values()))["features"]))])
        ],
        [
            (
                "Every table",
                [
                    "model",
                    "table",
                    "rows",
                    "norm, representation / attention",
                    "median over rows",
                    "share in conflict",
                ],
                rows,
            )
        ],
    )


def _attention(numbers):
    found = numbers["attention"]
    return Section(
        "attention",
        "Attention beside mutual information",
        'Truth: mutual information, in nats, between "the behavior at position p is of category '
        'c" and the click on a candidate of the target category, from the train split; far '
        "positions are counted in buckets. Categories with fewer than "
        f"{found['min_count']} observations at a position count as nothing; smoothing "
        f"{found['smoothing']:g}. Shown are the ten behavior categories that inform most, for the "
        "most frequent target categories; beside it the mean weight that each model's attention "
        "over the whole history gives to such behaviors. Gray: none came.",
        [("heat maps of information and attention", plot_attention(found))],
    )


def _search(numbers):
    found = numbers["search"]
    rows = [
        [
            TRUTHS.get(truth, truth),
            model,
            _shown(one["ndcg"], 4),
            _shown(one["recall"], 4),
            f"{one['targets_with_truth']:.1%}",
        ]
        for truth, of_truth in found["truths"].items()
        for model, one in of_truth["models"].items()
    ]
    exact = [
        model
        for model, one in found["truths"]["attention"]["models"].items()
        if one["ndcg"]["estimate"] is not None and one["ndcg"]["estimate"] > 0.9995
    ]
    told = (
        f" Against its own full attention the search of {', '.join(exact)} is exact."
        if exact
        else ""
    )
    return Section(
        "search",
        "Search: does it find what matters?",
        f"NDCG@{found['top_k']} (and recall, in the table) of the behaviors that search kept, in "
        "its order, with linear gains: against mutual information (which has no sign: a behavior "
        "that speaks against the click informs, too), against that of behaviors which speak for "
        "the click, against the model's own attention over the whole history and, for a simulated "
        f"log, against the planted relations. {found['targets']:,} targets of {found['users']:,} "
        f"users; intervals over users.{told}",
        [
            ("NDCG of search", plot_search_quality(found)),
            ("recall of search", plot_search_quality(found, "recall")),
        ],
        [
            (
                "Every truth",
                ["truth", "model", "NDCG", "recall", "targets with something relevant"],
                rows,
            )
        ],
    )


def _discriminability(numbers):
    found = numbers["discriminability"]
    rows = [
        [model, *(_shown(value, 4) for value in one["information"])]
        for model, one in found["models"].items()
    ]
    return Section(
        "discriminability",
        "Representations: how much of the label is in them",
        "What pooling hands to the head (without evidence and context), columns standardized as "
        "the head does first, clustered by k-means; then the mutual information between cluster "
        f"and label. {found['targets']:,} targets of {found['users']:,} users; intervals over "
        "users.",
        [("information of clusters about the label", plot_discriminability(found))],
        [("Every number of clusters", ["model", *map(str, found["clusters"])], rows)],
    )


def _convergence(numbers):
    found = numbers.get("convergence")
    if found is None:
        return None
    return Section(
        "convergence",
        "Convergence",
        "AUC on the same held-out requests of the validation split against training examples "
        "seen, in a training with the run's options and seed; "
        f"{found['requests']:,} requests of {found['users']:,} users, intervals over users.",
        [("AUC against examples seen", plot_convergence(found))],
        [
            (
                f"{model}, every look",
                ["examples", "AUC"],
                [
                    [f"{examples:,.0f}", _shown(auc, 4)]
                    for examples, auc in zip(one["examples"], one["auc"])
                ],
            )
            for model, one in found["models"].items()
        ],
    )


def _efficiency(numbers):
    found = numbers.get("efficiency")
    if not found:
        return None
    rows = [
        [
            model,
            str(one["attention_dim"]),
            str(one["representation_dim"]),
            f"{one['auc']:.4f}",
            _shown(one["to_widest"], 4),
            "n/a" if one["search_ms"] is None else f"{one['search_ms']:.2f}",
        ]
        for model, of_model in found["models"].items()
        for one in of_model
    ]
    return Section(
        "efficiency",
        "Efficiency",
        "Test AUC against the columns of an attention table and against the time of search, from "
        "`tfdare compare`; intervals over users.",
        [("AUC against attention columns and search time", plot_efficiency(found))],
        [("Every row", ["model", "K_A", "K_R", "AUC", "minus the widest", "search, ms"], rows)],
    )


def _accuracy(numbers):
    found = numbers["accuracy"]
    tables = []
    for metric in METRICS:
        first = found["slices"]["all"]["parts"][0]
        header = ["slice", "targets", *first["models"], *first["differences"]]
        rows = [
            [
                part["title"] if name == "all" else f"{cut['title']}: {part['title']}",
                f"{part['targets']:,}",
                *(_shown(one[metric], 4) for one in part["models"].values()),
                *(_shown(one[metric], 4) for one in part["differences"].values()),
            ]
            for name, cut in found["slices"].items()
            for part in cut["parts"]
        ]
        tables.append((metric, header, rows))
    return Section(
        "accuracy",
        "Accuracy, calibration and slices",
        f"The {found['split']} split. Normalized entropy is log loss over that of the mean click "
        "rate; the calibration error is over bins of equally many targets. Differences are taken "
        "in the same resamples of users.",
        [("AUC by slice", plot_slices(found)), ("calibration", plot_calibration(found))],
        tables,
    )


def _shown(one, digits: int) -> str:
    if one["estimate"] is None:
        return "n/a"
    if one["low"] is None:
        return f"{one['estimate']:.{digits}f}"
    return f"{one['estimate']:.{digits}f} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]"
