"""CountPairs: behaviors -> the weights of all cells, summed over some users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from beam_jobs.cooccurrence.behaviors import Behaviors
from beam_jobs.cooccurrence.cells import Layout, choose_contexts
from beam_jobs.cooccurrence.facts import RowFacts, add_facts
from beam_jobs.cooccurrence.options import VectorOptions
from beam_jobs.cooccurrence.pairs import events_to_pair, find_baskets, limit_pairs, list_pairs

FEWEST_EVENTS = 5
"""Training events that an item needs for a vector of its own, where its category is known.

The vector of a rarer one says who bought it, which in training is the answer: on a third of the
groceries' users the test AUC is .754 with own vectors for all, .788 from 5 events on and .792 from
10 on; on check-ins .9615, .9623 and .9602.
"""
_MOST_BLOCKS = 64
_CELLS = 1 << 24  # cells of a bucket at which equal ones are first summed
_EVENTS = 1 << 16  # events whose pairs are listed and packed at once: they fit into the cache


class PairCounter:
    """Counts the pairs of some users' behaviors, feature by feature.

    Args:
        options: VectorOptions.
        buckets: int. Buckets of users.
        item: str. The feature whose rows have a category.
    """

    def __init__(self, options: VectorOptions, buckets: int, item: str):
        self.options, self.item = options, item
        self.blocks = min(buckets, _MOST_BLOCKS)
        self._facts: RowFacts | None = None

    def count(
        self, behaviors: Behaviors, facts: RowFacts
    ) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        """Yields the packed cells of every feature and block that has some."""
        options = self.options
        if self._facts is not facts:  # once per worker
            self._facts = facts
            self._cells = {
                name: _Cells(facts, name, self.blocks, self.item) for name in options.counted
            }
        sums = {name: _Sum(self._cells[name]) for name in options.counted}
        for part in behaviors.split(_EVENTS):
            baskets = find_baskets(part, options.coarse_clock, options.gap)
            for name, total in sums.items():
                keep = events_to_pair(part.rows[name], baskets)
                limits = limit_pairs(facts.events, len(facts.counts[name]))
                total.add(part.rows[name][keep], list_pairs(baskets, keep, limits))
        for name, total in sums.items():
            for block, cells in enumerate(total.layout.split(total.result())):
                if len(cells) or not block:  # so that every feature has a block
                    yield (name, block), cells


class CountPairs(beam.PTransform):
    """(Behaviors, RowFacts) -> (packed cells by feature and block, RowFacts).

    Facts may come in parts, which are added up.

    Args:
        counter: PairCounter.
    """

    def __init__(self, counter: PairCounter):
        super().__init__()
        self._counter = counter

    def expand(self, sources):
        behaviors, facts = sources
        facts = facts | "AddFacts" >> beam.CombineGlobally(add_facts)
        cells = behaviors | "Count" >> beam.FlatMap(
            self._counter.count, beam.pvalue.AsSingleton(facts)
        ).with_output_types(tuple[tuple[str, int], Any])
        return cells, facts


class _Cells:
    """The layout of a feature's matrix, its columns by row id, and which rows have a line."""

    def __init__(self, facts: RowFacts, name: str, blocks: int, item: str):
        counts = facts.counts[name]
        contexts = choose_contexts(counts)
        self.layout = Layout(len(counts), len(contexts), blocks)
        self.column = np.full(len(counts), -1, np.int32)
        self.column[contexts] = np.arange(len(contexts))
        self.has_line = np.ones(len(counts), bool)
        if name == item and facts.category is not None:
            self.has_line = (counts >= FEWEST_EVENTS) | (facts.category == 0)


class _Sum:
    """Weights by cell so far; equal cells are summed each time their number has doubled."""

    def __init__(self, cells: _Cells):
        self.layout, self._cells = cells.layout, cells
        self._parts: list[np.ndarray] = []
        self._size, self._limit = 0, _CELLS

    def add(
        self, rows: np.ndarray, pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> None:
        """Adds pairs to both events' lines.

        Args:
            rows: int32 ``[E]``. Row ids of events.
            pairs: iterable of indices of the earlier and of the later events, and weights.
        """
        layout, no_cell = self.layout, self.layout.no_cell
        first = np.where(self._cells.has_line[rows], layout.first_cell(rows), no_cell)
        columns = self._cells.column[rows]
        columns = np.where(columns < 0, no_cell, columns)
        exist = len(rows) and min(first.min(), columns.min()) >= 0
        for earlier, later, weights in pairs:
            for event, other in ((earlier, later), (later, earlier)):
                cells = first[event]
                cells += columns[other]
                packed = layout.pack(cells, weights)
                self._parts.append(packed if exist else packed[packed >= 0])
                self._size += len(self._parts[-1])
        if self._size >= self._limit:
            self._parts = [self.result()]
            self._size = len(self._parts[0])
            self._limit = max(_CELLS, 2 * self._size)

    def result(self) -> np.ndarray:
        """Returns the packed cells, sorted, each once."""
        return self.layout.pack(*self.layout.sum(self._parts))
