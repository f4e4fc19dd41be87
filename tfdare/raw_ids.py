"""Row ids to the raw ids of the log and back, by the vocabulary files of a folder."""

from __future__ import annotations

import numpy as np

from tfdare.schema import FIRST_ID, PADDING_ID, SchemaError
from tfdare.sequences import Sequences

UNKNOWN_ID = -1
"""Raw id sent for a row that stands for no single id; the model takes it as out of vocabulary."""
UNSEEN_VALUE = -(2**63)
"""The same among several values, where -1 is none."""


class RawIds:
    """Row ids to raw ids and back, by the vocabulary files of ``sequences``."""

    def __init__(self, sequences: Sequences):
        if hashed := [p.name for p in sequences.schema.categorical if p.hash_buckets]:
            raise SchemaError(
                f"{sequences.path!r} hashes {', '.join(hashed)}: it does not hold raw ids to ask a "
                "server with. Send your own with serving.client"
            )
        self._values = {part.name: part.max_values for part in sequences.schema.categorical}
        self._raw = {name: sequences.vocabulary(name) for name in self._values}

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
        known = (rows >= FIRST_ID) & (rows < FIRST_ID + len(self._raw[name]))
        found = np.full(rows.shape, UNKNOWN_ID, np.int64)
        found[known] = self._raw[name][rows[known] - FIRST_ID]
        if values > 1:
            found[~known & (rows != PADDING_ID)] = UNSEEN_VALUE
            found = found.reshape(-1, values)
        return found

    def row(self, name: str, raw: int) -> int | None:
        """Row of one raw id of feature ``name``, or None."""
        (found,) = np.nonzero(self._raw[name] == raw)
        return int(found[0]) + FIRST_ID if len(found) else None
