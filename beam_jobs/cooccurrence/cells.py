"""Cells of a feature's co-occurrence matrix: packed for the shuffle, summed, the largest kept.

The matrix has a line for every row id and a column for every *context*: the ids that are frequent
enough to tell something about others. A pair of events adds its weight to two cells, one in the
line of either event. Lines are spread over blocks, so that a worker sums one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfdare.schema import FIRST_ID

CONTEXT_EVENTS = 40
"""Training events that make an id a context: what occurs with rarer ids is mostly chance."""
LEAST_CONTEXTS = 1_000
"""Contexts at least: the most frequent ids, however rare."""
MOST_CONTEXTS = 1 << 16
"""Contexts at most: the most frequent ids."""
MOST_CELLS = 1 << 23
"""Cells, about, that the lines of the contexts keep."""
LEAST_KEPT = 64
"""Cells that a line keeps however many lines there are."""


@dataclass(frozen=True)
class Layout:
    """How the cells of one feature are numbered.

    Attributes:
        size: int. Row ids of the feature.
        contexts: int. Columns of the matrix.
        blocks: int. Line ``i`` is in block ``i % blocks``.
    """

    size: int
    contexts: int
    blocks: int

    @property
    def kept(self) -> int:
        """Cells that a line keeps at most."""
        return max(MOST_CELLS // max(self.contexts, 1), LEAST_KEPT)

    @cached_property
    def _lines(self) -> int:
        """Lines of a block."""
        return -(-self.size // self.blocks)

    @cached_property
    def _column_bits(self) -> int:
        return max(self.contexts - 1, 1).bit_length()

    @cached_property
    def _weight_bits(self) -> int:
        return 62 - (self.blocks * self._lines).bit_length() - self._column_bits

    @property
    def no_cell(self) -> int:
        """A number that makes that of any cell, and itself, negative if added."""
        return -(1 << 62 - self._weight_bits)

    def first_cell(self, rows: np.ndarray) -> np.ndarray:
        """Returns the number of the first cell of each line, int64."""
        number = rows.astype(np.int64) // self.blocks
        block = rows - number * self.blocks  # several times faster than a remainder
        return (block * self._lines + number) << self._column_bits

    def line(self, cells: np.ndarray) -> np.ndarray:
        """Returns the number of every cell's line; lines of a block follow each other."""
        return cells >> self._column_bits

    def column(self, cells: np.ndarray) -> np.ndarray:
        """Returns the columns of cells."""
        return cells & ((1 << self._column_bits) - 1)

    def row(self, lines: np.ndarray) -> np.ndarray:
        """Returns the row ids of lines."""
        block, line = np.divmod(lines, self._lines)
        return line * self.blocks + block

    def pack(self, cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Packs every cell's number and weight into an int64; a large weight takes several."""
        bits = self._weight_bits
        most = (1 << bits) - 1
        if len(weights) and int(weights.max()) > most:
            times = -(-weights // most)
            last = np.cumsum(times) - 1
            parts = np.full(int(times.sum()), most)
            parts[last] = weights - (times - 1) * most
            cells, weights = np.repeat(cells, times), parts
        packed = cells << bits
        packed |= weights
        return packed

    def sum(self, packed: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Adds up the weights of equal cells.

        Returns:
            The cells, rising, and their weights, int64.
        """
        bits = self._weight_bits
        joined = np.concatenate([np.zeros(0, np.int64), *packed])
        joined.sort()
        cells = joined >> bits
        joined &= (1 << bits) - 1
        last = _last_of_runs(cells)
        return cells[last], _sum_runs(joined, last)

    def split(self, packed: np.ndarray) -> list[np.ndarray]:
        """Splits packed cells, sorted, by block."""
        start = np.arange(1, self.blocks) * self._lines << self._column_bits + self._weight_bits
        return np.split(packed, np.searchsorted(packed, start))


def _last_of_runs(values: np.ndarray) -> np.ndarray:
    """Returns the index of the last of every run of equal values."""
    if not len(values):
        return np.zeros(0, np.int64)
    differs = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=differs[:-1])
    return np.flatnonzero(differs)


def _sum_runs(values: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Adds up runs of integers, given by their last index, several times faster than reduceat."""
    sums = np.cumsum(values)[last]
    sums[1:] -= sums[:-1].copy()
    return sums


def count_contexts(counts: np.ndarray) -> int:
    """Returns the number of columns; see :func:`choose_contexts`."""
    counts = counts[FIRST_ID:]
    number = max(int((counts >= CONTEXT_EVENTS).sum()), LEAST_CONTEXTS)
    return min(number, MOST_CONTEXTS, len(counts))


def choose_contexts(counts: np.ndarray) -> np.ndarray:
    """Returns the row ids of the columns, rising: those of the frequent ids.

    Args:
        counts: int64 ``[V]``. Training events of every row.
    """
    most_frequent = np.argsort(-counts[FIRST_ID:], kind="stable")
    return np.sort(most_frequent[: count_contexts(counts)]) + FIRST_ID


@dataclass
class Block:
    """Cells of some lines of a matrix, sorted by line and column.

    Attributes:
        rows: int32 ``[L]``. Row ids of the lines that have cells.
        length: int32 ``[L]``. Cells kept of each line.
        columns: int32 ``[N]``.
        weights: float32 ``[N]``.
        row_sums: int64 ``[L]``. Weight of all cells of each line, of those not kept as well.
        column_sums: int64 ``[C]``. Weight of all cells of these lines by column.
    """

    rows: np.ndarray
    length: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    row_sums: np.ndarray
    column_sums: np.ndarray

    def select(self, mask: np.ndarray) -> Block:
        """Returns the lines of a mask ``[L]``; the column sums stay those of all lines."""
        cells = np.repeat(mask, self.length)
        return Block(
            self.rows[mask],
            self.length[mask],
            self.columns[cells],
            self.weights[cells],
            self.row_sums[mask],
            self.column_sums,
        )


def make_block(layout: Layout, packed: Iterable[np.ndarray]) -> Block:
    """Sums the cells of a block and keeps the largest of every line."""
    cells, weights = layout.sum(packed)
    lines, columns = layout.line(cells), layout.column(cells)
    last = _last_of_runs(lines)
    length = np.diff(last, prepend=-1)
    row_sums = _sum_runs(weights, last)
    # sums of integers below 2 ** 53 are exact
    column_sums = np.bincount(columns, weights, minlength=layout.contexts)
    weights = weights.astype(np.float32)
    keep = keep_largest(weights, length, layout.kept)
    return Block(
        layout.row(lines[last]).astype(np.int32),
        np.minimum(length, layout.kept).astype(np.int32),
        columns[keep].astype(np.int32),
        weights[keep],
        row_sums,
        column_sums.astype(np.int64),
    )


def keep_largest(weights: np.ndarray, length: np.ndarray, most: int) -> np.ndarray:
    """Returns a mask of the ``most`` largest weights of every line, of equal ones the first.

    Args:
        weights: float32 ``[N]``, line by line.
        length: int64 ``[L]``. Cells of every line.
        most: int.
    """
    keep = np.ones(len(weights), bool)
    long = np.flatnonzero(length > most)
    if not len(long):
        return keep
    cells = np.flatnonzero(np.repeat(length > most, length))
    line = np.repeat(np.arange(len(long)), length[long])
    # bits of positive floats sort as the floats do; with the line above them, one sort does all
    code = (line << 31) - weights[cells].view(np.int32).astype(np.int64)
    start = np.cumsum(length[long]) - length[long]
    limit = np.sort(code)[start + most - 1][line]
    equal = np.flatnonzero(code == limit)
    larger = np.bincount(line[code < limit], minlength=len(long))
    number = np.arange(len(equal)) - np.searchsorted(line[equal], line[equal])
    keep[cells] = code < limit
    keep[cells[equal]] = number < most - larger[line[equal]]
    return keep
