"""Clocks of logs: the unit of times, told by their range, and times from text and typed columns.

A time is an integer, in the unit of the log's clock since 1970 (UTC). Dates, ISO 8601 text and
typed times are converted to that unit, rounded down; without a zone they are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

AUTO = "auto"
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks of a second, by unit."""
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_YOUNGEST = 10**8
"""Seconds until 1973. Smaller times may be any count; a thousandfold of today's is milliseconds."""
_ISO = (
    r"(?i)^(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:[.,](?P<fraction>[0-9]+))?)? ?"
    r"(?:Z|UTC|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?$"
)


@dataclass(frozen=True)
class Clock:
    """The clock of a log.

    Attributes:
        unit: str or None. One of ``UNITS``; None where times are a count of something else.
        by_range: bool. Whether the range of the times told the unit; times of another unit's range
            are then faults.
    """

    unit: str | None = None
    by_range: bool = False

    @property
    def ticks(self) -> int:
        """Ticks of a second; dates and typed times of a log without a unit are in seconds."""
        return UNITS[self.unit or "s"]

    @property
    def known(self) -> bool:
        """Whether the unit was given or told."""
        return self.by_range or self.unit is not None

    @property
    def name(self) -> str:
        """The unit in words."""
        return _NAMES[self.unit] if self.unit else "no known unit"

    def strange(self, times: np.ndarray) -> np.ndarray:
        """Returns the rows whose time is in the range of another unit."""
        if not self.by_range or self.unit is None:
            return np.zeros(0, np.int64)
        least = _YOUNGEST * self.ticks
        return np.flatnonzero((times >= least * 1000) | ((times >= _YOUNGEST) & (times < least)))


def clock_of(times: np.ndarray) -> Clock:
    """Tells a clock by the range of its times: the unit that puts their median after 1973."""
    if not len(times):
        return Clock()
    middle = int(np.sort(times)[len(times) // 2])
    units = [unit for unit, ticks in UNITS.items() if middle >= _YOUNGEST * ticks]
    return Clock(units[-1] if units else None, by_range=True)


def time_or_date(text: str) -> int | str:
    """Reads an integer; ISO 8601 text is returned as it is, for :func:`ticks_of`.

    Raises:
        ValueError: it is neither.
    """
    if text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    if not from_text(pa.array([text.encode()]), 1)[1].all():
        raise ValueError(text)
    return text


def ticks_of(time: int | str, clock: Clock) -> int:
    """Converts ISO 8601 text to a time of a clock; an integer is one already."""
    if isinstance(time, int):
        return time
    return int(from_text(pa.array([time.encode()]), clock.ticks)[0][0])


def from_typed(column: pa.Array, ticks: int) -> np.ndarray:
    """Converts dates and timestamps to times of ``ticks`` a second, int64 ``[E]``; nulls to 0."""
    kind = column.type
    if pa.types.is_date32(kind):
        numbers, own = column.cast(pa.int32()).cast(pa.int64()), 1
        ticks *= 86_400
    elif pa.types.is_date64(kind):
        numbers, own = column.cast(pa.int64()), UNITS["ms"]
    else:
        numbers, own = column.cast(pa.int64()), UNITS[kind.unit]
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    return values * (ticks // own) if ticks >= own else values // (own // ticks)


def from_text(text: pa.Array, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads ISO 8601 dates and times, times of ``ticks`` a second.

    Args:
        text: pyarrow Array of binary.
        ticks: int. Of a second.

    Returns:
        int64 ``[E]``, and bool ``[E]``: whether a row is a time.
    """
    parts = pc.extract_regex(text, pattern=_ISO)
    fits = parts.is_valid().to_numpy(zero_copy_only=False)
    field = {
        name: pc.fill_null(pc.struct_field(parts, [name]), b"").cast(pa.string())
        for name in ("date", "clock", "fraction", "sign", "hours", "minutes")
    }
    moment = pc.binary_join_element_wise(
        pc.if_else(pa.array(fits), field["date"], "1970-01-01"),
        _filled(field["clock"], "00:00"),
        "T",
    )
    seconds, valid = _seconds(moment)
    offset = 3600 * _integers(_filled(field["hours"], "0"))
    offset += 60 * _integers(_filled(field["minutes"], "0"))
    west = pc.equal(field["sign"], "-").to_numpy(zero_copy_only=False)
    seconds += np.where(west, offset, -offset)
    rest = _integers(pc.utf8_slice_codeunits(pc.utf8_rpad(field["fraction"], 9, "0"), 0, 9))
    return seconds * ticks + rest // (UNITS["ns"] // ticks), fits & valid


def _filled(text: pa.Array, default: str) -> pa.Array:
    return pc.if_else(pc.equal(text, ""), default, text)


def _integers(text: pa.Array) -> np.ndarray:
    return text.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _seconds(moment: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Casts text to seconds; one by one where a row is no time, such as 30 February."""
    try:
        return _integers(moment.cast(pa.timestamp("s"))) + 0, np.ones(len(moment), bool)
    except pa.ArrowInvalid:
        if len(moment) == 1:
            return np.zeros(1, np.int64), np.zeros(1, bool)
    middle = len(moment) // 2
    halves = [_seconds(part) for part in (moment[:middle], moment[middle:])]
    seconds, valid = (np.concatenate(parts) for parts in zip(*halves))
    return seconds, valid
