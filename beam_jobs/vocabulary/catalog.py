"""Catalog: the items of the training period, their features, and their rows in vocabularies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from beam_jobs.shared.storage import to_arrow, to_numpy
from beam_jobs.shared.vocabulary_file import MISSING, Vocabulary
from tfdare.schema import OOV_ID, PADDING_ID
from tfdare.schema.id_hash import hash_rows


class Hashed:
    """A feature whose ids are hashed to rows; used like a :class:`Vocabulary`."""

    def __init__(self, buckets: int):
        self.buckets = buckets

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Returns row ids of raw values, as :meth:`Vocabulary.rows` does."""
        rows = hash_rows(values, self.buckets)
        if values.ndim > 1:
            rows[values == MISSING] = PADDING_ID
        return rows


@dataclass
class Catalog:
    """All items of the training period, most frequent first, with those below ``min_count`` too.

    Attributes:
        features: tuple of str. The item first.
        items: int64 ``[I]`` raw ids.
        counts: int64 ``[I]`` events of the training period.
        others: mapping of feature name to int64 ``[I]``, or ``[I, V]`` of a multi-hot one. Raw
            ids of every item's other features.
        min_count: int. Count that an id needs to be in a vocabulary.
        max_size: mapping of feature name to the ids that its vocabulary holds at most.
        extended: mapping of feature name to Vocabulary, or None. Vocabularies that extend those of
            an earlier run, to use instead of those built from the counts.
        hashed: mapping of feature name to its number of hash buckets. These have no vocabulary.
    """

    features: tuple[str, ...]
    items: np.ndarray
    counts: np.ndarray
    others: dict[str, np.ndarray]
    min_count: int = 1
    max_size: Mapping[str, int] = field(default_factory=dict)
    extended: Mapping[str, Vocabulary] | None = None
    hashed: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def everything(self) -> Vocabulary:
        """All items, also those below ``min_count``."""
        return Vocabulary(self.items, self.counts)

    def weights(self, alpha: float) -> np.ndarray:
        """Raises counts to the power of ``alpha``, int64: 1 leaves them as they are, 0 makes all
        equal; powers between are scaled by 1024 and rounded."""
        if alpha in (0, 1):
            return self.counts if alpha else np.ones_like(self.counts)
        return np.rint(self.counts.astype(np.float64) ** alpha * 1024).astype(np.int64)

    @cached_property
    def vocabularies(self) -> dict[str, Vocabulary | Hashed]:
        """Vocabulary of every feature, or its :class:`Hashed`."""
        vocabularies = self.extended
        if vocabularies is None:
            vocabularies = {
                name: vocabulary.most_frequent(self.max_size.get(name))
                for name, vocabulary in self.count_ids(self.min_count).items()
            }
        return {
            **vocabularies,
            **{name: Hashed(self.hashed[name]) for name in self.features if name in self.hashed},
        }

    def count_ids(self, min_count: int) -> dict[str, Vocabulary]:
        """Returns for every feature the vocabulary of the ids that reach ``min_count``."""
        frequent = self.counts >= min_count
        vocabularies = {self.features[0]: Vocabulary(self.items[frequent], self.counts[frequent])}
        for name in self.features[1:]:
            vocabularies[name] = Vocabulary.of(self.others[name], self.counts, min_count)
        return vocabularies

    @cached_property
    def item_rows(self) -> dict[str, np.ndarray]:
        """Row ids of every item's features."""
        values = {self.features[0]: self.items, **self.others}
        return {name: self.vocabularies[name].rows(values[name]) for name in self.features}

    def rows(self, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns the index of every event's item (-1: unknown), and row ids of its features.

        The features of a known item are those of the catalog, of an unknown one those of the event.
        """
        items, code = np.unique(columns[self.features[0]], return_inverse=True)
        index = self.everything.index(items)[code]
        known = index >= 0
        rows = {}
        for name in self.features:
            rows[name] = (
                self.item_rows[name][index]
                if len(self)
                else np.full(columns[name].shape, OOV_ID, np.int32)
            )
            if not known.all():
                strange = ~known
                rows[name][strange] = self.vocabularies[name].rows(columns[name][strange])
        return index, rows

    def save(self, file: BinaryIO) -> None:
        """Writes the catalog as one Arrow table."""
        names = ["item_count", *self.features]
        values = [self.counts, self.items, *(self.others[name] for name in self.features[1:])]
        arrays = [to_arrow(column) for column in values]
        schema = pa.schema(
            [(name, array.type) for name, array in zip(names, arrays)],
            {
                "min_count": str(self.min_count),
                "max_size": json.dumps(dict(self.max_size)),
                "hashed": json.dumps(dict(self.hashed)),
            },
        )
        table = pa.table(arrays, schema=schema)
        with pa.ipc.new_stream(file, schema) as writer:
            writer.write_table(table, max_chunksize=1 << 20)

    @classmethod
    def load(cls, file: BinaryIO) -> Catalog:
        """Reads what :meth:`save` wrote."""
        table = pa.ipc.open_stream(file.read()).read_all()
        counts, items, *others = (to_numpy(column) for column in table.columns)
        features = tuple(table.column_names[1:])
        min_count = int(table.schema.metadata[b"min_count"])
        max_size = json.loads(table.schema.metadata[b"max_size"])
        return cls(
            features,
            items,
            counts,
            dict(zip(features[1:], others)),
            min_count,
            max_size,
            hashed=json.loads(table.schema.metadata[b"hashed"]),
        )
