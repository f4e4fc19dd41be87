"""Maps raw ids to rows by a hash, for features without a vocabulary.

Beam jobs use these functions; :mod:`tfdare.export.signatures` computes the same in TensorFlow.
"""

from __future__ import annotations

import numpy as np

from tfdare.quiet import quiet
from tfdare.schema.features import FIRST_ID, OOV_ID

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
NO_TEXTS = (b"", b"\t")
"""What stands for no text id: where there is none, and where it is not known."""
FINGERPRINTS = 2**63 - 1
"""Integers that text ids are hashed to before they are hashed to rows."""


def mix(values) -> np.ndarray:
    """Mixes the bits of uint64 values by the finalizer of SplitMix64, a bijection."""
    x = np.asarray(values).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(GOLDEN)
        for shift, multiplier in zip(SHIFTS, MULTIPLIERS):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(multiplier)
    return x ^ (x >> np.uint64(SHIFTS[2]))


def unmix(values) -> np.ndarray:
    """Inverts :func:`mix`; uint64."""
    x = np.asarray(values).astype(np.uint64)
    with np.errstate(over="ignore"):
        for shift, multiplier in zip(reversed(SHIFTS), (*reversed(MULTIPLIERS), 1)):
            x = x ^ (x >> np.uint64(shift)) ^ (x >> np.uint64(2 * shift))  # 3 * shift > 64
            x = x * np.uint64(pow(multiplier, -1, 2**64))
        return x - np.uint64(GOLDEN)


def hash_rows(ids: np.ndarray, buckets: int) -> np.ndarray:
    """Hashes raw ids to rows, int32: 2 and above; negative ids are out of vocabulary.

    Args:
        ids: int64, any shape; or bytes, text ids, which :func:`fingerprint` converts.
        buckets: int. Rows that ids share.

    Example:
        >>> hash_rows(np.array([7, 8, 7, -1]), 1000)
        array([245, 813, 245,   1], dtype=int32)
    """
    ids = np.asarray(ids)
    ids = fingerprint(ids) if ids.dtype.kind == "S" else ids.astype(np.int64, copy=False)
    rows = (mix(ids) >> np.uint64(1)) % np.uint64(buckets)
    return np.where(ids < 0, OOV_ID, rows.astype(np.int64) + FIRST_ID).astype(np.int32)


def fingerprint(texts) -> np.ndarray:
    """Converts text ids to the integers that :func:`hash_rows` takes, by FarmHash.

    The function is TensorFlow's own ``tf.strings.to_hash_bucket_fast``, so that an exported graph
    computes the same; the first call imports TensorFlow.

    Args:
        texts: array of bytes, any shape. Those of ``NO_TEXTS`` are no ids: -1.

    Returns:
        int64 of the same shape.
    """
    with quiet():  # only here, so that those who hash no text need not load it
        import tensorflow as tf

    texts = np.asarray(texts)
    if not texts.size:
        return np.zeros(texts.shape, np.int64)
    codes = tf.strings.to_hash_bucket_fast(tf.constant(texts, tf.string), FINGERPRINTS).numpy()
    return np.where(np.isin(texts, NO_TEXTS), -1, codes)


def ids_of_rows(rows: np.ndarray, buckets: int) -> np.ndarray:
    """Returns for each row one of the many ids, int64, that :func:`hash_rows` sends there.

    Args:
        rows: int, any shape. 2 and above.
        buckets: int. Rows that ids share.

    Example:
        >>> hash_rows(ids_of_rows(np.array([245, 813]), 1000), 1000)
        array([245, 813], dtype=int32)
    """
    rows = np.asarray(rows, np.int64)
    ids = np.full(rows.shape, -1, np.int64)
    turn = 0
    while (missing := ids < 0).any():  # about half of the ids are negative each time
        mixed = (rows[missing] - FIRST_ID).astype(np.uint64) + np.uint64(turn * buckets)
        ids[missing] = unmix(mixed << np.uint64(1)).astype(np.int64)
        turn += 1
    return ids


def texts_of_rows(rows: np.ndarray, buckets: int) -> np.ndarray:
    """Returns for each row a text that :func:`hash_rows` sends there.

    Texts cannot be computed from their hash: numbers are tried until every row has one, some
    ``buckets * log(rows)`` of them.

    Args:
        rows: int, any shape. 2 and above.
        buckets: int. Rows that ids share.

    Returns:
        bytes of the same shape.
    """
    wanted, code = np.unique(np.asarray(rows), return_inverse=True)
    numbers = np.full(wanted.shape, -1, np.int64)
    start, block = 0, max(1 << 12, min(buckets, 1 << 20))
    while (numbers < 0).any():
        tried = np.arange(start, start + block)
        hashed = hash_rows(tried.astype(bytes), buckets)
        index = np.minimum(np.searchsorted(wanted, hashed), len(wanted) - 1)
        hit = wanted[index] == hashed
        numbers[index[hit]] = tried[hit]
        start += block
    return numbers.astype(bytes)[code].reshape(np.shape(rows))


def expected_collisions(ids: int, buckets: int) -> float:
    """Returns the share of ``ids`` different ids that a uniform hash puts in a shared bucket.

    1 - (1 - 1 / buckets) ** (ids - 1): about 1 in 10 with ten times as many buckets as ids, about
    2 in 3 with as many buckets as ids.

    Example:
        >>> round(expected_collisions(1000, 10_000), 3), round(expected_collisions(1000, 1000), 3)
        (0.095, 0.632)
    """
    if ids <= 1 or buckets <= 1:
        return float(ids > 1)
    return float(-np.expm1((ids - 1) * np.log1p(-1 / buckets)))


def collisions(ids: np.ndarray, buckets: int) -> float:
    """Returns the share of different ids that share their bucket with another; 0 without ids."""
    if not len(ids):
        return 0.0
    _, index, count = np.unique(hash_rows(ids, buckets), return_inverse=True, return_counts=True)
    return float((count[index] > 1).mean())
