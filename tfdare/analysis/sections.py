"""The sections of the report: text, figures and tables for each measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdare.analysis.accuracy import plot_calibration, plot_slices
from tfdare.analysis.attention import plot_attention
from tfdare.analysis.convergence import plot_convergence, plot_efficiency
from tfdare.analysis.discriminability import plot_discriminability
from tfdare.analysis.findings import format_interval
from tfdare.analysis.gradients import plot_gradients
from tfdare.analysis.report import Section
from tfdare.analysis.search_quality import EXACT, TRUTHS, plot_search_quality
from tfdare.evaluation.slices import METRICS


def sections_of(numbers: Mapping[str, Any]) -> list[Section]:
    """Returns a section for every measurement in the numbers of an analysis."""
    makers = (
        _gradients,
        _attention,
        _search,
        _discriminability,
        _convergence,
        _efficiency,
        _accuracy,
    )
    return [section for section in (make(numbers) for make in makers) if section is not None]


def _gradients(numbers):
    gradients = numbers["gradients"]
    if not gradients:  # attention is given: it has none
        return None
    feature = numbers["data"]["category"]
    first_feature = next(iter(next(iter(gradients.values()))["features"]))
    count = max(len(of_model["steps"]) for of_model in gradients.values())
    moments = f"{count} times during a new training with each run's options and seed"
    rows = [
        [
            model,
            name,
            str(table["rows"]),
            format_interval(table["ratio"], ".2f"),
            "n/a" if table["median_ratio"] is None else f"{table['median_ratio']:.2f}",
            format_interval(table["conflict"], ".3f") if table["shared"] else "two tables",
        ]
        for model, of_model in gradients.items()
        for name, table in of_model["features"].items()
    ]
    return Section(
        "gradients",
        "Gradients: domination and conflict",
        "Where one embedding table serves both attention and representation, each of its rows "
        "gets two gradients of the training loss: one through the attention scores and one "
        "through the pooled representation. They are measured separately, on one fixed batch, "
        f"{moments if count > 1 else 'with the trained models'}. Domination: the "
        "representation side's gradient is larger. Conflict: the two gradients of a row point in "
        "opposite directions (negative cosine). Models with a table for each side cannot have "
        "conflicts, and models whose attention is given have no gradient of it. Intervals are "
        "over rows of the table.",
        [
            (f"gradient norms and conflict, {name} table", plot_gradients(gradients, name))
            for name in dict.fromkeys([feature, first_feature])
        ],
        [
            (
                "All tables",
                [
                    "model",
                    "table",
                    "rows",
                    "gradient norm, representation / attention",
                    "median over rows",
                    "share of rows in conflict",
                ],
                rows,
            )
        ],
    )


def _attention(numbers):
    attention = numbers["attention"]
    return Section(
        "attention",
        "Attention compared with mutual information",
        "How much does a behavior of a category, at a position of the history, tell about a click "
        "on a candidate of the target category? The left heat map answers with their mutual "
        "information in nats, from the train split, for the most frequent target categories and "
        "the ten most informative behavior categories; old positions are grouped. Cells with "
        f"fewer than {attention['min_count']} observations count as 0 (smoothing "
        f"{attention['smoothing']:g}). The other heat maps show the mean weight that each model's "
        "attention over the whole history gives to such behaviors; gray cells have none.",
        [("heat maps of mutual information and attention", plot_attention(attention))],
    )


def _search(numbers):
    search = numbers["search"]
    rows = [
        [
            TRUTHS.get(truth, truth),
            model,
            format_interval(of_model["ndcg"], ".4f"),
            format_interval(of_model["recall"], ".4f"),
            f"{of_model['targets_with_truth']:.1%}",
        ]
        for truth, of_truth in search["truths"].items()
        for model, of_model in of_truth["models"].items()
    ]
    exact = [
        model
        for model, of_model in search["truths"]["attention"]["models"].items()
        if (of_model["ndcg"]["estimate"] or 0) > EXACT
    ]
    exact_search = (
        f" Measured by its own full attention, the search of {', '.join(exact)} is exact."
        if exact
        else ""
    )
    return Section(
        "search",
        "Search: does it find the relevant behaviors?",
        f"NDCG@{search['top_k']} and recall of the behaviors that search keeps (linear gains). "
        "Relevance is measured in several ways: the mutual information of behavior and click; the "
        "same, only for behaviors that raise the click rate (lift above 1), because a behavior "
        "that makes a click unlikely is informative, too; the model's own attention over the "
        "whole history; and, for a simulated log, the relations that the simulator planted. "
        f"{search['targets']:,} targets of {search['users']:,} users; intervals over users."
        f"{exact_search}",
        [
            ("NDCG of search", plot_search_quality(search)),
            ("recall of search", plot_search_quality(search, "recall")),
        ],
        [
            (
                "All measures of relevance",
                ["relevance", "model", "NDCG", "recall", "targets with a relevant behavior"],
                rows,
            )
        ],
    )


def _discriminability(numbers):
    clusters = numbers["discriminability"]
    rows = [
        [model, *(format_interval(value, ".4f") for value in of_model["information"])]
        for model, of_model in clusters["models"].items()
    ]
    return Section(
        "discriminability",
        "Discriminability: how well representations separate clicks",
        "The pooled representation that the head receives (without evidence and context) is "
        "standardized and clustered by k-means. The more mutual information there is between "
        "cluster and click, the better the representation discriminates. "
        f"{clusters['targets']:,} targets of {clusters['users']:,} users; intervals over users.",
        [("mutual information of clusters and the label", plot_discriminability(clusters))],
        [("All numbers of clusters", ["model", *map(str, clusters["clusters"])], rows)],
    )


def _convergence(numbers):
    convergence = numbers.get("convergence")
    if convergence is None:
        return None
    return Section(
        "convergence",
        "Convergence",
        "A fresh model is trained with each run's options and seed. The curve is its AUC on the "
        f"same {convergence['requests']:,} requests of {convergence['users']:,} users of the "
        "validation split by the number of training examples; intervals over users.",
        [("AUC against training examples", plot_convergence(convergence))],
        [
            (
                f"{model}: AUC by training examples",
                ["examples", "AUC"],
                [
                    [f"{examples:,.0f}", format_interval(auc, ".4f")]
                    for examples, auc in zip(curve["examples"], curve["auc"])
                ],
            )
            for model, curve in convergence["models"].items()
        ],
    )


def _efficiency(numbers):
    efficiency = numbers.get("efficiency")
    if not efficiency:
        return None
    rows = [
        [
            model,
            str(row["attention_dim"]),
            str(row["representation_dim"]),
            f"{row['auc']:.4f}",
            format_interval(row["to_widest"], ".4f"),
            "n/a" if row["search_ms"] is None else f"{row['search_ms']:.2f}",
        ]
        for model, of_model in efficiency["models"].items()
        for row in of_model
    ]
    return Section(
        "efficiency",
        "Efficiency",
        "Test AUC by the width of the attention tables (K_A; K_R is that of the representation "
        "tables) and by the time of search, from `tfdare compare`; intervals over users and seeds.",
        [("AUC by attention width and search time", plot_efficiency(efficiency))],
        [
            (
                "All widths",
                ["model", "K_A", "K_R", "AUC", "minus the widest", "search time, ms"],
                rows,
            )
        ],
    )


def _accuracy(numbers):
    accuracy = numbers["accuracy"]
    tables = []
    for metric in METRICS:
        first = accuracy["slices"]["all"]["parts"][0]
        header = ["slice", "targets", *first["models"], *first["differences"]]
        rows = [
            [
                part["title"] if name == "all" else f"{cut['title']}: {part['title']}",
                f"{part['targets']:,}",
                *(
                    format_interval(values[metric], ".4f")
                    for kind in ("models", "differences")
                    for values in part[kind].values()
                ),
            ]
            for name, cut in accuracy["slices"].items()
            for part in cut["parts"]
        ]
        tables.append((metric, header, rows))
    return Section(
        "accuracy",
        "Accuracy, calibration and slices",
        f"Metrics on the {accuracy['split']} split and its slices. Normalized entropy: log loss "
        "divided by that of always predicting the mean click rate. ECE: expected calibration "
        "error, the mean distance of predicted and observed click rate over bins with equally "
        "many targets. Intervals are over users; differences compare models on the same resamples "
        "of users.",
        [("AUC by slice", plot_slices(accuracy)), ("calibration", plot_calibration(accuracy))],
        tables,
    )
