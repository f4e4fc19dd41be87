"""Row ids to the raw ids of the log and back, by the vocabulary files of a folder."""

from __future__ import annotations

import numpy as np

from tfdare.schema import FIRST_ID, PADDING_ID, SchemaError
from tfdare.schema.id_hash import hash_rows, ids_of_rows
from tfdare.sequences.folder import Sequences

UNKNOWN_ID = -1
"""Raw id sent for a row that stands for no single id; the model takes it as out of vocabulary."""
UNSEEN_VALUE = -(2**63)
"""The same among several values, where -1 is none."""


class RawIds:
    """Row ids to raw ids and back, by the vocabulary files of ``sequences``.

    Of a feature that is hashed no raw ids are kept. A model cannot tell those of a row apart, so
    any of them stands for all: good enough to ask a server with, but no id of the log.

    Args:
        sequences: Sequences.
        exact: bool. Whether stand-ins are refused. Defaults to False.

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
        """Raw ids of the rows of (context) feature ``name``.

        Args:
            name: str.
            rows: int, any shape; flat, as records hold them, also of a feature of L values.

        Returns:
            int64 of the same shape, or ``[..., L]`` of a feature of L values. -1 for padding and
            out of vocabulary; among several values -1 is padding alone.
        """
        rows, values = np.asarray(rows, np.int64), self._values[name]
        buckets = self.hashed.get(name)
        size = len(self._raw[name]) if buckets is None else buckets
        known = (rows >= FIRST_ID) & (rows < FIRST_ID + size)
        found = np.full(rows.shape, UNKNOWN_ID, np.int64)
        found[known] = (
            self._raw[name][rows[known] - FIRST_ID]
            if buckets is None
            else ids_of_rows(rows[known], buckets)
        )
        if values > 1:
            found[~known & (rows != PADDING_ID)] = UNSEEN_VALUE
            found = found.reshape(-1, values)
        return found

    def row(self, name: str, raw: int) -> int | None:
        """Row of one raw id of feature ``name``, or None."""
        if name in self.hashed:
            row = int(hash_rows(np.array(raw), self.hashed[name]))
            return row if row >= FIRST_ID else None
        (found,) = np.nonzero(self._raw[name] == raw)
        return int(found[0]) + FIRST_ID if len(found) else None
