"""Hashes that are the same in every process, on every machine, for whole columns at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tfdare.schema.id_hash import fingerprint, mix

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def hash_strings(values: pa.Array) -> np.ndarray:
    """Hashes every string's bytes (FNV-1a, mixed) to a uint64."""
    size = len(values)
    code = np.full(size, _FNV_OFFSET)
    if size == 0:
        return code
    offsets, data = string_buffers(values)
    lengths = np.diff(offsets)
    rows, start = np.arange(size), offsets[:-1]
    with np.errstate(over="ignore"):
        for position in range(int(lengths.max())):
            keep = lengths[rows] > position
            if not keep.all():
                rows = rows[keep]
            code[rows] = (code[rows] ^ data[start[rows] + position]) * _FNV_PRIME
    return mix(code)


def text_codes(texts: pa.Array, hashed: bool = False) -> np.ndarray:
    """Returns the codes of text ids, by which a run knows them: non-negative int64.

    Args:
        texts: pyarrow Array of bytes.
        hashed: bool. Whether ids of the feature are hashed to rows: the code is then
            :func:`tfdare.schema.id_hash.fingerprint`, which an exported graph can compute.
    """
    if hashed:
        return fingerprint(np.array(texts.to_pylist(), object))
    return (hash_strings(texts) >> np.uint64(1)).astype(np.int64)


def string_buffers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns offsets (int64, one more than there are values) and bytes of a string or binary
    array."""
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    _, offsets, data = values.buffers()
    count = len(values)
    kind = np.int64 if wide else np.int32
    ends = np.frombuffer(offsets, kind, count + 1 + values.offset)[values.offset :]
    return ends.astype(np.int64), np.frombuffer(data, np.uint8) if data is not None else np.zeros(
        0, np.uint8
    )


def combine(*keys) -> np.ndarray:
    """Hashes every row of integer keys to a uint64; the same keys give the same number."""
    code = np.uint64(0)
    for key in keys:
        code = mix(code ^ mix(key))
    return code


def unit_interval(code: np.ndarray) -> np.ndarray:
    """Converts hashes to numbers in [0, 1)."""
    return (code >> np.uint64(11)).astype(np.float64) * 2.0**-53
