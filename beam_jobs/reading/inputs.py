"""Finds the files of a log, splits them into chunks of work, and reads these in blocks of rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs.reading.contents import COMPRESSED, TYPED, UTF8_MARK, decompressed, kind_of, reading
from beam_jobs.reading.formats import Format
from beam_jobs.reading.layout import HEAD_BYTES, Layout, layout_of, partitions
from beam_jobs.reading.records import avro_blocks, avro_names, split_json
from beam_jobs.reading.text import Block, split_block
from beam_jobs.reading.typed import cell_text, column_names, nested_column, plain_column
from beam_jobs.shared.errors import InputError

CHUNK_BYTES = 64 << 20
_MOST_ROWS = 1 << 20
_UNPACKED = {"gzip": 4, "zstd": 4, "bz2": 5, "xz": 6, "parquet": 3, "avro": 3}
"""Approximate bytes of plain text per byte of a file, by its kind; 1 for other kinds."""


@dataclass(frozen=True)
class InputFile:
    """A file or table of the log.

    Attributes:
        path: str. Path of the file, or name of the table.
        size: int. Bytes; 0 for a table.
        kind: str. As :func:`beam_jobs.reading.contents.kind_of` tells it, or ``bigquery``.
    """

    path: str
    size: int
    kind: str


@dataclass(frozen=True)
class Chunk:
    """A part of a file that one worker reads at once.

    Attributes:
        number: int. Index among all chunks, in the order of the log.
        file: int. Index of the file in the sorted list of files.
        path: str.
        kind: str. Of the file, as in :class:`InputFile`.
        start, stop: int. Bytes of a text file, or row groups of a parquet file; 0, 0: all of it.
        fields: tuple of (column name, its position in a row (int), or its name in a record (str)).
        width: int. Columns of a row of text.
        delimiter: str. Between the values of a row of text.
        multiline: bool. Whether rows of text may span lines.
        constants: tuple of (column name, text or None). Values that the file's folder gives.
    """

    number: int
    file: int
    path: str
    kind: str
    start: int
    stop: int
    fields: tuple[tuple[str, Any], ...]
    width: int
    delimiter: str = ","
    multiline: bool = False
    constants: tuple[tuple[str, str | None], ...] = ()


def find_files(patterns: Sequence[str], form: Format, option: str = "input") -> list[InputFile]:
    """Finds the files that match, sorted by path, without empty ones.

    Args:
        patterns: sequence of str. Files, folders, or patterns of these.
        form: Format.
        option: str. The option that messages name.

    Raises:
        InputError: a pattern matches nothing, all files are empty, or one is of another format.
    """
    sizes = _file_sizes(patterns, option)
    if not any(sizes.values()):
        raise InputError(f"{min(sizes)} is empty (0 bytes)")
    name = "format" if option == "input" else f"{option}_format"
    files = []
    for path, size in sorted(sizes.items()):
        if size:
            with reading(path), _open(path) as file:
                files.append(InputFile(path, size, kind_of(file, path, form.kind, name)))
    return files


def find_paths(patterns: Sequence[str], option: str) -> list[str]:
    """Finds the paths that match, sorted.

    Raises:
        InputError: a pattern matches nothing.
    """
    return sorted(_file_sizes(patterns, option))


def _file_sizes(patterns: Sequence[str], option: str) -> dict[str, int]:
    """Returns the bytes of the files that match, by path; of folders, of all files below."""
    sizes: dict[str, int] = {}
    for pattern in patterns:
        if os.path.isfile(pattern):  # taken literally, even with brackets in its name
            sizes[pattern] = os.path.getsize(pattern)
            continue
        if os.path.isdir(pattern):
            matches = _walk(pattern)
        else:
            below = f"{pattern.rstrip('/')}/**"
            matches = _match(pattern, pattern, option) or _match(below, pattern, option)
        if not matches:
            raise InputError(
                f"--{option} {pattern!r}: no such file. Names that start with _ or . are passed "
                "over unless they are given in full"
            )
        sizes.update(matches)
    return sizes


def _walk(folder: str) -> dict[str, int]:
    """Returns the bytes of the files below a local folder, by path."""
    paths = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)
    return {
        path: os.path.getsize(path)
        for path in paths
        if os.path.isfile(path) and not _is_hidden(os.path.relpath(path, folder))
    }


def _match(pattern: str, given: str, option: str) -> dict[str, int]:
    """Returns the bytes of the files that match a pattern, by path."""
    try:
        (match,) = FileSystems.match([pattern])
    except (BeamIOError, ValueError, OSError) as error:
        raise InputError(f"--{option} {given!r} cannot be read: {error}") from error
    literal = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    return {
        entry.path: entry.size_in_bytes
        for entry in match.metadata_list
        if entry.path == given or not _is_hidden(entry.path.removeprefix(literal))
    }


def _is_hidden(path: str) -> bool:
    """Returns whether a name in the path is by convention not data: ``_SUCCESS``, ``.part.crc``."""
    names = [name for name in path.split("/") if name.strip(".")]
    return any(name[0] == "." or (name[0] == "_" and "=" not in name) for name in names)


def text_size(files: Sequence[InputFile]) -> int:
    """Estimates the bytes of the log as plain text."""
    return sum(file.size * _UNPACKED.get(file.kind, 1) for file in files)


def plan(
    files: Sequence[InputFile], form: Format, chunk_bytes: int, after: Sequence[Chunk] = ()
) -> list[Chunk]:
    """Splits the files into chunks after reading their headers; numbers continue from ``after``.

    Raises:
        InputError: columns are missing, or a file is not of the format.
    """
    chunks: list[Chunk] = []
    files_before = max((chunk.file + 1 for chunk in after), default=0)
    layouts = [read_layout(file, form) for file in files]
    multiline = any(layout.multiline for layout in layouts)
    every = dict.fromkeys(name for layout in layouts for name in layout.names or ())
    for index, (file, layout) in enumerate(zip(files, layouts)):
        if layout.names is None:
            continue  # no row
        names = list(layout.names)
        if form.kind == "jsonl":  # records may leave a key out
            for accepted in form.columns.values():
                if not set(accepted) & set(names):
                    names += [name for name in accepted if name in every][:1]
        fields, constants = _locate(names, file, form)
        if form.kind in (*TYPED, "jsonl"):
            fields = {name: names[position] for name, position in fields.items()}
        with reading(file.path, file.kind):
            for start, stop in _parts(file, form, fields, multiline, chunk_bytes):
                chunk = Chunk(
                    len(after) + len(chunks),
                    files_before + index,
                    file.path,
                    file.kind,
                    start,
                    stop,
                    tuple(fields.items()),
                    len(names),
                    layout.delimiter,
                    multiline,
                    tuple(constants.items()),
                )
                chunks.append(chunk)
    return chunks


def read_layout(file: InputFile, form: Format) -> Layout:
    """Finds the columns of a file, and how text is laid out.

    Raises:
        InputError: the file is damaged, or no text that the format reads.
    """
    with reading(file.path, file.kind), _open_text(file.path, file.kind) as content:
        if file.kind == "parquet":
            return Layout(tuple(column_names(pq.ParquetFile(content).schema_arrow)))
        if file.kind == "avro":
            return Layout(tuple(avro_names(content)))
        return layout_of(content.read(HEAD_BYTES), file.path, form)


def _locate(
    names: Sequence[str], file: InputFile, form: Format
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Returns the positions of columns among ``names``, and the values of those that the file's
    folder gives."""
    folder = partitions(file.path)
    every = [*names, *(name for name in folder if name not in names)]
    positions = form.find(every, file.path)
    constants = {
        name: folder[every[position]]
        for name, position in positions.items()
        if position >= len(names)
    }
    fields = {name: position for name, position in positions.items() if name not in constants}
    return fields, constants


