"""Casts raw values, text or typed, to numbers; a bad value gets a reason.

Whole columns are checked and cast at once. Only suspect values are checked one by one, by the same
rule, so that the result for a value does not depend on its neighbors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.shared.hashing import string_buffers
from beam_jobs.shared.vocabulary_file import MISSING

LARGEST = 2**63 - 1
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def integers(
    column: pa.Array, name: str, optional: bool, wanted: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to non-negative int64 values; returns these, and reasons of bad rows.

    Args:
        column: pyarrow Array. Text or typed.
        name: str. Name of the column in reasons.
        optional: bool. Whether a row may be empty; its value is then ``MISSING``.
        wanted: bool ``[E]``. Rows to check; the others may get any value, and get no reason.
    """
    numbers, doubtful = _cast_integers(column)
    reasons = {}
    for row in doubtful[wanted[doubtful]].tolist():
        number, reason = _judge(_scalar(column, row), name)
        if optional and reason == _empty_reason(name):
            number, reason = MISSING, None
        numbers[row] = number
        if reason:
            reasons[row] = reason
    return numbers, reasons


def integer_lists(
    column: pa.Array, name: str, most: int
) -> tuple[np.ndarray, dict[int, str], np.ndarray]:
    """Casts values separated by ``|``, or lists; keeps the first ``most`` of every row.

    Returns:
        int64 ``[E, most]``, ``MISSING`` after the last value; the reasons of bad rows; and int64
        ``[E]``, the number of values that were not kept.
    """
    if not pa.types.is_list(column.type):
        column = pc.split_pattern(as_bytes(column).cast(pa.string()), "|")
    column = column.fill_null([]) if column.null_count else column
    count = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = column.flatten()
    row = np.repeat(np.arange(len(column)), count)
    position = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    numbers, odd = integers(flat, name, False, np.ones(len(flat), bool))
    reasons: dict[int, str] = {}
    for index, reason in odd.items():
        if reason != _empty_reason(name):
            reasons.setdefault(int(row[index]), reason)
        elif count[row[index]] > 1:
            reasons.setdefault(int(row[index]), f"{name} has an empty value among others")
        else:
            count[row[index]] = 0  # an empty text: a row without values
            numbers[index] = MISSING
    values = np.full((len(column), most), MISSING)
    kept = position < most
    values[row[kept], position[kept]] = numbers[kept]
    return values, reasons, np.maximum(count - most, 0)


def floats(column: pa.Array, name: str) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to numbers within the range of float32.

    Returns:
        float64 ``[E]``, NaN where a row is empty; the reasons of bad rows.
    """
    kind, reasons = column.type, {}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64(), safe=False)
        numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False) + 0.0
    else:
        text = as_bytes(column)
        fine = pc.match_substring_regex(text, _NUMBER).to_numpy(zero_copy_only=False)
        empty = lengths_of(text) == 0
        text = pc.if_else(pa.array(fine), text, pa.scalar(b"0", pa.binary()))
        numbers = text.cast(pa.string()).cast(pa.float64()).to_numpy() + 0.0  # -0 becomes 0
        numbers[empty] = np.nan
        strange = np.flatnonzero(~fine & ~empty)
        reasons = dict.fromkeys(strange.tolist(), f"{name} is not a number")
    large = np.abs(numbers) > _LARGEST_FLOAT  # False for NaN
    for row in np.flatnonzero(large).tolist():
        reasons[row] = f"{name} is larger than {_LARGEST_FLOAT:.3g}"
    return numbers, reasons


def _cast_integers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns non-negative int64 values, and the rows whose value is still to be checked."""
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
    text = as_bytes(column)
    offsets, data = string_buffers(text)
    lengths = np.diff(offsets)
    data = data[offsets[0] : offsets[-1]]
    doubtful = (lengths == 0) | (lengths > 18)
    strange = (data < 48) | (data > 57)
    if strange.any():
        positions = np.flatnonzero(strange) + offsets[0]
        doubtful[np.searchsorted(offsets, positions, side="right") - 1] = True
    if doubtful.any():
        text = pc.if_else(pa.array(doubtful), pa.scalar(b"0", pa.binary()), text)
    numbers = text.cast(pa.string(), safe=False).cast(pa.int64()).to_numpy()
    return (numbers if not doubtful.any() else numbers.copy()), np.flatnonzero(doubtful)


def _judge(value: Any, name: str) -> tuple[int, str | None]:
    """Returns the number, or 0 and why the value is bad; the same rule for every format."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value == "" or value != value:
        return 0, _empty_reason(name)
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


def _empty_reason(name: str) -> str:
    return f"{name} is empty"


def as_bytes(column: pa.Array) -> pa.Array:
    """Casts a column to bytes, nulls to empty ones."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_binary(column.type) or pa.types.is_string(column.type)):
        column = column.cast(pa.string())
    if column.null_count:
        column = column.fill_null("" if pa.types.is_string(column.type) else b"")
    return column if pa.types.is_binary(column.type) else column.cast(pa.binary())


def lengths_of(text: pa.Array) -> np.ndarray:
    """Counts the bytes of every value."""
    return np.diff(string_buffers(text)[0])


def _scalar(column: pa.Array, row: int) -> Any:
    value = column[row]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        value = value.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    return value.as_py()
