"""Casts raw values, text or typed, to numbers; a bad value gets a reason.

Whole columns are checked and cast at once. Only suspect values are checked one by one, by the same
rule, so that the result for a value does not depend on its neighbors, nor on the format that it
came in: a value of a typed column is what its text would be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.reading.clocks import Clock, from_text, from_typed
from beam_jobs.shared.hashing import string_buffers
from beam_jobs.shared.vocabulary_file import MISSING

LARGEST = 2**63 - 1
NOT_UTF8 = "is not UTF-8 text; iconv -f LATIN1 -t UTF-8 converts Latin-1"
EXACT = 2**53
"""Floating-point numbers are every whole number below it, and not every one above."""
INEXACT = "was a floating-point number, which is not exact from 2**53 up: write integers"
NO_LABEL = "label is neither 0 nor 1"
EMPTY = frozenset(("", "nan", "null", "none", "na", "<na>", r"\n"))
"""What tools write, in any case, where a number is missing."""
_TRUE = pa.array([b"true", b"True", b"TRUE", b"t", b"T"])
_FALSE = pa.array([b"false", b"False", b"FALSE", b"f", b"F"])
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_NUMBER = r"^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITE = r"(?i)^-?inf(inity)?$"
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_POINT = 46


def integers(
    column: pa.Array, name: str, optional: bool = False, wanted: np.ndarray | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to non-negative int64 values; returns these, and reasons of bad rows.

    Args:
        column: pyarrow Array. Text or typed.
        name: str. Name of the column in reasons.
        optional: bool. Whether a row may be empty; its value is then ``MISSING``.
        wanted: bool ``[E]`` or None. Rows to check; the others may get any value, and get no
            reason. None: all.
    """
    numbers, doubtful = _cast_integers(column)
    reasons = {}
    for row in (doubtful if wanted is None else doubtful[wanted[doubtful]]).tolist():
        number, reason = _judge(column[row].as_py(), name)
        if optional and reason == empty_reason(name):
            number, reason = MISSING, None
        numbers[row] = number
        if reason:
            reasons[row] = reason
    return numbers, reasons


