"""Mutual information between behaviors and clicks by category: the paper's ground truth.

For a target category t, a behavior category c and a position p (1 is the newest behavior), over
the candidates of category t whose history reaches p: X is whether the behavior at p is of category
c, Y is whether the candidate was clicked, and I(X; Y) says how much one tells about the other
(DARE, ICLR 2025). Counts of parts of the data can be added, so that Beam workers and a single
process give the same numbers. This module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.schema import FIRST_ID

TOP_CATEGORIES = 10
_PENDING = 1 << 21  # observations that gather before they are counted


class InterestCounts:
    """2x2 counts of (behavior is of category c, candidate was clicked) by target category,
    behavior category and position.

    Only cells that occur take memory, so `categories` may be a large vocabulary. A behavior of
    another category counts as "not of category c"; a candidate of another category does not count.

    Args:
        categories: sequence of int. Row ids of the categories to count, of targets and behaviors.
        positions: int or sequence of int. P: positions 1 to P, a bucket each. Or the edges of the
            buckets, ascending from 1: ``[1, 2, 3, 5, 9]`` has buckets 1, 2, 3 to 4, 5 to 8. Every
            position of a bucket that a history reaches is an observation of its own.

    Attributes:
        categories: int64 ``[M]``.
        edges: int64 ``[B + 1]``. Bucket b holds the positions ``edges[b] .. edges[b + 1] - 1``.
        total: int64 ``[M, B, 2]``. Observations by target category, position and label.

    Raises:
        ValueError: a category repeats, or positions do not rise from 1.

    Example:
        >>> counts = InterestCounts(categories=[2, 3], positions=2)
        >>> counts.add(np.array([[3, 2], [3, 0]]), np.array([2, 1]),
        ...            np.array([[2, 3], [2, 2]]), np.array([[1, 0], [0, 1]]))
        >>> counts.total[0]  # candidates of category 2, at positions 1 and 2: not clicked, clicked
        array([[1, 2],
               [0, 1]])
        >>> counts.seen()[0, 1]  # those whose behavior there is of category 3
        array([[1, 1],
               [0, 1]])
    """

    def __init__(self, categories: Sequence[int], positions: int | Sequence[int]):
        self.categories = np.asarray(categories, np.int64)
        if not self.categories.size or np.unique(self.categories).size != self.categories.size:
            raise ValueError(f"`categories` must be different row ids. Received: {categories!r}")
        edges: np.ndarray = np.asarray(positions, np.int64)
        self.edges = np.arange(1, int(edges) + 2) if edges.ndim == 0 else edges
        if self.edges.size < 2 or self.edges[0] != 1 or (np.diff(self.edges) <= 0).any():
            raise ValueError(
                "`positions` must be 1 or more, or edges that rise from 1. "
                f"Received: positions={positions!r}"
            )
        self.total: np.ndarray = np.zeros((self.categories.size, self.edges.size - 1, 2), np.int64)
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._pending_size = 0

    @property
    def positions(self) -> int:
        """P, the oldest position that is counted."""
        return int(self.edges[-1]) - 1

    def add(
        self,
        history: np.ndarray,
        history_length: np.ndarray,
        target: np.ndarray,
        label: np.ndarray,
        weight: np.ndarray | None = None,
    ) -> None:
        """Counts requests, laid out as :func:`tfdare.data.read_requests` gives them.

        Args:
            history: int ``[U, N]``. Category rows, oldest first, padded at the end.
            history_length: int ``[U]``.
            target: int ``[U, C]``. Category rows of the candidates.
            label: ``[U, C]``. Above 0: clicked.
            weight: ``[U, C]`` or None. Candidates with a weight of 0 do not count, all others
                once. Defaults to all.
        """
        history, length = np.asarray(history), np.asarray(history_length, np.int64)
        index = length[:, None] - np.arange(1, self.positions + 1)
        newest = np.take_along_axis(history, np.clip(index, 0, history.shape[1] - 1), axis=1)
        self.add_newest_first(newest, length, target, label, weight)

    def add_newest_first(
        self,
        newest: np.ndarray,
        history_length: np.ndarray,
        target: np.ndarray,
        label: np.ndarray,
        weight: np.ndarray | None = None,
    ) -> None:
        """Counts requests whose histories start with the newest behavior, ``[U, P]``."""
        behavior = category_index(self.categories, newest)
        length = np.asarray(history_length, np.int64)
        category = category_index(self.categories, target)
        counted = category >= 0
        if weight is not None:
            counted &= np.asarray(weight) > 0
        user, candidate = np.nonzero(counted)
        if not user.size:
            return
        group = category[user, candidate] * 2 + (np.asarray(label)[user, candidate] > 0)
        bucket = np.repeat(np.arange(self.edges.size - 1), np.diff(self.edges))[: newest.shape[1]]
        reached = np.minimum(length, bucket.size)[user]
        # How many histories of each group reach each position.
        reach = np.bincount(
            group * (bucket.size + 1) + reached,
            minlength=2 * len(self.categories) * (bucket.size + 1),
        ).reshape(-1, bucket.size + 1)
        reach = np.cumsum(reach[:, ::-1], axis=1)[:, ::-1][:, 1:]
        sums = np.zeros((self.edges.size - 1, reach.shape[0]), np.int64)
        np.add.at(sums, bucket, reach.T)
        self.total += sums.T.reshape(len(self.categories), 2, -1).transpose(0, 2, 1)
        behavior = np.where(np.arange(bucket.size) < length[:, None], behavior, -1)
        behavior_cell = behavior * (self.edges.size - 1) + bucket  # [U, P], below 0: none
        cells = len(self.categories) * (self.edges.size - 1)
        for start in range(0, user.size, 4096):
            some = slice(start, start + 4096)
            row = user[some]
            key = (group[some] // 2 * cells)[:, None] + behavior_cell[row]
            key = key * 2 + (group[some] % 2)[:, None]
            self._add_pending(key[behavior[row] >= 0])

    def merge(self, other: InterestCounts) -> InterestCounts:
        """Adds the counts of `other` to this object, and returns it.

        Raises:
            ValueError: `other` has other categories or positions.
        """
        for name in ("categories", "edges"):
            mine, others = getattr(self, name), getattr(other, name)
            if not np.array_equal(mine, others):
                raise ValueError(f"Counts of other {name} do not add up: {mine} and {others}")
        self._count_pending()
        other._count_pending()
        self.total = self.total + other.total
        self._add_counts(other._keys, other._counts)
        return self

    def seen(self) -> np.ndarray:
        """Returns the observations by target category, behavior category, position and label.

        Returns:
            int64 ``[M, M, B, 2]``.
        """
        self._count_pending()
        cells, counts = self._cells()
        return _dense(cells, counts, self.categories, self.edges)

    def table(self, smoothing: float = 0.0, min_count: int = 1) -> InterestTable:
        """Computes mutual information and lift from the counts.

        Args:
            smoothing: float. Added to each of the four counts. Defaults to 0.
            min_count: int. Least number of observations with the behavior; with fewer, the
                information is 0 and the lift 1. Defaults to 1.
        """
        self._count_pending()
        cells, counts = self._cells()
        total = self.total.reshape(-1, 2)[self._total_index(cells)]
        support = counts.sum(axis=-1)
        enough = support >= max(min_count, 1)
        counts = np.stack([total - counts, counts], axis=-2) + smoothing  # [.., behavior, label]
        information = np.where(enough, mutual_information(counts), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            clicked = counts[:, 1, 1] / counts[:, 1].sum(axis=-1)
            base = counts[..., 1].sum(axis=-1) / counts.sum(axis=(-2, -1))
            lift = np.where(enough & (base > 0), clicked / base, 1.0)
        return InterestTable(self.categories, self.edges, cells, information, lift, support)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, ready for JSON."""
        self._count_pending()
        return {
            "categories": self.categories.tolist(),
            "edges": self.edges.tolist(),
            "total": self.total.tolist(),
            "cells": self._keys.tolist(),
            "counts": self._counts.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InterestCounts:
        """Builds counts from what :meth:`to_dict` returned."""
        counts = cls(data["categories"], data["edges"])
        counts.total = np.array(data["total"], np.int64).reshape(counts.total.shape)
        counts._keys = np.array(data["cells"], np.int64)
        counts._counts = np.array(data["counts"], np.int64)
        return counts

    def __getstate__(self):
        self._count_pending()
        return self.__dict__

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cells that occur, sorted, and their counts by label, int64 ``[cells, 2]``."""
        cells = np.unique(self._keys >> 1)
        counts = np.zeros((cells.size, 2), np.int64)
        counts[np.searchsorted(cells, self._keys >> 1), self._keys & 1] = self._counts
        return cells, counts

    def _total_index(self, cells: np.ndarray) -> np.ndarray:
        """Returns the index of each cell's target category and position in the flat total."""
        buckets = self.edges.size - 1
        return cells // (self.categories.size * buckets) * buckets + cells % buckets

    def _add_pending(self, keys: np.ndarray) -> None:
        self._pending.append(keys)
        self._pending_size += keys.size
        if self._pending_size >= _PENDING:
            self._count_pending()

    def _count_pending(self) -> None:
        if self._pending:
            keys = np.sort(np.concatenate(self._pending))
            self._pending, self._pending_size = [], 0
            first = np.flatnonzero(np.diff(keys, prepend=-1))
            self._add_counts(keys[first], np.diff(first, append=keys.size))

    def _add_counts(self, keys: np.ndarray, counts: np.ndarray) -> None:
        every = np.union1d(self._keys, keys)
        added = np.zeros(every.size, np.int64)
        added[np.searchsorted(every, self._keys)] = self._counts
        added[np.searchsorted(every, keys)] += counts
        self._keys, self._counts = every, added


@dataclass(frozen=True)
class InterestTable:
    """Mutual information and lift of every (target category, behavior category, position).

    Attributes:
        categories: int64 ``[M]``. Row ids.
        edges: int64 ``[B + 1]``. Bucket b holds the positions ``edges[b] .. edges[b + 1] - 1``.
        cells: int64 ``[cells]``, ascending. The cells that occur: ``(t * M + c) * B + b``, t the
            index of the target's category, c that of the behavior's, b the bucket.
        cell_information, cell_lift, cell_support: ``[cells]``. Their values.
    """

    categories: np.ndarray
    edges: np.ndarray
    cells: np.ndarray
    cell_information: np.ndarray
    cell_lift: np.ndarray
    cell_support: np.ndarray

    @property
    def information(self) -> np.ndarray:
        """float64 ``[M, M, B]``. I(X; Y) in nats, by target category, behavior category and
        position; 0 where the behavior never occurs."""
        return _dense(self.cells, self.cell_information, self.categories, self.edges)

    @property
    def lift(self) -> np.ndarray:
        """float64 ``[M, M, B]``. P(click | behavior) / P(click): above 1 the behavior makes a
        click more likely, below 1 less likely; 1 where it never occurs."""
        return 1.0 + _dense(self.cells, self.cell_lift - 1.0, self.categories, self.edges)

    @property
    def support(self) -> np.ndarray:
        """int64 ``[M, M, B]``. Observations with the behavior."""
        return _dense(self.cells, self.cell_support, self.categories, self.edges)

    @property
    def signed(self) -> np.ndarray:
        """float64 ``[M, M, B]``. Information, negative where the lift is below 1."""
        return np.where(self.lift < 1, -self.information, self.information)

    def relevance(
        self, history: np.ndarray, history_length: np.ndarray, target: np.ndarray
    ) -> np.ndarray:
        """Returns the information of every behavior about every candidate of requests.

        Args:
            history: int ``[U, N]``. Category rows, oldest first, padded at the end.
            history_length: int ``[U]``.
            target: int ``[U, C]``.

        Returns:
            float64 ``[U, C, N]``, 0 for categories and positions that the table lacks.
        """
        history = np.asarray(history)
        position = np.asarray(history_length, np.int64)[:, None] - np.arange(history.shape[1])
        bucket = np.searchsorted(self.edges, position, side="right") - 1
        behavior = category_index(self.categories, history)
        known = (behavior >= 0) & (bucket >= 0) & (bucket < self.edges.size - 1)
        category = category_index(self.categories, target)[:, :, None]
        covered = (known[:, None, :] & (category >= 0)) & (self.cells.size > 0)
        user, candidate, step = np.nonzero(covered)
        cell = category[user, candidate, 0] * self.categories.size + behavior[user, step]
        cell = cell * (self.edges.size - 1) + bucket[user, step]
        index = np.minimum(np.searchsorted(self.cells, cell), max(self.cells.size - 1, 0))
        information = np.zeros(covered.shape)
        information[covered] = np.where(
            self.cells[index] == cell, self.cell_information[index], 0.0
        )
        return information


def mutual_information(counts: np.ndarray) -> np.ndarray:
    """Computes I(X; Y) in nats from 2x2 counts ``[..., 2, 2]``; 0 where all counts are 0.

    Example:
        >>> float(mutual_information(np.array([[5, 0], [0, 5]])).round(4))  # log 2
        0.6931
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum(axis=(-2, -1), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = counts / total
        independent = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
        parts = np.where(joint > 0, joint * np.log(joint / independent), 0.0)
    return np.maximum(parts.sum(axis=(-2, -1)), 0.0)


def top_categories(frequency: Iterable[int], most: int = TOP_CATEGORIES) -> np.ndarray:
    """Returns the row ids of the most frequent categories, most frequent first; ties by row.

    Args:
        frequency: iterable of int. How often each id of the vocabulary occurs; element i is row
            i + 2, as in its file.
        most: int. How many to return. Defaults to 10.
    """
    frequency = np.asarray(list(frequency), np.int64)
    return np.lexsort((np.arange(frequency.size), -frequency))[:most] + FIRST_ID


def category_index(categories: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the index in `categories` of every row id, -1 where it is not in it; int64."""
    order = np.argsort(categories, kind="stable")
    rows = np.asarray(rows)
    index = order[np.minimum(np.searchsorted(categories[order], rows), categories.size - 1)]
    return np.where(categories[index] == rows, index, -1)


def _dense(cells, values, categories, edges) -> np.ndarray:
    """Spreads the values of cells over ``[M, M, B, ...]``, 0 elsewhere."""
    shape = (categories.size, categories.size, edges.size - 1)
    dense = np.zeros((np.prod(shape), *values.shape[1:]), values.dtype)
    dense[cells] = values
    return dense.reshape(*shape, *values.shape[1:])