def _parts(
    file: InputFile, form: Format, fields: Mapping[str, Any], multiline: bool, chunk_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yields start and stop of the chunks of a file."""
    if file.kind == "parquet":
        yield from _row_groups(file, form, fields, chunk_bytes)
    elif multiline or file.kind in COMPRESSED or file.kind == "avro":
        yield 0, 0
    else:
        for start in range(0, file.size, chunk_bytes):
            yield start, min(start + chunk_bytes, file.size)


def blocks(chunk: Chunk, form: Format, chunk_bytes: int) -> Iterator[Block]:
    """Reads the rows of a chunk, a bounded block at a time; lines count from the chunk's first.

    Raises:
        InputError: the file is damaged.
    """
    with reading(chunk.path, chunk.kind):
        for block in _blocks(chunk, form, chunk_bytes):
            for name, value in chunk.constants:
                column = pa.nulls(len(block.line)) if value is None else value.encode()
                if isinstance(column, bytes):
                    column = pa.repeat(column, len(block.line))
                block.columns[name] = column
            yield block


def _blocks(chunk: Chunk, form: Format, chunk_bytes: int) -> Iterator[Block]:
    if chunk.kind == "parquet":
        yield from _parquet_blocks(chunk, min(max(chunk_bytes >> 6, 1), _MOST_ROWS))
    elif chunk.kind == "avro":
        with _open(chunk.path) as raw:
            yield from avro_blocks(raw, dict(chunk.fields))
    else:
        yield from _rows_of_text(chunk, form, chunk_bytes)


def _rows_of_text(chunk: Chunk, form: Format, chunk_bytes: int) -> Iterator[Block]:
    line, rest = 1, b""
    for data, last in _text_blocks(chunk, chunk_bytes):
        skipped = 0
        if line == 1 and not rest and chunk.start == 0:
            data = data.removeprefix(UTF8_MARK)
            if form.header:
                data, skipped = data.partition(b"\n")[2], 1
        if form.kind == "jsonl":
            block = split_json(data, dict(chunk.fields), line, form)
        else:
            block, rest = split_block(
                rest + data,
                dict(chunk.fields),
                chunk.width,
                line + skipped,
                form.kind == "csv",
                chunk.delimiter,
                chunk.multiline,
                last,
            )
        line += skipped + block.lines
        yield Block(block.columns, block.line, block.rejected, skipped + block.lines, block.text_of)


def _open(path: str):
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@contextmanager
def _open_text(path: str, kind: str):
    with _open(path) as raw, decompressed(raw, kind) as file:
        yield file


def _text_blocks(chunk: Chunk, chunk_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Yields the lines of a chunk, a block at a time, and whether the file ends with the block."""
    with _open_text(chunk.path, chunk.kind) as file:
        if not chunk.stop:
            rest = b""
            while data := file.read(chunk_bytes):
                whole, end, after = (rest + data).rpartition(b"\n")
                rest = after
                if end:
                    yield whole + end, False
            yield rest, True
            return
        # a line belongs to the chunk that holds its first byte
        skip = 0
        if chunk.start:
            file.seek(chunk.start - 1)
            skip = len(_read_to_line_end(file)) - 1
        size = chunk.stop - chunk.start - skip
        if size <= 0:
            return
        file.seek(chunk.start + skip)
        data = file.read(size)
        if not data.endswith(b"\n"):
            data += _read_to_line_end(file)
        yield data, False


def _read_to_line_end(file) -> bytes:
    """Reads up to and including the next line end."""
    parts = []
    while piece := file.read(1 << 12):
        head, end, _ = piece.partition(b"\n")
        parts.append(head + end)
        if end:
            break
    return b"".join(parts)


def _row_groups(
    file: InputFile, form: Format, fields: Mapping[str, str], chunk_bytes: int
) -> Iterator[tuple[int, int]]:
    with _open(file.path) as raw:
        table = pq.ParquetFile(raw)
        for name, column in fields.items():
            kind = nested_column(table.schema_arrow.empty_table(), column).type
            _check_type(kind, column, name, file.path, form)
        start, size = 0, 0
        groups = table.metadata.num_row_groups
        for group in range(groups):
            size += table.metadata.row_group(group).total_byte_size
            if size >= chunk_bytes or group == groups - 1:
                yield start, group + 1
                start, size = group + 1, 0


def _check_type(kind: pa.DataType, column: str, name: str, path: str, form: Format) -> None:
    """Checks that a column can hold what the format takes it for.

    Raises:
        InputError: it cannot.
    """
    plain, needed = plain_column(pa.nulls(0, kind)).type, "integers or text are needed"
    if name in form.multi_hot:
        needed = "lists of integers, or text with | between them, are needed"
        plain = plain.value_type if pa.types.is_list(plain) else plain
    tests = [pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null]
    tests += [pa.types.is_string, pa.types.is_binary]
    if name == "time":
        needed = "integers, dates, timestamps or text are needed"
        tests += [pa.types.is_timestamp, pa.types.is_date]
    if name in form.numeric or name == "weight":
        needed = "numbers or text are needed"
    if name in ("label", "user", "behavior", "request"):
        tests.append(pa.types.is_boolean)
    if not any(test(plain) for test in tests):
        raise InputError(f"{path}: column {column!r} ({name}) has type {kind}; {needed}")


def _parquet_blocks(chunk: Chunk, rows: int) -> Iterator[Block]:
    with _open(chunk.path) as raw:
        table = pq.ParquetFile(raw)
        wanted = dict(chunk.fields)
        line = 1
        groups = list(range(chunk.start, chunk.stop))
        columns = list(dict.fromkeys(wanted.values()))
        for batch in table.iter_batches(rows, row_groups=groups, columns=columns):
            values = {
                name: plain_column(nested_column(batch, column)) for name, column in wanted.items()
            }
            size = batch.num_rows

            def text_of(row, values=values):
                return ",".join(cell_text(column[row]) for column in values.values())

            yield Block(values, np.arange(line, line + size), [], size, text_of)
            line += size
