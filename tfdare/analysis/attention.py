"""Is attention where the information is? Mutual information beside what was learned."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tfdare.analysis.batches import UserBatches, kept_and_attention
from tfdare.data import read_requests
from tfdare.evaluation import Predictor
from tfdare.files import as_json
from tfdare.schema import Schema
from tfdare.sequences import Sequences
from tfdare.sequences.mutual_information import (
    TOP_CATEGORIES,
    InterestCounts,
    InterestTable,
    place_of,
)


def category_of(schema: Schema) -> str:
    """The feature that tells kinds of items apart: ``category``, else the last of one value."""
    names = [feature.name for feature in schema.features if feature.max_values == 1]
    return "category" if "category" in names else names[-1]


def position_edges(window: int) -> list[int]:
    """Where buckets of positions start: 1 to 8 each of its own, then three an octave.

    Few targets fall on one far position; behaviors that are far back are counted together.
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
    """Counts of (behavior is of category c at position p, candidate of category t was clicked).

    Args:
        sequences: Sequences.
        split: str. Defaults to the train split: the truth that the model could know.
        limit: int or None. Requests, about.
        batch_size: int. Requests at once.
        progress: function that passes batches on, to show progress.
    """
    schema, name = sequences.schema, category_of(sequences.schema)
    rows = next(f.vocabulary_size for f in schema.features if f.name == name)
    counts = InterestCounts(range(2, rows), position_edges(schema.window))
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


def speaking_for(table: InterestTable) -> InterestTable:
    """The table without what speaks against the click: information counts where lift is above 1.

    Mutual information has no sign: a behavior that makes the click unlikely informs, too.
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
    """Truth and learned attention over (behavior category, position), for some target categories.

    Learned attention of a cell is the mean weight, in the softmax over the whole history, that
    behaviors of this category at this position get from candidates of the target category.

    Args:
        models: mapping of name to RequestModel.
        sequences: Sequences.
        table: InterestTable. Of all categories; see :func:`interest_counts`.
        target_categories: int. The most frequent ones among the candidates.
        split: str.
        limit: int or None. Requests, about.
        batch_size: int. Requests at once.
        progress: function that passes batches on, to show progress.

    Returns:
        ``positions`` (titles of the buckets), ``targets``: for each target category its raw
        ``id``, ``categories`` (raw ids of the ten behavior categories that inform most),
        ``information``, ``lift`` and ``support`` ``[10, B]``, and by model ``weight`` ``[10, B]``
        (None where no such behavior came), ``behaviors`` and ``rank_correlation`` of weight and
        information over the cells.
    """
    name, edges = category_of(sequences.schema), table.edges
    rows = _frequent_targets(sequences, split, name, limit, batch_size)[:target_categories]
    raw = np.concatenate([[0, 0], sequences.vocabulary(name)])
    behaviors = {row: _informative(table, row) for row in rows}
    cells = {row: (found.size, edges.size - 1) for row, found in behaviors.items()}
    sums = {(model, row): np.zeros((2, *cells[row])) for model in models for row in rows}
    askers = {model: Predictor(network, kept_and_attention) for model, network in models.items()}
    for requests, _, weight, _ in progress(UserBatches(sequences, split, batch_size, limit)):
        target = requests[f"target_{name}"].numpy()
        wanted = np.isin(target, rows) & (weight.numpy() > 0)
        if not wanted.any():
            continue
        history = requests[f"history_{name}"].numpy()
        position = requests["history_length"].numpy()[:, None] - np.arange(history.shape[1])
        bucket = np.searchsorted(edges, position, side="right") - 1
        for model, ask in askers.items():
            attention = ask(requests)[1]
            for row in rows:
                user, candidate = np.nonzero(wanted & (target == row))
                place = place_of(behaviors[row], history)[user]
                inside = (place >= 0) & (position[user] > 0)
                at = place[inside], bucket[user][inside]
                np.add.at(sums[model, row][0], at, attention[user, candidate][inside])
                np.add.at(sums[model, row][1], at, 1)
    return as_json(
        {
            "split": split,
            "positions": _titles(edges),
            "targets": [
                {
                    "id": raw[row],
                    "row": row,
                    "categories": raw[behaviors[row]],
                    **{
                        what: _cells(table, what, row, behaviors[row])
                        for what in ("information", "lift", "support")
                    },
                    "models": {
                        model: _learned(
                            sums[model, row], _cells(table, "information", row, behaviors[row])
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
    count[:2] = 0
    return [int(row) for row in np.argsort(-count, kind="stable") if count[row]]


def _informative(table: InterestTable, target: int) -> np.ndarray:
    """Row ids of the behavior categories that inform most about a target category.

    Ranked by the sum over positions of information times observations.
    """
    size, buckets = table.categories.size, table.edges.size - 1
    mine = table.cells // (size * buckets) == place_of(table.categories, np.array(target))
    category = table.cells[mine] // buckets % size
    total = np.bincount(
        category, table.cell_information[mine] * table.cell_support[mine], minlength=size
    )
    return table.categories[np.argsort(-total, kind="stable")[:TOP_CATEGORIES]]


def _cells(table: InterestTable, what: str, target: int, behaviors: np.ndarray) -> np.ndarray:
    """Values of one target category, ``[behaviors, B]``."""
    size, buckets = table.categories.size, table.edges.size - 1
    row = int(place_of(table.categories, np.array(target)))
    column = place_of(table.categories, behaviors)
    cell = (row * size + column[:, None]) * buckets + np.arange(buckets)
    place = np.minimum(np.searchsorted(table.cells, cell), table.cells.size - 1)
    nothing = 1.0 if what == "lift" else 0
    return np.where(table.cells[place] == cell, getattr(table, f"cell_{what}")[place], nothing)


def _learned(sums: np.ndarray, information: np.ndarray) -> dict[str, Any]:
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
    """Draws heat maps: a row for each target category; truth, then every model.

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
    for target, of_target in zip(targets, axes):
        truth, *learned = of_target
        _heat_map(truth, target["information"], target["categories"], positions)
        truth.set(
            title=f"Category {target['id']}: information, nats", ylabel="category of the behavior"
        )
        for model, one in zip(models, learned):
            found = target["models"][model]
            _heat_map(one, found["weight"], target["categories"], positions)
            r = found["rank_correlation"]
            one.set_title(f"{model}: attention{'' if r is None else f' (rank corr. {r:.2f})'}")
    return finish(figure)


def _heat_map(axes, values, categories, positions) -> None:
    values = np.array(values, float)
    known = values[np.isfinite(values)]
    axes.grid(False)
    axes.set_facecolor("#e6e9ec")  # shows where nothing is known
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
