"""Converts row ids to raw ids of the log and back, by the vocabulary files of a folder."""

from __future__ import annotations

import numpy as np

from tfdare.schema import FIRST_ID, PADDING_ID, STRING, SchemaError
from tfdare.schema.id_hash import NO_TEXTS, hash_rows, ids_of_rows, texts_of_rows
from tfdare.sequences.folder import Sequences

UNKNOWN_ID, UNKNOWN_TEXT = -1, NO_TEXTS[0]
"""Raw id of a row that stands for no single id; a model treats it as out of vocabulary."""
UNSEEN_VALUE, UNSEEN_TEXT = -(2**63), NO_TEXTS[1]
"""The same for features with several values, where -1 or an empty text means no value."""


def readable(ids: np.ndarray) -> np.ndarray:
    """Decodes text ids to str, for people and JSON; leaves integers as they are."""
    return np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids


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
        self._text = {part.name for part in parts if part.dtype == STRING}
        self._raw = {
            name: sequences.vocabulary(name) for name in self._values if name not in self.hashed
        }

    def raw(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns the raw ids of rows of (context) feature ``name``.

        Args:
            name: str.
            rows: int, any shape; flat for a feature of L values, as in records.

        Returns:
            int64, or bytes where ids are text, of the same shape, or ``[..., L]`` of a feature of
            L values. -1 or an empty text for padding and out of vocabulary; among several values
            this is padding alone.
        """
        rows, values = np.asarray(rows, np.int64), self._values[name]
        buckets = self.hashed.get(name)
        size = len(self._raw[name]) if buckets is None else buckets
        known = (rows >= FIRST_ID) & (rows < FIRST_ID + size)
        if buckets is None:
            raw = self._raw[name][rows[known] - FIRST_ID]
        elif name in self._text:
            raw = texts_of_rows(rows[known], buckets)
        else:
            raw = ids_of_rows(rows[known], buckets)
        ids: np.ndarray = np.full(rows.shape, self.unknown(name), raw.dtype)
        ids[known] = raw
        if values > 1:
            if (unseen := ~known & (rows != PADDING_ID)).any():
                value = UNSEEN_TEXT if name in self._text else UNSEEN_VALUE
                ids = np.where(unseen, np.array(value), ids)
            ids = ids.reshape(-1, values)
        return ids

    def unknown(self, name: str) -> int | bytes:
        """Returns the raw id that stands for no single id of feature ``name``."""
        return UNKNOWN_TEXT if name in self._text else UNKNOWN_ID

    def parse(self, name: str, text: str) -> int | bytes:
        """Reads a raw id of feature ``name`` that was given as text.

        Raises:
            ValueError: the ids of the feature are integers, and it is none.
        """
        if name in self._text:
            return text.encode()
        try:
            return int(text)
        except ValueError as error:
            raise ValueError(f"Ids of {name!r} are integers. Received: {text!r}") from error

    def row(self, name: str, raw: int | bytes) -> int | None:
        """Returns the row of one raw id of feature ``name``, or None if it is not known."""
        if name in self.hashed:
            row = int(hash_rows(np.array(raw), self.hashed[name]))
            return row if row >= FIRST_ID else None
        (indices,) = np.nonzero(self._raw[name] == raw)
        return int(indices[0]) + FIRST_ID if len(indices) else None