def times(
    column: pa.Array, name: str, clock: Clock, wanted: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to times of a clock; returns these, int64, and reasons of bad rows.

    Args:
        column: pyarrow Array. Numbers, dates, timestamps or text.
        name: str. Name of the column in reasons.
        clock: Clock. Unit of integers, to which all others are converted.
        wanted: bool ``[E]``. Rows to check, as in :func:`integers`.
    """
    if typed := pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        numbers = from_typed(column, clock.ticks)
        doubtful = column.is_null().to_numpy(zero_copy_only=False) | (numbers < 0)
        doubtful = np.flatnonzero(doubtful)
    else:
        if pa.types.is_floating(column.type):
            column = pc.floor(column.cast(pa.float64()))
        numbers, doubtful = _cast_integers(column, round_down=True)
        if len(doubtful):
            text = as_bytes(column.take(pa.array(doubtful)))
            parsed, fits = from_text(text, clock.ticks)
            fits &= parsed >= 0
            numbers[doubtful[fits]] = parsed[fits]
            doubtful = doubtful[~fits]
    reasons: dict[int, str] = {}
    for row in doubtful[wanted[doubtful]].tolist():
        reason: str | None = f"{name} is negative" if column[row].is_valid else empty_reason(name)
        if not typed:
            numbers[row], reason = _judge(column[row].as_py(), name, round_down=True)
            if reason == _no_integer(name):
                reason = f"{name} is neither a whole number nor an ISO 8601 time"
        if reason:
            reasons[row] = reason
    for row in clock.strange(numbers).tolist():
        if wanted[row]:
            reasons.setdefault(row, f"{name} is not in {clock.name} as others of the log are")
    return numbers, reasons


def labels(column: pa.Array, wanted: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to 0 and 1, from numbers, booleans or words; also returns the reasons of bad
    rows. Arguments are those of :func:`integers`."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numbers, doubtful = _cast_integers(column)
    reasons: dict[int, str] = {}
    if not len(doubtful) and numbers.max(initial=0) <= 1:
        return numbers, reasons
    text = as_bytes(column.take(pa.array(doubtful)))
    words = [
        pc.is_in(text, value_set=part).to_numpy(zero_copy_only=False) for part in (_FALSE, _TRUE)
    ]
    numbers = numbers.copy()
    for value, rows in enumerate(words):
        numbers[doubtful[rows]] = value
    doubtful = doubtful[~(words[0] | words[1])]
    for row in doubtful[wanted[doubtful]].tolist():
        numbers[row], reason = _judge(column[row].as_py(), "label")
        if reason:
            reasons[row] = reason if reason == empty_reason("label") else NO_LABEL
    for row in np.flatnonzero((numbers > 1) & wanted).tolist():
        reasons.setdefault(row, NO_LABEL)
    return numbers, reasons


def id_lists(
    column: pa.Array,
    name: str,
    most: int,
    cast: Callable[[pa.Array, str], tuple[np.ndarray, dict[int, str]]] = integers,
) -> tuple[np.ndarray, dict[int, str], np.ndarray]:
    """Casts values separated by ``|``, or lists; keeps the first ``most`` of every row.

    Args:
        column: pyarrow Array. Text or lists.
        name: str. Name of the column in reasons.
        most: int. Values of a row that are kept.
        cast: callable. Casts single values to non-negative int64 ones, as :func:`integers`.

    Returns:
        int64 ``[E, most]``, ``MISSING`` after the last value; the reasons of bad rows; and int64
        ``[E]``, the number of values that were not kept.
    """
    column = as_lists(column)
    count = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = column.flatten()
    row = np.repeat(np.arange(len(column)), count)
    position = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    numbers, odd = cast(flat, name)
    reasons: dict[int, str] = {}
    for index, reason in odd.items():
        if reason != empty_reason(name):
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


def as_lists(column: pa.Array) -> pa.Array:
    """Splits text at ``|``; leaves lists as they are, null as an empty one."""
    if not pa.types.is_list(column.type):
        column = pc.split_pattern(as_bytes(column), b"|")
    return column.fill_null([]) if column.null_count else column


def are_text(column: pa.Array, most: float) -> bool:
    """Returns whether more than the share ``most`` of the values that are not empty are ids, but
    no integers below 2**63."""
    _, doubtful = _cast_integers(column)
    texts, empty = 0, 0
    for row in doubtful.tolist():
        _, reason = _judge(column[row].as_py(), "")
        texts += reason in (_no_integer(""), _too_large(""))
        empty += reason == empty_reason("")
    return texts > most * (len(column) - empty)


def floats(column: pa.Array, name: str) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to numbers within the range of float32.

    Returns:
        float64 ``[E]``, NaN where a row is empty; the reasons of bad rows.
    """
    kind = column.type
    reasons: dict[int, str] = {}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64(), safe=False)
        numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False) + 0.0
    else:
        text = as_bytes(column)
        fine = pc.match_substring_regex(text, _NUMBER).to_numpy(zero_copy_only=False)
        infinite = pc.match_substring_regex(text, _INFINITE).to_numpy(zero_copy_only=False)
        known = pc.if_else(pa.array(fine), text, pa.scalar(b"0", pa.binary()))
        numbers = known.cast(pa.string()).cast(pa.float64()).to_numpy() + 0.0  # -0 becomes 0
        numbers[~fine], numbers[infinite] = np.nan, np.inf
        strange = np.flatnonzero(~fine & ~infinite & (lengths_of(text) > 0))
        for row in strange.tolist():
            if not _is_empty(text[row].as_py()):
                reasons[row] = f"{name} is not a number"
    large = np.abs(numbers) > LARGEST_FLOAT  # False for NaN
    for row in np.flatnonzero(large).tolist():
        reasons[row] = f"{name} is larger than {LARGEST_FLOAT:.3g}"
    return numbers, reasons


def sample_weights(column: pa.Array) -> tuple[np.ndarray, dict[int, str]]:
    """Casts a column to weights, float64 ``[E]``, 1 where a row is empty; returns these, and the
    reasons of bad rows."""
    numbers, reasons = floats(column, "weight")
    for row in np.flatnonzero(numbers < 0).tolist():
        reasons.setdefault(row, "weight is negative")
    return np.where(np.isnan(numbers), 1.0, numbers), reasons


