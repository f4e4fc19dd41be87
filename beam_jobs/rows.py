"""Columns of raw values -> numpy columns of events, and the rows that are none, with the reason.

Whole columns are checked and cast at once. Only rows that look odd are judged one by one, and by
the same rule, so that what a row is does not depend on its neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.formats import MISSING, Format
from beam_jobs.hashing import hash_strings, string_buffers

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Rejected:
    """A row that was left out: where it is (line within its chunk, from 1), why, and its text."""

    line: int
    reason: str
    row: str


@dataclass
class Events:
    """Events of a chunk in its order: users as strings, columns and lines as int64."""

    user: pa.Array
    columns: dict[str, np.ndarray]
    line: np.ndarray

    def __getstate__(self):
        columns = {name: pack(column) for name, column in self.columns.items()}
        return self.user, columns, pack(self.line)

    def __setstate__(self, state):
        self.user, columns, line = state
        self.columns = {name: unpack(column) for name, column in columns.items()}
        self.line = unpack(line)


def pack(column: np.ndarray) -> tuple[int, np.ndarray]:
    """An int64 column as its least value and what comes on top, in 32 bits where that does."""
    least = int(column.min(initial=LARGEST))
    if not len(column) or int(column.max()) - least >= 2**32:
        return 0, column
    return least, (column - least).astype(np.uint32)


def unpack(packed: tuple[int, np.ndarray]) -> np.ndarray:
    """Inverse of :func:`pack`."""
    least, column = packed
    return column.astype(np.int64) + least


def to_events(
    columns: Mapping[str, pa.Array],
    line: np.ndarray,
    text_of: Callable[[int], str],
    form: Format,
) -> tuple[Events, list[Rejected], dict[str, int]]:
    """Checks and casts the rows of one block.

    Args:
        columns: mapping of column name (as in ``form.columns``) to values, text or typed.
        line: int64. Line of every row within its chunk.
        text_of: callable. The text of row ``i`` of this block; an empty text is no row at all.
        form: Format. What the columns mean.

    Returns:
        The events, the rejected rows, and the tally of rows read and filtered.
    """
    size = len(line)
    good, other = np.ones(size, bool), np.zeros(size, bool)
    odd: dict[int, str | None] = {}
    if "behavior" in form.columns:
        other, odd = _by_behavior(columns["behavior"], form)
    values: dict[str, np.ndarray] = {}
    for name in (*form.features, "time"):
        numbers, doubtful = _integers(columns[name])
        for row in doubtful[~other[doubtful]].tolist():
            number, reason = _judge(_scalar(columns[name], row), name)
            if reason == f"{name} is empty" and name in form.optional:
                number, reason = MISSING, None
            numbers[row] = number
            if reason and odd.get(row) is None:
                odd[row] = reason
        values[name] = numbers
    user, bad_users = _users(columns["user"])
    for row, reason in bad_users.items():
        if not other[row]:
            odd[row] = reason  # the first column speaks first
    rejected, blank = [], 0
    for row in sorted(odd):
        good[row] = False
        text = text_of(row)
        if text.strip():
            rejected.append(Rejected(int(line[row]), odd[row], text))
        else:
            blank += 1
    keep = good & ~other
    if "behavior" in form.columns and form.keeps_behavior:
        values["behavior"] = hash_strings(_text(columns["behavior"])).view(np.int64)
    if not keep.all():
        user = user.filter(pa.array(keep))
        values = {name: column[keep] for name, column in values.items()}
        line = line[keep]
    tally = {"rows_read": size - blank, "rows_filtered": int(other.sum())}
    return Events(user, values, line), rejected, tally


def _by_behavior(column: pa.Array, form: Format) -> tuple[np.ndarray, dict[int, str]]:
    text = _text(column)
    kept = np.ones(len(text), bool)
    if form.behaviors is not None:
        accepted = pa.array([name.encode() for name in form.behaviors], pa.binary())
        kept = pc.is_in(text, value_set=accepted).to_numpy(zero_copy_only=False)
    odd = {row: "behavior is empty" for row in np.flatnonzero(_lengths(text) == 0).tolist()}
    if form.known_behaviors is not None and not kept.all():
        known = pa.array([name.encode() for name in form.known_behaviors], pa.binary())
        strange = ~pc.is_in(text, value_set=known).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(strange).tolist():
            odd.setdefault(row, f"behavior is none of {', '.join(form.known_behaviors)}")
    other = ~kept
    other[list(odd)] = False
    return other, odd


def _integers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative int64 values, and the rows whose value is still to be judged."""
    kind, size = column.type, len(column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        kind = column.type
    if pa.types.is_integer(kind):
        doubtful = np.zeros(size, bool)
        if column.null_count:
            doubtful |= column.is_null().to_numpy(zero_copy_only=False)
            column = column.fill_null(0)
        numbers = column.to_numpy(zero_copy_only=False)
        doubtful |= (numbers < 0) | (numbers > LARGEST)
        return numbers.astype(np.int64), np.flatnonzero(doubtful)
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        fine = (numbers >= 0) & (numbers < 2.0**53) & (numbers == np.floor(numbers))
        return np.where(fine, numbers, 0).astype(np.int64), np.flatnonzero(~fine)
    text = _text(column)
    offsets, data = string_buffers(text)
    lengths = np.diff(offsets)
    data = data[offsets[0] : offsets[-1]]
    doubtful = (lengths == 0) | (lengths > 18)
    strange = (data < 48) | (data > 57)
    if strange.any():
        places = np.flatnonzero(strange) + offsets[0]
        doubtful[np.searchsorted(offsets, places, side="right") - 1] = True
    if doubtful.any():
        text = pc.if_else(pa.array(doubtful), pa.scalar(b"0", pa.binary()), text)
    numbers = text.cast(pa.string(), safe=False).cast(pa.int64()).to_numpy()
    return (numbers if not doubtful.any() else numbers.copy()), np.flatnonzero(doubtful)


def _judge(value: Any, name: str) -> tuple[int, str | None]:
    """The number, or why the value is none. One rule for every format."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value == "" or value != value:
        return 0, f"{name} is empty"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    digits = text[1:] if text.startswith("-") else text
    if not (digits.isascii() and digits.isdigit()):
        return 0, f"{name} is not an integer"
    if len(digits) > 4000 or abs(int(text)) > LARGEST:
        return 0, f"{name} is larger than {LARGEST}"
    if text.startswith("-") and int(text) != 0:
        return 0, f"{name} is negative"
    return int(text), None


def _users(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    text = _text(column)
    odd = {row: "user is empty" for row in np.flatnonzero(_lengths(text) == 0).tolist()}
    try:
        return text.cast(pa.string()), odd
    except pa.ArrowInvalid:
        safe = []
        for row, value in enumerate(text.to_pylist()):
            try:
                safe.append(value.decode())
            except UnicodeDecodeError:
                odd[row] = "user is not UTF-8"
                safe.append("")
        return pa.array(safe, pa.string()), odd


def _text(column: pa.Array) -> pa.Array:
    """The column as bytes, nulls as nothing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_binary(column.type) or pa.types.is_string(column.type)):
        column = column.cast(pa.string())
    if column.null_count:
        column = column.fill_null("" if pa.types.is_string(column.type) else b"")
    return column if pa.types.is_binary(column.type) else column.cast(pa.binary())


def _lengths(text: pa.Array) -> np.ndarray:
    return np.diff(string_buffers(text)[0])


def _scalar(column: pa.Array, row: int) -> Any:
    value = column[row]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        value = value.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    return value.as_py()
