"""Columns of numpy, some with several values a row, to Arrow and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_arrow(column: np.ndarray) -> pa.Array:
    """``[E]`` as it is, ``[E, V]`` as lists of V values."""
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Inverse of :func:`to_arrow`."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.int64), *parts]).reshape(-1, column.type.list_size)
