"""JSON lines and Avro: records split into columns of raw values, each row with its number.

A block of JSON lines whose values all have the expected types is split by Arrow's columnar parser;
otherwise its lines are parsed one by one, and the values are checked as text.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from beam_jobs.reading.formats import Format
from beam_jobs.reading.rows import Rejected
from beam_jobs.reading.text import NEWLINE, Block, is_utf8
from beam_jobs.reading.typed import nested_column
from beam_jobs.reading.values import EXACT

AVRO_ROWS = 1 << 16


def field_names(head: bytes) -> list[str]:
    """Returns the field names in lines of JSON, in the order of their first occurrence."""
    names: dict[str, None] = {}
    for line in head.split(b"\n"):
        record, _ = _parse_line(line)
        names.update(dict.fromkeys(record_names(record or {})))
    return list(names)


def record_names(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of a record's fields; field ``b`` of a record ``a`` is ``a.b``."""
    for name, value in record.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in record_names(value))


def split_json(data: bytes, fields: Mapping[str, str], first_line: int, form: Format) -> Block:
    """Splits whole lines of JSON into columns.

    Args:
        data: bytes. Whole lines; the last one may lack its line end.
        fields: mapping of column name to the name in a record.
        first_line: int. Line of the first row, from 1.
        form: Format. Says which columns hold several values, and which hold numbers.
    """
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    lines = len(ends) + (not data.endswith(b"\n") and len(data) > 0)
    starts = np.concatenate([[0], ends + 1])[:lines]
    stops = np.concatenate([ends, [len(data)]])[:lines]

    def text_of(row: int) -> str:
        return data[starts[row] : stops[row]].decode("utf-8", "replace")

    every = np.arange(first_line, first_line + lines)
    if columns := _parse_typed(data, fields, form, lines):
        return Block(columns, every, [], lines, text_of)
    records, rows, rejected = [], [], []
    for row in range(lines):
        record, reason = _parse_line(data[starts[row] : stops[row]])
        if reason:
            rejected.append(Rejected(row + first_line, reason, text_of(row)))
        elif record is not None:
            records.append(record)
            rows.append(row)
    return Block(
        as_text(records, fields),
        every[rows],
        rejected,
        lines,
        lambda row: text_of(rows[row]),
    )


def avro_names(file: BinaryIO) -> list[str]:
    """Returns the names of the fields of an Avro file.

    Raises:
        ValueError: it is not an Avro file.
    """
    import fastavro

    return list(_schema_names(fastavro.reader(file).writer_schema))


def _schema_names(schema: Any) -> Iterator[str]:
    for part in schema if isinstance(schema, list) else [schema]:
        for field in part.get("fields", ()) if isinstance(part, dict) else ():
            yield field["name"]
            yield from (f"{field['name']}.{inner}" for inner in _schema_names(field["type"]))


def avro_blocks(file: BinaryIO, fields: Mapping[str, str]) -> Iterator[Block]:
    """Reads an Avro file, a bounded block at a time; a line is a record's number, from 1.

    Raises:
        ValueError: the file is damaged.
    """
    import fastavro

    line = 1
    records: list[Any] = []

    def block() -> Block:
        held = list(records)
        return Block(
            as_text(held, fields),
            np.arange(line, line + len(held)),
            [],
            len(held),
            lambda row: json.dumps(held[row], default=str, ensure_ascii=False),
        )

    reader = fastavro.reader(file)
    try:
        while True:
            records.extend(itertools.islice(reader, AVRO_ROWS))
            if not records:
                return
            yield block()
            line += len(records)
            records.clear()
    except EOFError as error:
        raise ValueError("its data end too early") from error


def _parse_line(line: bytes) -> tuple[dict | None, str | None]:
    """Returns the record of a line, or the reason why it has none; neither for a blank line."""
    try:
        text = line.decode()
        if not text.strip():
            return None, None
        record = json.loads(text)
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except ValueError as error:
        return None, f"not JSON: {error}"
    except RecursionError:
        return None, "not JSON: too deep"
    if not isinstance(record, dict):
        return None, "not a JSON object"
    return record, None


def _parse_typed(data: bytes, fields, form: Format, lines: int) -> dict[str, pa.Array] | None:
    """Splits with the columnar parser; None where lines must be parsed one by one."""
    first, _ = _parse_line(data[: data.find(b"\n") + 1 or len(data)])
    if first is None or not is_utf8(data):
        return None
    kinds: dict[str, Any] = {}
    for name, field in fields.items():
        kind = {str: pa.string(), bool: pa.bool_()}.get(type(_value(first, field)), pa.int64())
        if name in form.multi_hot:
            kind = pa.list_(pa.string() if name in form.text_ids else pa.int64())
        elif name in form.numeric or name == "weight":
            kind = pa.float64()
        if "." in field:
            root, _, rest = field.partition(".")
            if field in first or "." in rest or root in fields.values():
                return None
            kinds.setdefault(root, []).append((rest, kind))
        else:
            kinds[field] = kind
    kinds = {
        name: pa.struct(kind) if isinstance(kind, list) else kind for name, kind in kinds.items()
    }
    try:
        table = pa_json.read_json(
            pa.BufferReader(data),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa_json.ParseOptions(
                explicit_schema=pa.schema(kinds.items()), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != lines:  # blank lines, or several objects in one
        return None
    return {name: nested_column(table, field) for name, field in fields.items()}


def as_text(records: Sequence[Mapping[str, Any]], fields: Mapping[str, str]) -> dict[str, pa.Array]:
    """Splits records into columns, each value as a csv file would have it."""
    return {
        name: pa.array([_text(_value(record, field)) for record in records], pa.binary())
        for name, field in fields.items()
    }


def _value(record: Any, field: str) -> Any:
    """Returns the value of a field by a name of :func:`record_names`; None where there is none."""
    if not isinstance(record, Mapping):
        return None
    if field in record or "." not in field:
        return record.get(field)
    root, _, rest = field.partition(".")
    while root not in record and "." in rest:  # itself with a dot
        more, _, rest = rest.partition(".")
        root = f"{root}.{more}"
    return _value(record.get(root), rest)


def _text(value: Any) -> bytes:
    """Returns a value as a csv file would have it."""
    if value is None:
        return b""
    if isinstance(value, (list, tuple)):
        return b"|".join(_text(part) for part in value)
    if isinstance(value, datetime.date):  # or a datetime
        return value.isoformat().encode()
    if isinstance(value, float):
        if value != value:
            return b""
        value = int(value) if value.is_integer() and abs(value) < EXACT else value
    if isinstance(value, decimal.Decimal):
        value = int(value) if value == value.to_integral_value() else format(value, "f")
    if isinstance(value, (bool, dict)):
        value = json.dumps(value)
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
