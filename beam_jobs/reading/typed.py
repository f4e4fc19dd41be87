"""Typed columns: fields of structs as columns, and all encodings of a type as its plain one."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc


def column_names(schema: pa.Schema | pa.StructType, start: str = "") -> Iterator[str]:
    """Yields the names of columns; field ``b`` of a struct ``a`` is the column ``a.b``."""
    for field in schema:
        yield start + field.name
        if pa.types.is_struct(field.type):
            yield from column_names(field.type, f"{start}{field.name}.")


def nested_column(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    """Returns a column by a name of :func:`column_names`."""
    if name in table.schema.names:
        column = table.column(name)
    else:
        parts, count = name.split("."), 1
        while ".".join(parts[:count]) not in table.schema.names:  # itself with a dot
            count += 1
        column = pc.struct_field(table.column(".".join(parts[:count])), parts[count:])
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def plain_column(column: pa.Array) -> pa.Array:
    """Converts a column to one of the plain types: without extension, dictionary, views or large
    offsets; a UUID to its text."""
    kind = column.type
    if isinstance(kind, getattr(pa, "UuidType", ())):  # from pyarrow 18 on
        return pa.array([value and str(value) for value in column.to_pylist()], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return plain_column(column.storage)
    if pa.types.is_dictionary(kind):
        return plain_column(column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(test(kind) for test in lists):
        return column.cast(pa.list_(plain_column(pa.nulls(0, kind.value_type)).type))
    return column


def cell_text(value: pa.Scalar) -> str:
    """Returns a value as a row of text would have it."""
    if not value.is_valid:
        return ""
    if pa.types.is_list(value.type):
        return "|".join(cell_text(part) for part in value.values)
    if pa.types.is_temporal(value.type):
        return value.cast(pa.string()).as_py()
    plain = value.as_py()
    return plain.decode("utf-8", "replace") if isinstance(plain, bytes) else str(plain)
