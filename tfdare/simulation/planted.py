"""The planted relations of a simulated log, the causes of its page views, and graded relevance.

Search quality is measured against these: :func:`relevance` grades every behavior of a history for
every candidate by the planted interests (:mod:`tfdare.simulation.simulator`), and :func:`causes`
yields the cause of each page view of the log. This module does not import TensorFlow.

Example:
    >>> from tfdare.simulation import SimulatorOptions, truth
    >>> planted = relations(truth(SimulatorOptions(users=10)))  # or of OUTPUT.truth.json
    >>> source, partner, lag = (column[0] for column in planted[:3])
    >>> history = {"item": [[5, 6]], "category": [[source, source]]}  # oldest first
    >>> relevance(planted, {"item": [[7]], "category": [[partner]]}, history, [2]).shape
    (1, 1, 2)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfdare.schema import FIRST_ID
from tfdare.simulation.events import Causes, cohort_causes
from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.world import World

SAME_CATEGORY, SAME_ITEM, PULLS = 1, 2, 3
"""Grades of :func:`relevance`."""


class Relations(NamedTuple):
    """The planted relation: an event in ``category`` pulls one in ``partner``, ``lag`` later.

    Attributes:
        category: int64 ``[R]``, ascending.
        partner: int64 ``[R]``.
        lag: int64 ``[R]``. In page views.
        first_id: int. Smallest id of an item or category; smaller ones are padding and unknown.
    """

    category: np.ndarray
    partner: np.ndarray
    lag: np.ndarray
    first_id: int


def relations(truth: Mapping[str, Any], vocabulary: Sequence | None = None) -> Relations:
    """Returns the relations of a log, in its raw ids or in rows of a vocabulary.

    Args:
        truth: mapping. What :func:`tfdare.simulation.truth` returns and ``OUTPUT.truth.json``
            holds.
        vocabulary: sequence or None. Raw category ids in the order of their rows, the first in row
            2 (``sequences.vocabulary("category")``); relations of other categories are left out.
            None keeps raw ids.
    """
    raw, partner, lag = (
        np.array(column, np.int64)
        for column in zip(
            *((int(c), t["partner"], t["lag"]) for c, t in truth["categories"].items())
        )
    )
    if vocabulary is not None:
        row_of = {int(known): row for row, known in enumerate(vocabulary, FIRST_ID)}
        raw, partner = (
            np.array([row_of.get(c, -1) for c in ids.tolist()], np.int64) for ids in (raw, partner)
        )
        known = (raw >= 0) & (partner >= 0)
        raw, partner, lag = raw[known], partner[known], lag[known]
    order = np.argsort(raw)
    first_id = 1 if vocabulary is None else FIRST_ID
    return Relations(raw[order], partner[order], lag[order], first_id)


def second_kind(truth: Mapping[str, Any], vocabulary: Sequence) -> np.ndarray:
    """Returns which rows hold an item of the second kind, by the truth of a log with `conflict`.

    Args:
        truth: mapping. As for :func:`relations`.
        vocabulary: sequence. Raw item ids in the order of their rows, the first in row 2.

    Returns:
        bool ``[rows]``.
    """
    rows = np.concatenate([np.zeros(FIRST_ID, np.int64), np.asarray(vocabulary, np.int64)])
    return np.isin(rows, truth["second_kind"])


def relevance(
    planted: Relations,
    target: Mapping[str, Any],
    history: Mapping[str, Any],
    history_length: Any,
) -> np.ndarray:
    """Grades how relevant each behavior is to each candidate, by the planted interests.

    ====================  =================================================================
    3 (``PULLS``)         its category's partner is the target's category, and it lies exactly
                          its category's lag before the target
    2 (``SAME_ITEM``)     it is the target's item, which favorites and returns bring back
    1 (``SAME_CATEGORY``) it is of the target's category
    0                     none of these
    ====================  =================================================================

    The lag counts behaviors, the newest at distance 1. So the history must end right before the
    target; its oldest behaviors may be missing.

    Args:
        planted: Relations. In the ids of `target` and `history`.
        target: mapping with ``item`` and ``category``, int ``[U, C]`` each.
        history: mapping with ``item`` and ``category``, int ``[U, N]`` each, oldest first, padded
            at the end.
        history_length: int ``[U]``. Behaviors that are real.

    Returns:
        int8 ``[U, C, N]``, aligned with the history: the indices that search returns index its
        last axis.

    Raises:
        ValueError: the shapes do not fit together.
    """
    (target_item, target_category), (item, category) = (
        (np.asarray(side["item"]), np.asarray(side["category"])) for side in (target, history)
    )
    length = np.asarray(history_length)
    users = length.shape
    if not (
        target_item.shape == target_category.shape
        and item.shape == category.shape
        and target_item.ndim == item.ndim == 2
        and users == item.shape[:1] == target_item.shape[:1]
    ):
        raise ValueError(
            "`target` must be [U, C], `history` [U, N] and `history_length` [U]. Received shapes: "
            f"target item {target_item.shape}, category {target_category.shape}; history item "
            f"{item.shape}, category {category.shape}; history_length {users}"
        )
    distance = length[:, None] - np.arange(item.shape[1])  # 1 is the newest
    real = distance > 0
    if planted.category.size:
        index = np.minimum(np.searchsorted(planted.category, category), planted.category.size - 1)
        at_lag = real & (planted.category[index] == category) & (planted.lag[index] == distance)
        pulled = np.where(at_lag, planted.partner[index], -1)
    else:
        pulled = np.full(category.shape, -1)

    def equal(behind, candidate):
        known = candidate >= planted.first_id
        return (behind[:, None, :] == candidate[:, :, None]) & known[:, :, None] & real[:, None, :]

    grades = np.zeros((*target_item.shape, item.shape[1]), np.int8)
    grades[equal(category, target_category)] = SAME_CATEGORY
    grades[equal(item, target_item)] = SAME_ITEM
    grades[equal(pulled, target_category)] = PULLS
    return grades


def causes(options: SimulatorOptions) -> Iterator[Causes]:
    """Yields the cause of every page view, in the order of the log, one cohort at a time."""
    world = World(options)
    for number in range(options.cohorts):
        yield cohort_causes(world, number)


def world_truth(world: World) -> dict[str, Any]:
    """Returns options, and each category's partner, lag and number of items, ready for JSON."""
    ids = world.category_ids.tolist()
    category = np.repeat(np.arange(len(ids)), np.diff(world.starts))
    second = np.flatnonzero(world.kinds(np.arange(category.size), category))
    return {
        "options": dataclasses.asdict(world.options),
        **({"second_kind": world.item_ids[second].tolist()} if world.options.conflict else {}),
        "categories": {
            str(ids[index]): {"partner": ids[partner], "lag": lag, "items": items}
            for index, (partner, lag, items) in enumerate(
                zip(world.partner.tolist(), world.lag.tolist(), np.diff(world.starts).tolist())
            )
        },
    }


def user_truth(world: World, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each user of a cohort with their lifelong categories and favorite items in these."""
    slots = np.arange(world.options.favorites)
    users, lifelong = world.cohort(number)
    items = world.favorites(users[:, None, None], lifelong[:, :, None], slots)
    items = world.item_ids[items].tolist()
    categories = world.category_ids[lifelong].tolist()
    for row, user in enumerate(world.user_ids(users).tolist()):
        favorites = {
            str(category): sorted(set(favorite_items))
            for category, favorite_items in zip(categories[row], items[row])
        }
        unique = sorted(set(categories[row]))
        yield str(user), {"lifelong_categories": unique, "favorite_items": favorites}
