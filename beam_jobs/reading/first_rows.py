"""The first rows of a log, read before a pipeline starts: can they be read, what is the clock?"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from beam_jobs.reading.formats import Format
from beam_jobs.reading.inputs import Chunk, blocks
from beam_jobs.reading.rows import Rejected, to_events
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
    for chunk in chunks:
        if chunk.kind == "text" and chunk.stop:
            chunk = dataclasses.replace(chunk, stop=min(chunk.stop, chunk.start + _BYTES))
        for block in blocks(chunk, form, _BYTES):
            events, odd, tally = to_events(block.columns, block.line, block.text_of, form)
            split = [row for row in block.rejected if row.row.strip()]
            if read := tally["rows_read"] + len(split):
                rejected = sorted([*split, *odd], key=lambda row: row.line)
                return FirstRows(chunk.path, read, events.columns["time"], rejected)
    return FirstRows()


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
    """Returns the commonest reasons with their counts, for messages."""
    return [
        f"{count:,} {reason}"
        for reason, count in collections.Counter(reasons).most_common(EXAMPLES)
    ]
