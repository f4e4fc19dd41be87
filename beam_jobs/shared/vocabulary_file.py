"""Vocabularies: raw ids with their counts, as arrays and as the file that holds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from beam_jobs.shared.hashing import text_codes
from tfdare.schema import FIRST_ID, OOV_ID, PADDING_ID

MISSING = -1
"""Raw id of an optional feature that is empty in a row; always out of vocabulary."""


def sum_counts(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct values, rising, and the sum of each one's weights."""
    ids, code = np.unique(values, return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, code, weights)
    return ids, counts


class Vocabulary:
    """Raw ids by falling count, then by rising id; id ``i`` of them has the row ``FIRST_ID + i``.

    One that extends an earlier vocabulary (:meth:`extend`) has that one's ids first, in its order.
    """

    def __init__(self, ids: np.ndarray, counts: np.ndarray):
        self.ids, self.counts = ids, counts
        self._by_id = np.argsort(ids, kind="stable")
        self._sorted = ids[self._by_id]

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray, min_count: int) -> Vocabulary:
        """Sums ``weights`` per value and keeps the values that reach ``min_count``.

        ``values`` may be ``[E]``, or ``[E, V]``: then each of the V counts with the row's weight.
        """
        known = values != MISSING
        if values.ndim > 1:
            weights = np.broadcast_to(weights[:, None], values.shape)
        ids, counts = sum_counts(values[known], weights[known])
        ids, counts = ids[counts >= min_count], counts[counts >= min_count]
        order = np.lexsort((ids, -counts))
        return cls(ids[order], counts[order])

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, values: np.ndarray) -> np.ndarray:
        """Returns the index of every value, -1 where the vocabulary lacks it."""
        if not len(self.ids):
            return np.full(values.shape, -1, np.int64)
        near = np.minimum(np.searchsorted(self._sorted, values), len(self.ids) - 1)
        return np.where(self._sorted[near] == values, self._by_id[near], -1)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Returns row ids of raw values, int32; of several values (``[E, V]``) the missing ones
        are padding."""
        index = self.index(values)
        rows = np.where(index >= 0, index + FIRST_ID, OOV_ID).astype(np.int32)
        if values.ndim > 1:
            rows[values == MISSING] = PADDING_ID
        return rows

    def most_frequent(self, most: int | None) -> Vocabulary:
        """Keeps the first ids, at most ``most``; None keeps all."""
        if most is None or len(self) <= most:
            return self
        return Vocabulary(self.ids[:most], self.counts[:most])

    def extend(
        self, earlier: Vocabulary, min_count: int, frozen: bool, most: int | None = None
    ) -> Vocabulary:
        """Extends an earlier vocabulary by the ids and counts of this one.

        Args:
            earlier: Vocabulary. Its ids keep their rows, whether or not they occur again.
            min_count: int. Count that a new id needs.
            frozen: bool. Whether no id is added.
            most: int or None. Ids in all at most; ids of ``earlier`` are never dropped.
        """
        index = self.index(earlier.ids)
        known = index >= 0
        counts = np.zeros(len(earlier), np.int64)
        counts[known] = self.counts[index[known]]
        fresh = np.ones(len(self), bool)
        fresh[index[known]] = False
        fresh = np.flatnonzero(fresh & (self.counts >= min_count) & (not frozen))
        if most is not None:
            fresh = fresh[: max(most - len(earlier), 0)]
        return Vocabulary(
            np.concatenate([earlier.ids, self.ids[fresh]]),
            np.concatenate([counts, self.counts[fresh]]),
        )

    @classmethod
    def load(cls, content: bytes, text_ids: bool = False) -> Vocabulary:
        """Reads the content of a vocabulary file, as :meth:`text` writes it.

        Args:
            content: bytes.
            text_ids: bool. Whether its ids are text, which codes then stand for.
        """
        if text_ids:
            texts, numbers = _columns(content)
            return cls(text_codes(texts), np.array(numbers, np.int64))
        pairs = [line.split(b"\t") for line in content.splitlines()]
        ids, counts = np.array(pairs, np.int64).reshape(-1, 2).T
        return cls(ids, counts)

    def text(self, decode: Callable[[np.ndarray], list[str]] | None = None) -> bytes:
        """Returns the content of the vocabulary file.

        Args:
            decode: callable or None. Returns the texts of codes, where ids are text.
        """
        ids = decode(self.ids) if decode else self.ids.tolist()
        pairs = zip(ids, self.counts.tolist())
        return "".join(f"{raw}\t{count}\n" for raw, count in pairs).encode()


def texts_of(content: bytes) -> pa.Array:
    """Returns the text ids of a vocabulary file, as bytes."""
    return _columns(content)[0]


def _columns(content: bytes) -> tuple[pa.Array, list[bytes]]:
    pairs = [line.split(b"\t") for line in content.splitlines()]
    return pa.array([text for text, _ in pairs], pa.binary()), [count for _, count in pairs]
