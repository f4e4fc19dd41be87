"""Converts row ids to raw ids of the log and back, by the vocabulary files of a folder."""

from __future__ import annotations

import numpy as np

from tfdare.schema import FIRST_ID, PADDING_ID, SchemaError
from tfdare.schema.id_hash import hash_rows, ids_of_rows
from tfdare.sequences.folder import Sequences

UNKNOWN_ID = -1
"""Raw id of a row that stands for no single id; a model treats it as out of vocabulary."""
UNSEEN_VALUE = -(2**63)
"""The same for features with several values, where -1 means no value."""


class RawIds:
    """Converts row ids to raw ids and back, by the vocabulary files of ``sequences``.

    Raw ids of a hashed feature are not stored. A row of it is converted to some id with that
    hash: a model treats all ids of a row the same, but this one need not occur in the log.

    Args:
        sequences: Sequences.
        exact: bool. Whether to refuse hashed features. Defaults to False.

    Raises:
        SchemaError: a feature is hashed, and `exact`.
    """

    def __init__(self, sequences: Sequences, exact: bool = False):
        parts = sequences.schema.categorical
        self.hashed = {part.name: part.hash_buckets for part in parts if part.hash_buckets}
        if exact and self.hashed:
            raise SchemaError(
                f"{sequences.path!r} hashes {', '.join(self.hashed)}: it does not hold raw ids"
            )
        self._values = {part.name: part.max_values for part in parts}
        self._raw = {
            name: sequences.vocabulary(name) for name in self._values if name not in self.hashed
        }

    def raw(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns the raw ids of rows of (context) feature ``name``.

        Args:
            name: str.
            rows: int, any shape; flat for a feature of L values, as in records.

        Returns:
            int64 of the same shape, or ``[..., L]`` of a feature of L values. -1 for padding and
            out of vocabulary; among several values -1 is padding alone.
        """
        rows, values = np.asarray(rows, np.int64), self._values[name]
        buckets = self.hashed.get(name)
        size = len(self._raw[name]) if buckets is None else buckets
        known = (rows >= FIRST_ID) & (rows < FIRST_ID + size)
        ids: np.ndarray = np.full(rows.shape, UNKNOWN_ID, np.int64)
        ids[known] = (
            self._raw[name][rows[known] - FIRST_ID]
            if buckets is None
            else ids_of_rows(rows[known], buckets)
        )
        if values > 1:
            ids[~known & (rows != PADDING_ID)] = UNSEEN_VALUE
            ids = ids.reshape(-1, values)
        return ids

    def row(self, name: str, raw: int) -> int | None:
        """Returns the row of one raw id of feature ``name``, or None if it is not known."""
        if name in self.hashed:
            row = int(hash_rows(np.array(raw), self.hashed[name]))
            return row if row >= FIRST_ID else None
        (indices,) = np.nonzero(self._raw[name] == raw)
        return int(indices[0]) + FIRST_ID if len(indices) else None
