"""Given vectors: a Parquet file of raw ids and vectors -> vectors of the rows of a vocabulary."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.reading.typed import plain_column
from beam_jobs.reading.values import as_bytes
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.hashing import text_codes
from beam_jobs.shared.storage import open_file
from beam_jobs.shared.vocabulary_file import Vocabulary
from beam_jobs.vocabulary.catalog import Hashed
from tfdare.schema import FIRST_ID

VECTOR = "vector"
_ID = "id"


def check_given(path: str, name: str, text_ids: bool = False) -> None:
    """Checks that a file can be read and has the columns needed.

    Args:
        path: str. A Parquet file, as for :func:`read_given`.
        name: str. The feature.
        text_ids: bool. Whether its ids are text.

    Raises:
        InputError: it cannot, or it lacks one of them.
    """
    with _parquet(path) as file:
        _id_column(path, name, file.schema_arrow, text_ids)


def read_given(
    path: str, name: str, text_ids: bool = False, hashed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Reads ids and vectors.

    Args:
        path: str. A Parquet file with a column of ids, named like the feature or ``id``, and a
            column ``vector`` of lists of numbers.
        name: str. The feature.
        text_ids: bool. Whether its ids are text.
        hashed: bool. Whether they are hashed to rows.

    Returns:
        int64 ``[N]`` raw ids (of text their codes) and float32 ``[N, D]`` vectors.

    Raises:
        InputError: an id is missing or comes twice, or a vector has another length than the first,
            a number that is not finite, or no length; the message names the row, from 1.
    """
    with _parquet(path) as file:
        column = _id_column(path, name, file.schema_arrow, text_ids)
        table = file.read(columns=[column, VECTOR])
    if not table.num_rows:
        raise InputError(f"{path!r} has no rows")
    ids = table[column].combine_chunks()
    _check_row(path, ids.is_null().to_numpy(zero_copy_only=False), f"{column} is empty", ids)
    if text_ids:
        raw = text_codes(as_bytes(plain_column(ids)), hashed)
    else:
        raw = ids.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return raw, _vectors(path, table[VECTOR].combine_chunks(), ids, raw, column)


def _vectors(path: str, lists: pa.Array, ids: pa.Array, raw: np.ndarray, column: str) -> np.ndarray:
    _check_row(path, lists.is_null().to_numpy(zero_copy_only=False), "vector is empty", lists)
    if pa.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    length = np.diff(lists.offsets.to_numpy(zero_copy_only=False))
    width = int(length[0])
    if not width:
        raise InputError(f"{path!r}, row 1: vector has no numbers. Received: []")
    _check_row(path, length != width, f"vector must have {width} numbers, as the first", lists)
    numbers = lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    numbers = numbers.reshape(-1, width)
    bad = ~(np.isfinite(numbers).all(axis=1) & (np.abs(numbers) < 1e18).all(axis=1))
    _check_row(path, bad, "vector has a number that is missing, not finite or too large", lists)
    order = np.argsort(raw, kind="stable")
    repeated = np.zeros(len(raw), bool)
    repeated[order[1:][raw[order][1:] == raw[order][:-1]]] = True
    _check_row(path, repeated, f"{column} comes twice", ids)
    return numbers.astype(np.float32)


def vectors_of_rows(
    raw: np.ndarray, vectors: np.ndarray, ids: Vocabulary | Hashed
) -> tuple[np.ndarray, int]:
    """Arranges given vectors by row; ids that share a row have their mean.

    Args:
        raw: int64 ``[N]``. Raw ids.
        vectors: float32 ``[N, D]``.
        ids: Vocabulary or Hashed. Of the feature.

    Returns:
        float32 ``[V, D]``, zero where there is none, and the number of ids that have a row.
    """
    size = (ids.buckets if isinstance(ids, Hashed) else len(ids)) + FIRST_ID
    rows = ids.rows(raw)
    known = rows >= FIRST_ID
    total = np.zeros((size, vectors.shape[1]))
    order = np.flatnonzero(known)[np.argsort(raw[known], kind="stable")]
    np.add.at(total, rows[order], vectors[order])
    count = np.bincount(rows[known], minlength=size)
    return (total / np.maximum(count, 1)[:, None]).astype(np.float32), int(known.sum())


@contextlib.contextmanager
def _parquet(path: str):
    try:
        with open_file(path) as source:
            yield pq.ParquetFile(source)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"Vectors {path!r} cannot be read as Parquet: {error}") from error


def _id_column(path: str, name: str, schema: pa.Schema, text_ids: bool) -> str:
    column = name if name in schema.names else _ID
    if column not in schema.names or VECTOR not in schema.names:
        raise InputError(
            f"Vectors {path!r} must have columns {name!r} or {_ID!r}, and {VECTOR!r}. "
            f"Received: {', '.join(schema.names)}"
        )
    kind = plain_column(pa.nulls(0, schema.field(column).type)).type
    text = pa.types.is_string(kind) or pa.types.is_binary(kind)
    if not (pa.types.is_integer(kind) or (text_ids and text)):
        wanted = "text or integers" if text_ids else "integers"
        raise InputError(
            f"Vectors {path!r}: column {column!r} must be of {wanted}. Received: {kind}"
        )
    kind = schema.field(VECTOR).type
    lists = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not lists or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise InputError(
            f"Vectors {path!r}: column {VECTOR!r} must be of lists of numbers. Received: {kind}"
        )
    return column


def _check_row(path: str, bad: np.ndarray, reason: str, values: pa.Array) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{path!r}, row {row + 1}: {reason}. Received: {values[row].as_py()}")
