"""Text logs: bytes split into columns of raw values, each row with its exact line.

A line is a row, and values in quotes may hold delimiters. In a file that is read as multiline,
values in quotes may hold line ends, too. Lines with quotes or stray carriage returns are split one
by one, all others by the columnar parser.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from beam_jobs.reading.rows import Rejected

NEWLINE = 10
MOST_LINES = 1000
"""Lines that a row of text has at most."""
UNCLOSED = "not a csv row: unexpected end of data"
"""Reason of a line within which quotes are not closed, in the words of the csv module."""


@dataclass(frozen=True)
class Block:
    """Rows of a block of a file.

    Attributes:
        columns: mapping of column name to raw values.
        line: int64. Line of every row.
        rejected: list of Rejected. Rows that could not be split.
        lines: int. Lines of the block.
        text_of: callable. The text of row ``i`` of the columns.
    """

    columns: dict[str, pa.Array]
    line: np.ndarray
    rejected: list[Rejected]
    lines: int
    text_of: Callable[[int], str]


def split_block(
    data: bytes,
    positions: Mapping[str, int],
    width: int,
    first_line: int,
    quoted: bool,
    delimiter: str = ",",
    multiline: bool = False,
    last: bool = True,
) -> tuple[Block, bytes]:
    """Splits whole lines into columns.

    Args:
        data: bytes. Whole lines; the last one may lack its line end.
        positions: mapping of column name to its position in a row.
        width: int. Columns that a row must have.
        first_line: int. Line of the first row, from 1.
        quoted: bool. Whether quotes enclose values (csv) or are ordinary bytes.
        delimiter: str. Between values.
        multiline: bool. Whether values in quotes may hold line ends.
        last: bool. Whether the file ends with these lines.

    Returns:
        The block, and the lines of a row that continues after ``data``: they are not in the block.
    """
    if b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    lines = len(ends) + (not data.endswith(b"\n") and len(data) > 0)
    starts = np.concatenate([[0], ends + 1])[:lines]
    stops = np.concatenate([ends, [len(data)]])[:lines]

    def text_of(first: int, after: int) -> bytes:
        return data[starts[first] : stops[after - 1]]

    special = _lines_with(data, b"\r", ends)
    if quoted:
        special = np.union1d(special, _lines_with(data, b'"', ends))
    if not is_utf8(data):  # the columnar parser cannot pass such rows to its handler
        wide = np.flatnonzero(np.frombuffer(data, np.uint8) >= 128)
        special = np.union1d(special, np.searchsorted(ends, wide))
    rows: list[tuple[int, list[bytes]]] = []  # line and values of the special rows
    rejected, after = [], 0
    plain, spans = np.ones(lines, bool), {}
    for number in special.tolist():
        if number < after:
            continue  # within the row above
        after = number + 1
        fields, reason = _split_line(text_of(number, after), width, quoted, delimiter)
        if reason == UNCLOSED and multiline:
            end = _row_end(data, starts, stops, number)
            if end is None and not last:
                lines = number
                break
            joined, _ = _split_line(text_of(number, end or after), width, quoted, delimiter)
            if end and joined:
                fields, reason, after = joined, None, end
        plain[number:after], spans[number] = False, after
        if reason:
            text = text_of(number, after).decode("utf-8", "replace")
            rejected.append(Rejected(number + first_line, reason, text))
        else:
            rows.append((number, fields))
    rest = data[starts[lines] :] if lines < len(starts) else b""
    plain = plain[:lines]
    index, simple = np.arange(lines), data[: len(data) - len(rest)]
    if not plain.all():
        simple = b"".join(simple[a:b] for a, b in _runs(plain, starts, stops, len(simple)))
        index = index[plain]
    columns, bad = _parse(simple, positions, width, delimiter)
    rejected += [
        Rejected(int(index[row]) + first_line, f"{count} columns instead of {width}", text)
        for row, count, text in bad
    ]
    if bad:
        index = np.delete(index, [row for row, _, _ in bad])
    if rows:
        index = np.concatenate([index, np.array([number for number, _ in rows], index.dtype)])
        order = np.argsort(index, kind="stable")
        index = index[order]
        for name, position in positions.items():
            extra = pa.array([fields[position] for _, fields in rows], pa.binary())
            columns[name] = pa.concat_arrays([columns[name], extra]).take(pa.array(order))

    def row_text(row: int) -> str:
        line = int(index[row])
        return text_of(line, spans.get(line, line + 1)).decode("utf-8", "replace")

    return Block(columns, index.astype(np.int64) + first_line, rejected, lines, row_text), rest


def _row_end(data: bytes, starts: np.ndarray, stops: np.ndarray, first: int) -> int | None:
    """Returns the line after a row that begins at line ``first``, its quotes being closed.

    It is None where they are not closed before the data end, ``first`` + 1 where not within
    ``MOST_LINES``.
    """
    quotes, after = 0, first
    while after < min(len(starts), first + MOST_LINES):
        quotes += data.count(b'"', starts[after], stops[after])
        after += 1
        if quotes % 2 == 0:
            return after
    return first + 1 if after == first + MOST_LINES else None


def _parse(data: bytes, positions: Mapping[str, int], width: int, delimiter: str):
    """Returns the columns, and (row, number of columns, text) of rows of another width."""
    bad: list[tuple[int, int, str]] = []

    def skip(row):
        bad.append((row.number - 1, row.actual_columns, row.text))
        return "skip"

    names = [str(position) for position in range(width)]
    wanted = {name: str(position) for name, position in positions.items()}
    if not data:
        return {name: pa.array([], pa.binary()) for name in positions}, bad
    table = pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=names
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter,
            quote_char=False,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.binary() for name in wanted.values()},
            include_columns=list(dict.fromkeys(wanted.values())),
            strings_can_be_null=False,
        ),
    )
    return {name: _as_array(table.column(column)) for name, column in wanted.items()}, bad


def _as_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _split_line(
    line: bytes, width: int, quoted: bool, delimiter: str
) -> tuple[list[bytes], str | None]:
    """Returns the values of a row, or the reason why it has none."""
    if not quoted:
        fields = line.rstrip(b"\r").split(delimiter.encode())
    else:
        try:
            # latin-1 keeps every byte as it is; the user is checked to be UTF-8 later
            text = line.decode("latin-1")
            (row,) = csv.reader([text], strict=True, delimiter=delimiter)
        except (csv.Error, ValueError) as error:
            return [], f"not a csv row: {error}"
        fields = [field.encode("latin-1") for field in row]
    if len(fields) != width:
        return [], f"{len(fields)} columns instead of {width}"
    return fields, None


def is_utf8(data: bytes) -> bool:
    """Returns whether the bytes are UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines_with(data: bytes, mark: bytes, ends: np.ndarray) -> np.ndarray:
    if mark not in data:
        return np.zeros(0, np.int64)
    offsets = np.flatnonzero(np.frombuffer(data, np.uint8) == mark[0])
    return np.unique(np.searchsorted(ends, offsets))


def _runs(plain, starts, stops, size):
    """Yields the byte range of every run of plain lines, line ends included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], plain.astype(np.int8), [0]])))
    for first, after in edges.reshape(-1, 2).tolist():
        yield int(starts[first]), min(int(stops[after - 1]) + 1, size)
