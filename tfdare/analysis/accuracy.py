"""Accuracy of trained models: metrics by slice, calibration curves, and their figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfdare.evaluation import Predictions, evaluate_in_full, predict, slices_of
from tfdare.files import as_json
from tfdare.metrics import Interval, UserBootstrap, calibration_curve
from tfdare.sequences import Sequences


def measure_accuracy(
    models: Mapping[str, Any],
    sequences: Sequences,
    split: str = "test",
    resamples: int = 200,
    batch_size: int = 512,
    limit: int | None = 300_000,
    progress: Callable = iter,
) -> dict[str, Any]:
    """Computes every metric on every slice, with intervals over users, and calibration curves.

    Args:
        models: mapping of name to RequestModel; the first is the reference of the differences.
        sequences: Sequences.
        split: str.
        resamples: int. Resamples of users.
        batch_size: int. Requests at once.
        limit: int or None. About how many candidates are read; None: all.
        progress: function that wraps an iterable of models' names to show progress.

    Returns:
        ``slices`` of :func:`tfdare.evaluation.evaluate_in_full`; ``auc_differences`` of every pair
        of models, ``"A - B"``, to an Interval; and ``calibration`` by model: ``predicted``,
        ``clicked`` and ``targets`` of each bin.
    """
    predictions: dict[str, Predictions] = {
        name: predict(models[name], sequences, split, batch_size, limit)
        for name in progress(list(models))
    }
    first = next(iter(predictions.values()))
    slices = evaluate_in_full(predictions, slices_of(first, sequences, split), resamples)
    scores = {name: [part.probability] for name, part in predictions.items()}
    bootstrap = UserBootstrap(first.label, first.user, scores, resamples)
    return as_json(
        {
            "split": split,
            "slices": slices,
            "auc_differences": {
                f"{name} - {other}": bootstrap.difference(name, other)
                for name, other in itertools.permutations(predictions, 2)
            },
            "calibration": {
                name: calibration_curve(part.label, part.probability)
                for name, part in predictions.items()
            },
        }
    )


def plot_calibration(numbers: Mapping[str, Any]):
    """Draws the observed click rate against the predicted one.

    Args:
        numbers: mapping. What :func:`measure_accuracy` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import FAINT, color_of, finish, new_figure

    figure, ((curve, gap),) = new_figure(1, 2, height=3.6)
    all_targets = numbers["slices"]["all"]["parts"][0]["models"]
    curve.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    gap.axhline(0, color=FAINT, linewidth=1)
    for model, bins in numbers["calibration"].items():
        ece = all_targets[model]["ece"]
        curve.plot(
            bins["predicted"],
            bins["clicked"],
            "o-",
            color=color_of(model),
            markersize=3.5,
            label=f"{model}, ECE {Interval.from_json(ece):.4f}",
        )
        difference = np.array(bins["clicked"]) - np.array(bins["predicted"])
        gap.plot(
            range(1, len(difference) + 1), difference, "o-", color=color_of(model), markersize=3.5
        )
    curve.set(
        xlabel="predicted click rate",
        ylabel="observed click rate",
        title="Calibration, in bins with equally many targets",
    )
    gap.set(
        xlabel="bin, from the lowest to the highest prediction",
        ylabel="observed minus predicted",
        title="Calibration error of each bin",
    )
    return finish(figure)


def plot_slices(numbers: Mapping[str, Any], metric: str = "auc"):
    """Draws a metric by slice, and the differences from the first model.

    Args:
        numbers: mapping. What :func:`measure_accuracy` returns.
        metric: str. One of :data:`tfdare.evaluation.slices.METRICS`.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import color_of, finish, new_figure

    parts = [
        (part["title"] if name == "all" else f"{cut['title']}: {part['title']}", part)
        for name, cut in numbers["slices"].items()
        for part in cut["parts"]
    ]
    pairs = list(parts[0][1]["differences"])
    figure, (axes,) = new_figure(1, 2 if pairs else 1, height=1.2 + 0.28 * len(parts))
    for axis, kind, names in zip(
        axes, ("models", "differences"), (list(parts[0][1]["models"]), pairs)
    ):
        for number, name in enumerate(names):
            color = color_of(name.split(" - ")[-1])
            offset = 0.16 * (number - (len(names) - 1) / 2)
            values = [part[kind][name][metric] for _, part in parts]
            known = [i for i, value in enumerate(values) if value["estimate"] is not None]
            axis.errorbar(
                [values[i]["estimate"] for i in known],
                [i + offset for i in known],
                xerr=np.array(
                    [
                        [max(values[i]["estimate"] - values[i]["low"], 0) for i in known],
                        [max(values[i]["high"] - values[i]["estimate"], 0) for i in known],
                    ]
                ),
                fmt="o",
                markersize=4,
                color=color,
                capsize=2,
                linewidth=1.2,
                label=name,
            )
        axis.invert_yaxis()
        axis.set_yticks(range(len(parts)), [title for title, _ in parts])
        axis.set_xlabel(metric if kind == "models" else f"difference of {metric}")
    if pairs:
        axes[1].axvline(0, color="black", linewidth=0.8)
        axes[1].set_yticklabels([])
        axes[1].set_title(f"{pairs[0].split(' - ')[0]} minus the other, in the other's color")
    axes[0].set_title(f"{metric} by slice, with 95% intervals over users")
    handles, names = axes[0].get_legend_handles_labels()
    finish(figure)
    for axis in axes:
        axis.get_legend().remove()  # it could cover points; one legend below serves both
    figure.legend(
        handles, names, frameon=False, fontsize=8, loc="outside lower center", ncols=len(names)
    )
    return figure
