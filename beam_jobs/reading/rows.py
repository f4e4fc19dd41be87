"""Checks rows: columns of raw values become columns of events, bad rows get a reason.

Whole columns are checked and cast at once. Only suspect rows are checked one by one, by the same
rule, so that the result for a row does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.reading.formats import Format
from beam_jobs.reading.text_ids import text_ids
from beam_jobs.reading.values import (
    LARGEST_FLOAT,
    as_bytes,
    floats,
    id_lists,
    integers,
    labels,
    lengths_of,
    not_utf8,
    sample_weights,
    times,
    whole_texts,
)
from beam_jobs.shared.hashing import hash_strings

VALUES_CUT = "values_cut/"
"""Prefix of the tallies that count values of multi-hot features beyond those kept."""
ROWS_OF_TYPE = "rows_of_type/"
"""Prefix of the tallies that count rows of the event types that have a weight."""


@dataclass(frozen=True)
class Rejected:
    """A row that was left out: its line within its chunk (from 1), the reason, and its text."""

    line: int
    reason: str
    row: str


@dataclass
class Events:
    """Events of a chunk, in its order.

    Attributes:
        user: pyarrow Array of strings ``[E]``.
        columns: mapping of name to int64 (``[E]`` or, with several values, ``[E, V]``) or float64.
            Text ids are codes (:mod:`beam_jobs.reading.text_ids`).
        line: int64 ``[E]``. Line within the chunk; order in the log once grouped by bucket.
        texts: list of pyarrow Arrays of bytes. The texts of text ids; empty once grouped by bucket.
    """

    user: pa.Array
    columns: dict[str, np.ndarray]
    line: np.ndarray
    texts: list[pa.Array] = field(default_factory=list)

    def __getstate__(self):
        columns = {name: pack(column) for name, column in self.columns.items()}
        return self.user, columns, pack(self.line)

    def __setstate__(self, state):
        self.user, columns, line = state
        self.texts = []
        self.columns = {name: unpack(column) for name, column in columns.items()}
        self.line = unpack(line)


def pack(column: np.ndarray) -> tuple[int, np.ndarray]:
    """Packs an int64 column as its minimum and 32-bit differences from it, where these fit.

    Other columns are not changed.
    """
    if column.dtype != np.int64:
        return 0, column
    least = int(column.min(initial=np.iinfo(np.int64).max))
    if not len(column) or int(column.max()) - least >= 2**32:
        return 0, column
    return least, (column - least).astype(np.uint32)


def unpack(packed: tuple[int, np.ndarray]) -> np.ndarray:
    """Restores a column that :func:`pack` packed."""
    least, column = packed
    return column if column.dtype.kind == "f" else column.astype(np.int64) + least


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
        text_of: callable. The text of row ``i`` of this block; a bad row with blank text is not
            counted.
        form: Format. What the columns mean.

    Returns:
        The events, the rejected rows, and the tally of rows read and filtered, and of values
        beyond those kept.
    """
    size = len(line)
    good, other = np.ones(size, bool), np.zeros(size, bool)
    odd: dict[int, str] = {}
    if "behavior" in form.columns:
        other, odd = _filter_behaviors(columns["behavior"], form)
    values: dict[str, np.ndarray] = {}
    too_many: dict[str, np.ndarray] = {}
    texts: list[pa.Array] = []

    def cast_ids(column, name, optional=False, wanted=None):
        if name not in form.text_ids:
            return integers(column, name, optional, wanted)
        codes, reasons, distinct = text_ids(
            column, name, optional, wanted, name in form.hashed_text
        )
        texts.append(distinct)
        return codes, reasons

    for name in (*form.features, "time", *form.values[len(form.features) :]):
        if name in form.multi_hot:
            values[name], reasons, too_many[name] = id_lists(
                columns[name],
                name,
                form.multi_hot[name],
                cast_ids,
            )
        elif name in form.numeric:
            values[name], reasons = floats(columns[name], name)
        elif name == "time":
            values[name], reasons = times(columns[name], name, form.clock, ~other)
        else:
            values[name], reasons = cast_ids(columns[name], name, name in form.optional, ~other)
        for row, reason in reasons.items():
            if not other[row]:
                odd.setdefault(row, reason)
    if "label" in form.columns:
        values["label"], reasons = labels(columns["label"], ~other)
        for row, reason in reasons.items():
            odd.setdefault(row, reason)
    weighed: dict[str, int] = {}
    if form.weighted:
        values["weight"], reasons, weighed = _weigh(columns, form, size)
        for row, reason in reasons.items():
            if not other[row]:
                odd.setdefault(row, reason)
    if "request" in form.columns:
        values["request"] = hash_strings(as_bytes(columns["request"])).view(np.int64)
    user, bad_users = _decode_users(columns["user"])
    for row, reason in bad_users.items():
        if not other[row]:
            odd[row] = reason  # the user is the first column: its reason takes precedence
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
        values["behavior"] = hash_strings(as_bytes(columns["behavior"])).view(np.int64)
    if not keep.all():
        user = user.filter(pa.array(keep))
        values = {name: column[keep] for name, column in values.items()}
        too_many = {name: column[keep] for name, column in too_many.items()}
        line = line[keep]
    tally = {"rows_read": size - blank, "rows_filtered": int(other.sum()), **weighed}
    tally |= {f"{VALUES_CUT}{name}": int(column.sum()) for name, column in too_many.items()}
    return Events(user, values, line, texts), rejected, tally