def whole_texts(text: pa.Array, name: str) -> tuple[pa.Array, dict[int, str]]:
    """Rewrites whole numbers in texts, 12.0 to 12; returns the texts and reasons of bad rows.

    An id is the same whether it was written 12 or 12.0.
    """
    reasons: dict[int, str] = {}
    offsets, data = string_buffers(text)
    data = data[offsets[0] : offsets[-1]]
    if not ((data == _POINT) | (data == ord("+"))).any():
        return text, reasons
    whole = pc.replace_substring_regex(text, pattern=r"^([0-9]{1,15})\.0+$", replacement=r"\1")
    inexact = pc.match_substring_regex(
        whole, r"^-?[0-9]{16,}\.0+$|^-?[0-9](\.[0-9]+)?e\+[0-9]{2,}$"
    )
    for row in np.flatnonzero(inexact.to_numpy(zero_copy_only=False)).tolist():
        reasons[row] = f"{name} {INEXACT}"
    return whole, reasons


def not_utf8(text: pa.Array, name: str) -> dict[int, str]:
    """Returns the reason of every row of bytes that is not UTF-8."""
    try:
        text.cast(pa.string())
        return {}
    except pa.ArrowInvalid:
        odd = {}
        for row, value in enumerate(text.to_pylist()):
            try:
                value.decode()
            except UnicodeDecodeError:
                odd[row] = f"{name} {NOT_UTF8}"
        return odd


def _cast_integers(column: pa.Array, round_down: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns non-negative int64 values, and the rows whose value is still to be checked."""
    kind, size = column.type, len(column)
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
        fine = (numbers >= 0) & (numbers < EXACT) & (numbers == np.floor(numbers))
        return np.where(fine, numbers, 0).astype(np.int64), np.flatnonzero(~fine)
    text = as_bytes(column)
    offsets, data = string_buffers(text)
    if (data[offsets[0] : offsets[-1]] == _POINT).any():  # 12.0
        fraction = r"^([0-9]{1,15})\.[0-9]*$" if round_down else r"^([0-9]{1,15})\.0*$"
        text = pc.replace_substring_regex(text, pattern=fraction, replacement=r"\1")
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


def _judge(value: Any, name: str, round_down: bool = False) -> tuple[int, str | None]:
    """Returns the number, or 0 and why the value is bad; the same rule for every format."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value != value or _is_empty(value):
        return 0, empty_reason(name)
    text = str(value)
    digits = text[1:] if text.startswith("-") else text
    number: int | None = None
    if digits.isascii() and digits.isdigit():
        number = int(text) if len(digits) < 4000 else LARGEST + 1
    elif _FLOAT.fullmatch(text):
        exponent = re.split("[eE]", text)[1:]
        if len(exponent[0] if exponent else "") > 4:
            return 0, _no_integer(name)
        exact = Decimal(text)
        if not isinstance(value, Decimal) and abs(exact) >= EXACT:
            return 0, f"{name} {INEXACT}"
        if exact != int(exact) and not round_down:
            return 0, _no_integer(name)
        number = int(exact)
    if number is None:
        return 0, _no_integer(name)
    if abs(number) > LARGEST:
        return 0, _too_large(name)
    if number < 0:
        return 0, f"{name} is negative"
    return number, None


def _is_empty(value: Any) -> bool:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return isinstance(value, str) and value.lower() in EMPTY


def empty_reason(name: str) -> str:
    """Returns the reason of a row whose value of column ``name`` is missing."""
    return f"{name} is empty"


def id_that_may_be_text(reason: str) -> str | None:
    """Returns the feature of a reason that does not hold for text ids, else None."""
    name = reason.split(" ", 1)[0]
    return name if reason in (_no_integer(name), _too_large(name)) else None


def _too_large(name: str) -> str:
    return f"{name} is larger than {LARGEST}"


def _no_integer(name: str) -> str:
    return f"{name} is not an integer"


def as_bytes(column: pa.Array) -> pa.Array:
    """Casts a column to bytes, nulls and NaN to empty ones, a floating-point 12.0 to ``12``."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        numbers, odd = _cast_integers(column)
        text = pa.array(numbers).cast(pa.string())
        if len(odd):
            values = text.to_pylist()
            for row in odd.tolist():
                value = column[row].as_py()
                values[row] = "" if value is None or value != value else repr(value)
            text = pa.array(values, pa.string())
        column = text
    if not (pa.types.is_binary(column.type) or pa.types.is_string(column.type)):
        column = column.cast(pa.string())
    if column.null_count:
        column = column.fill_null("" if pa.types.is_string(column.type) else b"")
    return column if pa.types.is_binary(column.type) else column.cast(pa.binary())


def lengths_of(text: pa.Array) -> np.ndarray:
    """Counts the bytes of every value."""
    return np.diff(string_buffers(text)[0])
