"""Files on any file system that Beam knows, written atomically; conversions to Arrow columns."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

UNFINISHED = ".unfinished-"


def is_local(path: str) -> bool:
    """Returns whether the path is on the local file system."""
    return FileSystems.get_scheme(path) is None


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Opens a file for writing that appears as ``path`` only when it is complete.

    It is written under another name and then renamed, so that retries do no harm.
    """
    if is_local(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}{UNFINISHED}{uuid.uuid4().hex[:12]}"
    file = FileSystems.create(
        unfinished,
        mime_type="application/octet-stream",
        compression_type=CompressionTypes.UNCOMPRESSED,
    )
    try:
        with file:
            yield file
        FileSystems.rename([unfinished], [path])
    except BaseException:
        if FileSystems.exists(unfinished):
            FileSystems.delete([unfinished])
        raise


def write_file(path: str, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Writes bytes, or what ``content(file)`` writes."""
    with new_file(path) as file:
        content(file) if callable(content) else file.write(content)


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading, without decompressing it."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_file(path: str) -> bytes:
    """Reads the bytes of a file."""
    with open_file(path) as file:
        return file.read()


def to_arrow(column: np.ndarray) -> pa.Array:
    """Converts a column ``[E]`` to an Arrow array, ``[E, V]`` to one of lists of V values."""
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Converts a column that :func:`to_arrow` made back to numpy."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.int64), *parts]).reshape(-1, column.type.list_size)