def _filter_behaviors(column: pa.Array, form: Format) -> tuple[np.ndarray, dict[int, str]]:
    """Returns the mask of rows of other behavior types, and the reasons of bad rows."""
    text = as_bytes(column)
    kept = np.ones(len(text), bool)
    if form.behaviors is not None:
        accepted = pa.array([name.encode() for name in form.behaviors], pa.binary())
        kept = pc.is_in(text, value_set=accepted).to_numpy(zero_copy_only=False)
    odd = dict.fromkeys(np.flatnonzero(lengths_of(text) == 0).tolist(), "behavior is empty")
    if form.known_behaviors is not None and not kept.all():
        known = pa.array([name.encode() for name in form.known_behaviors], pa.binary())
        strange = ~pc.is_in(text, value_set=known).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(strange).tolist():
            odd.setdefault(row, f"behavior is none of {', '.join(form.known_behaviors)}")
    other = ~kept
    other[list(odd)] = False
    return other, odd


def _weigh(
    columns: Mapping[str, pa.Array], form: Format, size: int
) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """Returns each row's weight, that of its column times that of its event type, float64
    ``[size]``; the reasons of bad rows; and the tally of rows by type that has a weight."""
    weight, reasons = np.ones(size), dict[int, str]()
    if "weight" in form.columns:
        weight, reasons = sample_weights(columns["weight"])
    if not form.weights:
        return weight, reasons, {}
    names = pa.array([name.encode() for name in form.weights], pa.binary())
    kind = pc.index_in(as_bytes(columns["behavior"]), value_set=names)
    kind = kind.fill_null(len(names)).to_numpy()
    counts = np.bincount(kind, minlength=len(names))
    tally = {f"{ROWS_OF_TYPE}{name}": int(n) for name, n in zip(form.weights, counts)}
    weight = weight * np.array([*form.weights.values(), 1.0])[kind]
    for row in np.flatnonzero(weight > LARGEST_FLOAT).tolist():
        reasons.setdefault(row, f"weight is larger than {LARGEST_FLOAT:.3g}")
    return weight, reasons, tally


def _decode_users(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Returns users as strings, and the reasons of bad rows."""
    text, odd = whole_texts(as_bytes(column), "user")
    odd |= dict.fromkeys(np.flatnonzero(lengths_of(text) == 0).tolist(), "user is empty")
    if strange := not_utf8(text, "user"):
        odd |= strange
        mask = np.zeros(len(text), bool)
        mask[list(strange)] = True
        text = pc.if_else(pa.array(mask), pa.scalar(b"", pa.binary()), text)
    return text.cast(pa.string()), odd
