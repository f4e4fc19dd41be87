"""Learned attention compared with mutual information, by behavior category and position."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tfdare.analysis.batches import UserBatches, search_and_attention
from tfdare.data import read_requests
from tfdare.evaluation import Predictor
from tfdare.files import as_json
from tfdare.schema import FIRST_ID, Schema
from tfdare.sequences import Sequences
from tfdare.sequences.mutual_information import (
    TOP_CATEGORIES,
    InterestCounts,
    InterestTable,
    category_index,
)
from tfdare.sequences.raw_ids import readable


def category_of(schema: Schema) -> str:
    """Returns ``category``, or the last feature of a single value where there is no category."""
    names = [feature.name for feature in schema.features if feature.max_values == 1]
    return "category" if "category" in names else names[-1]


def position_edges(window: int) -> list[int]:
    """Returns the edges of position buckets: 1 to 8 have one each, then three per doubling.

    Old positions are grouped because each alone has few observations.

    Args:
        window: int. The oldest position; the last edge is one more.

    Example:
        >>> position_edges(20)
        [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 21]
    """
    edges = {*range(1, 9)}
    step = 8.0
    while step < window + 1:
        edges.add(int(step))
        step *= 2 ** (1 / 3)
    return sorted({edge for edge in edges if edge <= window} | {window + 1})


def interest_counts(
    sequences: Sequences,
    split: str = "train",
    limit: int | None = 100_000,
    batch_size: int = 683,
    progress: Callable = iter,
) -> InterestCounts:
    """Counts how often a candidate of category t was clicked after category c at position p.

    Args:
        sequences: Sequences.
        split: str. Defaults to the train split, all that a model could have learned from.
        limit: int or None. About how many requests are read; None: all.
        batch_size: int. Requests at once.
        progress: function that wraps an iterable of batches to show progress.
    """
    schema, name = sequences.schema, category_of(sequences.schema)
    rows = next(f.vocabulary_size for f in schema.features if f.name == name)
    counts = InterestCounts(range(FIRST_ID, rows), position_edges(schema.window))
    done = 0
    for requests, label, weight in progress(read_requests(sequences, split, batch_size)):
        parts = (
            requests[f"history_{name}"],
            requests["history_length"],
            requests[f"target_{name}"],
            label,
            weight,
        )
        counts.add(*(part.numpy() for part in parts))
        done += batch_size
        if limit is not None and done >= limit:
            break
    return counts


def keep_positive_lift(table: InterestTable) -> InterestTable:
    """Sets the information of behaviors that do not raise the click rate (lift <= 1) to zero.

    Mutual information has no sign: a behavior that makes the click unlikely is informative, too.
    """
    information = np.where(table.cell_lift > 1, table.cell_information, 0.0)
    return dataclasses.replace(table, cell_information=information)


def attention_accuracy(
    models: Mapping[str, Any],
    sequences: Sequences,
    table: InterestTable,
    target_categories: int = 2,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 256,
    progress: Callable = iter,
) -> dict[str, Any]:
    """Compares learned attention with mutual information for some target categories.

    Learned attention is the mean weight, in the softmax over the whole history, that behaviors of
    a category at a position get from candidates of the target category.

    Args:
        models: mapping of name to RequestModel.
        sequences: Sequences.
        table: InterestTable. Of all categories; see :func:`interest_counts`.
        target_categories: int. How many, the most frequent ones among the candidates.
        split: str.
        limit: int or None. About how many requests are read; None: all.
        batch_size: int. Requests at once.
        progress: function that wraps an iterable of batches to show progress.

    Returns:
        ``positions`` (titles of the buckets), ``targets``: for each target category its raw
        ``id``, ``categories`` (raw ids of the ten most informative behavior categories),
        ``information``, ``lift`` and ``support`` ``[10, B]``, and by model ``weight`` ``[10, B]``
        (None where there was no such behavior), ``behaviors`` and ``rank_correlation`` of weight
        and information over the cells.
    """
    name, edges = category_of(sequences.schema), table.edges
    rows = _frequent_targets(sequences, split, name, limit, batch_size)[:target_categories]
    raw = readable(sequences.vocabulary(name))
    raw = np.concatenate([np.zeros(FIRST_ID, raw.dtype), raw])
    behaviors = {row: _most_informative(table, row) for row in rows}
    sums = {
        (model, row): np.zeros((2, behaviors[row].size, edges.size - 1))
        for model in models
        for row in rows
    }
    predictors = {
        model: Predictor(network, search_and_attention) for model, network in models.items()
    }
    for requests, _, weight, _ in progress(UserBatches(sequences, split, batch_size, limit)):
        target = requests[f"target_{name}"].numpy()
        wanted = np.isin(target, rows) & (weight.numpy() > 0)
        if not wanted.any():
            continue
        history = requests[f"history_{name}"].numpy()
        position = requests["history_length"].numpy()[:, None] - np.arange(history.shape[1])
        bucket = np.searchsorted(edges, position, side="right") - 1
        for model, predictor in predictors.items():
            attention = predictor(requests)[1]
            for row in rows:
                user, candidate = np.nonzero(wanted & (target == row))
                behavior = category_index(behaviors[row], history)[user]
                inside = (behavior >= 0) & (position[user] > 0)
                cell = behavior[inside], bucket[user][inside]
                np.add.at(sums[model, row][0], cell, attention[user, candidate][inside])
                np.add.at(sums[model, row][1], cell, 1)
    return as_json(
        {
            "split": split,
            "positions": _titles(edges.tolist()),
            "targets": [
                {
                    "id": raw[row],
                    "row": row,
                    "categories": raw[behaviors[row]],
                    **{
                        quantity: _cell_values(table, quantity, row, behaviors[row])
                        for quantity in ("information", "lift", "support")
                    },
                    "models": {
                        model: _learned_attention(
                            sums[model, row],
                            _cell_values(table, "information", row, behaviors[row]),
                        )
                        for model in models
                    },
                }
                for row in rows
            ],
        }
    )


def _frequent_targets(sequences, split, name, limit, batch_size) -> list[int]:
    rows = next(f.vocabulary_size for f in sequences.schema.features if f.name == name)
    count = np.zeros(rows, np.int64)
    for requests, _, weight, _ in UserBatches(sequences, split, batch_size, limit):
        count += np.bincount(requests[f"target_{name}"].numpy()[weight.numpy() > 0], minlength=rows)
    count[:FIRST_ID] = 0
    return [int(row) for row in np.argsort(-count, kind="stable") if count[row]]


def _most_informative(table: InterestTable, target: int) -> np.ndarray:
    """Returns row ids of the behavior categories most informative about a target category.

    Ranked by the sum over positions of information times observations.
    """
    size, buckets = table.categories.size, table.edges.size - 1
    of_target = table.cells // (size * buckets) == category_index(
        table.categories, np.array(target)
    )
    category = table.cells[of_target] // buckets % size
    total = np.bincount(
        category,
        table.cell_information[of_target] * table.cell_support[of_target],
        minlength=size,
    )
    return table.categories[np.argsort(-total, kind="stable")[:TOP_CATEGORIES]]


def _cell_values(
    table: InterestTable, quantity: str, target: int, behaviors: np.ndarray
) -> np.ndarray:
    """Returns ``information``, ``lift`` or ``support`` of a target category, ``[behaviors, B]``."""
    size, buckets = table.categories.size, table.edges.size - 1
    row = int(category_index(table.categories, np.array(target)))
    column = category_index(table.categories, behaviors)
    cell = (row * size + column[:, None]) * buckets + np.arange(buckets)
    index = np.minimum(np.searchsorted(table.cells, cell), table.cells.size - 1)
    default = 1.0 if quantity == "lift" else 0
    return np.where(table.cells[index] == cell, getattr(table, f"cell_{quantity}")[index], default)


def _learned_attention(sums: np.ndarray, information: np.ndarray) -> dict[str, Any]:
    weight = np.divide(sums[0], sums[1], out=np.full(sums[0].shape, np.nan), where=sums[1] > 0)
    known = np.isfinite(weight)
    both = np.ptp(weight[known]) > 0 and np.ptp(information[known]) > 0 if known.any() else False
    return {
        "weight": weight,
        "behaviors": sums[1].astype(np.int64),
        "rank_correlation": spearmanr(weight[known], information[known])[0] if both else None,
    }


def _titles(edges: Sequence[int]) -> list[str]:
    return [
        str(low) if high == low + 1 else f"{low}–{high - 1}"
        for low, high in itertools.pairwise(edges)
    ]


def plot_attention(numbers: Mapping[str, Any]):
    """Draws heat maps, one row per target category: mutual information, then each model.

    Args:
        numbers: mapping. What :func:`attention_accuracy` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import finish, new_figure

    targets, positions = numbers["targets"], numbers["positions"]
    models = list(targets[0]["models"]) if targets else []
    columns = 1 + len(models)
    figure, axes = new_figure(
        max(len(targets), 1), columns, height=3.1, width=max(11.0, 2.9 * columns)
    )
    for target, (truth, *learned) in zip(targets, axes):
        _heat_map(truth, target["information"], target["categories"], positions)
        truth.set(
            title=f"Target category {target['id']}:\nmutual information, nats",
            ylabel="behavior category",
        )
        for model, axis in zip(models, learned):
            weight, r = (target["models"][model][key] for key in ("weight", "rank_correlation"))
            _heat_map(axis, weight, target["categories"], positions)
            correlation = "" if r is None else f"\nrank correlation with information: {r:.2f}"
            axis.set_title(f"{model}: attention{correlation}")
    return finish(figure)


def _heat_map(axes, values, categories, positions) -> None:
    from tfdare.analysis.style import GRID

    values = np.array(values, float)
    known = values[np.isfinite(values)]
    axes.grid(False)
    axes.set_facecolor(GRID)  # color of cells without a value
    image = axes.imshow(
        values,
        aspect="auto",
        cmap="YlOrRd",
        vmin=0,
        vmax=np.quantile(known, 0.99) if known.size else None,
    )
    axes.figure.colorbar(image, ax=axes, pad=0.02)
    every = max(1, len(positions) // 3)
    axes.set_xticks(range(0, len(positions), every), positions[::every])
    axes.set_yticks(range(len(categories)), categories)
    axes.set_xlabel("position, 1 is the newest")
