"""Finds the files of a log, splits them into chunks of work, and reads these in blocks of rows."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs.reading.formats import Format, header_names, taobao_positions
from beam_jobs.reading.records import avro_blocks, avro_names, field_names, split_json
from beam_jobs.reading.text import Block, split_block
from beam_jobs.shared.errors import InputError

CHUNK_BYTES = 64 << 20
_GZIP, _BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
_MAGIC = {b"PAR1": "parquet", b"Obj\x01": "avro"}
_UNPACKED = {"gzip": 4, "parquet": 3, "avro": 3, "text": 1, "bigquery": 1}
"""Approximate bytes of plain text per byte of a file, by its kind."""


@dataclass(frozen=True)
class InputFile:
    """A file or table of the log.

    Attributes:
        path: str. Path of the file, or name of the table.
        size: int. Bytes; 0 for a table.
        kind: str. ``text``, ``gzip``, ``parquet``, ``avro`` or ``bigquery``.
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
        kind: str. ``text``, ``gzip``, ``parquet``, ``avro`` or ``bigquery``.
        start, stop: int. Bytes of a text file, or row groups of a parquet file.
        fields: tuple of (column name, its position in a row (int), or its name in a record (str)).
        width: int. Columns of a row of text.
    """

    number: int
    file: int
    path: str
    kind: str
    start: int
    stop: int
    fields: tuple[tuple[str, Any], ...]
    width: int


def find_files(patterns: Sequence[str], form: Format, option: str = "input") -> list[InputFile]:
    """Finds the files that match, sorted by path; `option` is the option that messages name.

    Raises:
        InputError: a pattern matches nothing, a path is a folder, or a file is empty or of another
            format.
    """
    sizes = _file_sizes(patterns, option)
    files = []
    for path in sorted(sizes):
        if sizes[path] == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        with reading(path), _open(path) as file:
            magic = file.read(4)
        kind = "gzip" if magic.startswith(_GZIP) else "text"
        if form.kind in _MAGIC.values():
            kind = form.kind
        elif path.endswith(".gz") and kind != "gzip":
            raise InputError(f"{path} is named .gz but holds no gzip data")
        elif magic in _MAGIC:
            article = "an" if _MAGIC[magic] == "avro" else "a"
            raise InputError(
                f"{path} is {article} {_MAGIC[magic]} file. Received: --format {form.kind}"
            )
        files.append(InputFile(path, sizes[path], kind))
    return files


def find_paths(patterns: Sequence[str], option: str) -> list[str]:
    """Finds the paths that match, sorted.

    Raises:
        InputError: a pattern matches nothing, or a path is a folder.
    """
    return sorted(_file_sizes(patterns, option))


def _file_sizes(patterns: Sequence[str], option: str) -> dict[str, int]:
    """Returns the bytes of the files that match, by path."""
    sizes: dict[str, int] = {}
    for pattern in patterns:
        if os.path.isfile(pattern):  # taken literally, even with brackets in its name
            sizes[pattern] = os.path.getsize(pattern)
            continue
        if os.path.isdir(pattern):
            raise InputError(f"--{option} {pattern!r} is a folder. Name its files: {pattern}/*")
        try:
            (match,) = FileSystems.match([pattern])
            matches = {entry.path: entry.size_in_bytes for entry in match.metadata_list}
        except (BeamIOError, ValueError, OSError) as error:
            raise InputError(f"--{option} {pattern!r} cannot be read: {error}") from error
        if not matches:
            raise InputError(f"--{option} {pattern!r}: no such file")
        sizes.update(matches)
    return sizes


def text_size(files: Sequence[InputFile]) -> int:
    """Estimates the bytes of the log as plain text."""
    return sum(file.size * _UNPACKED[file.kind] for file in files)


def plan(
    files: Sequence[InputFile], form: Format, chunk_bytes: int, after: Sequence[Chunk] = ()
) -> list[Chunk]:
    """Splits the files into chunks after reading their headers; numbers continue from ``after``.

    Raises:
        InputError: columns are missing, or a file is not of the format.
    """
    chunks: list[Chunk] = []
    files_before = max((chunk.file + 1 for chunk in after), default=0)

    def add(index, file, start, stop, fields, width):
        chunks.append(
            Chunk(
                len(after) + len(chunks),
                files_before + index,
                file.path,
                file.kind,
                start,
                stop,
                tuple(fields.items()),
                width,
            )
        )

    for index, file in enumerate(files):
        with reading(file.path):
            if file.kind == "parquet":
                for start, stop, positions in _row_groups(file, form, chunk_bytes):
                    add(index, file, start, stop, positions, 0)
                continue
            fields, width = _find_fields(file, form)
        if file.kind in ("gzip", "avro"):
            add(index, file, 0, 0, fields, width)
            continue
        for start in range(0, file.size, chunk_bytes):
            add(index, file, start, min(start + chunk_bytes, file.size), fields, width)
    return chunks


def blocks(chunk: Chunk, form: Format, chunk_bytes: int) -> Iterator[Block]:
    """Reads the rows of a chunk, a bounded block at a time; lines count from the chunk's first.

    Raises:
        InputError: the file is damaged.
    """
    with reading(chunk.path):
        if chunk.kind == "parquet":
            yield from _parquet_blocks(chunk, form)
            return
        if chunk.kind == "avro":
            with _open(chunk.path) as raw:
                yield from avro_blocks(raw, dict(chunk.fields))
            return
        line, first = 1, chunk.start == 0
        for data in _text_blocks(chunk, chunk_bytes):
            skipped = 0
            if first:
                data = data.removeprefix(_BOM)
                if form.header:
                    data, skipped = data.partition(b"\n")[2], 1
                first = False
            if form.kind == "jsonl":
                block = split_json(data, dict(chunk.fields), line, form)
            else:
                quoted = form.kind == "csv"
                block = split_block(data, dict(chunk.fields), chunk.width, line + skipped, quoted)
            line += skipped + block.lines
            yield Block(
                block.columns, block.line, block.rejected, skipped + block.lines, block.text_of
            )


@contextmanager
def reading(path: str):
    """Turns the errors that libraries raise for a damaged or unreadable file into InputError."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{path} is cut short: the gzip data ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged gzip data: {error}") from error
    except (pa.ArrowException, OSError, BeamIOError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _open(path: str):
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@contextmanager
def _open_text(path: str, kind: str):
    with _open(path) as raw:
        if kind == "gzip":
            with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                yield file
        else:
            yield raw


def _find_fields(file: InputFile, form: Format) -> tuple[Mapping[str, int | str], int]:
    """Returns each column's position in a row, or name in a record, and the columns of a row."""
    if form.kind in ("jsonl", "avro"):
        names = _record_names(file)
        positions = form.find(names, file.path)
        return {name: names[position] for name, position in positions.items()}, 0
    if not form.header:
        positions = taobao_positions()
        return positions, len(positions)
    with _open_text(file.path, file.kind) as text:
        line = text.read(1 << 20).removeprefix(_BOM).partition(b"\n")[0]
    names = header_names(line.decode("utf-8", "replace"))
    return form.find(names, file.path), len(names)


def _record_names(file: InputFile) -> list[str]:
    """Returns the field names of a file's records; of JSON, those in its first MiB."""
    if file.kind == "avro":
        with _open(file.path) as raw:
            return avro_names(raw)
    with _open_text(file.path, file.kind) as text:
        head = text.read(1 << 20).removeprefix(_BOM)
    return field_names(head[: head.rfind(b"\n") + 1] or head)


def _text_blocks(chunk: Chunk, chunk_bytes: int) -> Iterator[bytes]:
    with _open_text(chunk.path, chunk.kind) as file:
        if chunk.kind == "gzip":
            rest = b""
            while data := file.read(chunk_bytes):
                whole, end, after = (rest + data).rpartition(b"\n")
                rest = after
                if end:
                    yield whole + end
            if rest:
                yield rest
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
        yield data


def _read_to_line_end(file) -> bytes:
    """Reads up to and including the next line end."""
    parts = []
    while piece := file.read(1 << 12):
        head, end, _ = piece.partition(b"\n")
        parts.append(head + end)
        if end:
            break
    return b"".join(parts)


def _row_groups(file: InputFile, form: Format, chunk_bytes: int):
    with _open(file.path) as raw:
        table = pq.ParquetFile(raw)
        positions = form.find(table.schema_arrow.names, file.path)
        for name, position in positions.items():
            _check_type(table.schema_arrow.field(position), name, file.path, form)
        start, size = 0, 0
        groups = table.metadata.num_row_groups
        for group in range(groups):
            size += table.metadata.row_group(group).total_byte_size
            if size >= chunk_bytes or group == groups - 1:
                yield start, group + 1, positions
                start, size = group + 1, 0


def _check_type(field: pa.Field, name: str, path: str, form: Format) -> None:
    kind, needed = field.type, "integers or text are needed"
    if name in form.multi_hot:
        needed = "lists of integers, or text with | between them, are needed"
        kind = kind.value_type if _is_list(kind) else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = [pa.types.is_integer, pa.types.is_string, pa.types.is_large_string]
    if name not in ("user", "behavior"):
        tests.append(pa.types.is_floating)
    if name == "time":
        tests += [pa.types.is_timestamp, pa.types.is_date]
    if name in form.numeric:
        needed = "numbers or text are needed"
        tests.append(pa.types.is_decimal)
    if not any(test(kind) for test in tests):
        raise InputError(f"{path}: column {field.name!r} ({name}) has type {field.type}; {needed}")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _parquet_blocks(chunk: Chunk, form: Format) -> Iterator[Block]:
    with _open(chunk.path) as raw:
        table = pq.ParquetFile(raw)
        names = table.schema_arrow.names
        wanted = {name: names[position] for name, position in chunk.fields}
        line = 1
        groups = list(range(chunk.start, chunk.stop))
        columns = list(dict.fromkeys(wanted.values()))
        for batch in table.iter_batches(1 << 20, row_groups=groups, columns=columns):
            values = {
                name: _plain(batch.column(batch.schema.get_field_index(column)))
                for name, column in wanted.items()
            }
            size = batch.num_rows

            def text_of(row, values=values):
                cells = [column[row].as_py() for column in values.values()]
                return ",".join("" if cell is None else str(cell) for cell in cells)

            yield Block(values, np.arange(line, line + size), [], size, text_of)
            line += size


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_list(column.type):
        values = _plain(column.flatten())
        return column.cast(pa.list_(values.type))
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column
