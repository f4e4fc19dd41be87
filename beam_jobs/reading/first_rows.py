"""The first rows of a log, read before a pipeline starts: can they be read, what is the clock,
which ids are text?"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from beam_jobs.reading.formats import Format
from beam_jobs.reading.inputs import Chunk, blocks
from beam_jobs.reading.rows import Rejected, to_events
from beam_jobs.reading.text import Block
from beam_jobs.reading.values import are_text, as_lists, id_that_may_be_text
from beam_jobs.shared.errors import InputError

EXAMPLES = 3
"""Reasons and rejected rows in a message."""
_BYTES = 1 << 20


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a log.

    Attributes:
        path: str. The file that holds them.
        read: int. How many there are.
        times: int64 ``[E]``. Times of those that are events.
        rejected: list of Rejected. Those that cannot be read, in order.
    """

    path: str = ""
    read: int = 0
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    rejected: Sequence[Rejected] = ()


def read_first_rows(chunks: Sequence[Chunk], form: Format) -> FirstRows:
    """Reads about a MiB of the first file that has rows.

    Raises:
        InputError: the file is damaged.
    """
    for path, block in _first_blocks(chunks, form):
        events, odd, tally = to_events(block.columns, block.line, block.text_of, form)
        split = [row for row in block.rejected if row.row.strip()]
        if read := tally["rows_read"] + len(split):
            rejected = sorted([*split, *odd], key=lambda row: row.line)
            return FirstRows(path, read, events.columns["time"], rejected)
    return FirstRows()


def find_text_ids(chunks: Sequence[Chunk], form: Format, most: float) -> frozenset[str]:
    """Finds the columns of ids that more than the share ``most`` of the first rows have as text.

    Raises:
        InputError: the file is damaged.
    """
    for _, block in _first_blocks(chunks, form):
        if len(block.line):
            columns = {
                name: as_lists(block.columns[name]).flatten()
                if name in form.multi_hot
                else block.columns[name]
                for name in form.ids
            }
            return frozenset(name for name in columns if are_text(columns[name], most))
    return frozenset()


def _first_blocks(chunks: Sequence[Chunk], form: Format) -> Iterator[tuple[str, Block]]:
    """Yields the path and the first blocks of every chunk, of about a MiB each."""
    for chunk in chunks:
        if chunk.kind == "text" and chunk.stop:
            chunk = dataclasses.replace(chunk, stop=min(chunk.stop, chunk.start + _BYTES))
        for block in blocks(chunk, form, _BYTES):
            yield chunk.path, block


def check_first_rows(first: FirstRows, title: str) -> None:
    """Checks that some of the first rows can be read.

    Args:
        first: FirstRows.
        title: str. What a row is, for messages.

    Raises:
        InputError: all of them are rejected, with the reasons.
    """
    if not first.read or len(first.rejected) < first.read:
        return
    count = collections.Counter(row.reason for row in first.rejected)
    rows = first.rejected[:EXAMPLES]
    examples = [f"{first.path}:{row.line}: {row.reason}: {row.row[:120]}" for row in rows]
    text = f"No {title} is left of the first {first.read:,} read: all were rejected."
    raise InputError("\n  ".join([text, *most_common(count), *examples]))


def most_common(reasons: Mapping[str, int]) -> list[str]:
    """Returns the commonest reasons with their counts, and what may help, for messages."""
    common = collections.Counter(reasons).most_common(EXAMPLES)
    lines = [f"{count:,} {reason}" for reason, count in common]
    for name in filter(None, (id_that_may_be_text(reason) for reason, _ in common)):
        lines.append(f"--text_ids {name} reads them as text")
    return lines
