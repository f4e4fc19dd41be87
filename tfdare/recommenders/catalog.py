"""The catalog: every item that can be recommended, with its features. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdare.schema import FIRST_ID, OOV_ID, PADDING_ID, Schema
from tfdare.sequences import Sequences


@dataclass(frozen=True)
class Catalog:
    """The items of a vocabulary, most frequent first.

    Attributes:
        features: mapping of feature name to int32 row ids ``[I]`` (``[I, L]`` for a feature of
            several values), I items. The ids of the items are 2, 3, ..., so that the item of row
            id ``r`` is entry ``r - 2``.
        clicks: int64 ``[I]``. Clicks on each item in the train split.
    """

    features: Mapping[str, np.ndarray]
    clicks: np.ndarray

    def __len__(self) -> int:
        return len(self.clicks)


def read_catalog(sequences: Sequences) -> Catalog:
    """Reads the catalog of a folder of sequences, in one pass over its train split.

    An item's features are those of its first behavior in a history or, for items in no history, of
    its first candidate. Items in neither get the row of the unknown value (no value, where a
    feature may have several).

    Args:
        sequences: Sequences. A finished folder.
    """
    schema = sequences.schema
    features = {feature.name: _unknown(schema, feature) for feature in schema.features}
    items = schema.item.vocabulary_size
    features[schema.item.name] = np.arange(FIRST_ID, items, dtype=np.int32)
    clicks = np.zeros(items, np.int64)
    in_history, in_request = np.zeros(items, bool), np.zeros(items, bool)
    for known in (in_history, in_request):
        known[:FIRST_ID] = True  # padding and the unknown item are no items
    candidate_features = {name: values.copy() for name, values in features.items()}
    for record in sequences.records("train"):
        _add_new_items(schema, record.history, in_history, features)
        _add_new_items(schema, record.target, in_request, candidate_features)
        np.add.at(clicks, record.target[schema.item.name][record.label > 0], 1)
    missing = ~in_history[FIRST_ID:]
    for name, values in features.items():
        values[missing] = candidate_features[name][missing]
    return Catalog(features, clicks[FIRST_ID:])


def _unknown(schema: Schema, feature) -> np.ndarray:
    several = feature.max_values > 1
    shape = (schema.item.vocabulary_size - FIRST_ID, feature.max_values)
    if several:
        return np.full(shape, PADDING_ID, np.int32)
    return np.full(shape[0], OOV_ID, np.int32)


def _add_new_items(schema: Schema, columns, known, features) -> None:
    """Writes the features of items that are not `known` yet, and marks those as known."""
    items, index = np.unique(columns[schema.item.name], return_index=True)
    new = ~known[items]
    items, index = items[new], index[new]
    known[items] = True
    for feature in schema.features[1:]:
        values = columns[feature.name]
        if feature.max_values > 1:
            values = np.reshape(values, (-1, feature.max_values))
        features[feature.name][items - FIRST_ID] = values[index]
