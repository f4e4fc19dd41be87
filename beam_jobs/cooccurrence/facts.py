"""Facts about rows that learning vectors needs: how often each occurs, and items' categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from beam_jobs.vocabulary.catalog import Catalog, Hashed
from tfdare.schema import FIRST_ID, OOV_ID


@dataclass(frozen=True)
class RowFacts:
    """What is known of the rows of all features that get vectors.

    Attributes:
        events: int. Events of the training period.
        counts: mapping of feature to int64 ``[V]``. Training events of every row.
        category: int32 ``[V]`` or None. The category's row for each row of the item, 0 where it is
            not known; None where items have no category of one value.
    """

    events: int
    counts: Mapping[str, np.ndarray]
    category: np.ndarray | None = None


_LAST = np.iinfo(np.int32).max


def add_facts(parts: Iterable[RowFacts]) -> RowFacts | None:
    """Adds facts about different events; of several categories of a row the first row holds."""
    parts = list(parts)
    if len(parts) < 2:
        return parts[0] if parts else None
    known = [part.category for part in parts if part.category is not None]
    category = None
    if known:
        category = np.min([np.where(part == 0, _LAST, part) for part in known], axis=0)
        category = np.where(category == _LAST, 0, category).astype(np.int32)
    return RowFacts(
        sum(part.events for part in parts),
        {name: np.sum([p.counts[name] for p in parts], axis=0) for name in parts[0].counts},
        category,
    )


def facts_of_catalog(catalog: Catalog, names: Sequence[str]) -> RowFacts:
    """Collects the facts of a catalog of items.

    Args:
        catalog: Catalog.
        names: sequence of str. Features of one value that get vectors.
    """
    rows, sizes = catalog.item_rows, {}
    for name in catalog.features:
        ids = catalog.vocabularies[name]
        sizes[name] = (ids.buckets if isinstance(ids, Hashed) else len(ids)) + FIRST_ID
    counts = {}
    for name in names:
        counts[name] = np.zeros(sizes[name], np.int64)
        np.add.at(counts[name], rows[name], catalog.counts)
    category = None
    item, *others = catalog.features
    if others and rows[others[0]].ndim == 1:
        category = np.zeros(sizes[item], np.int32)
        category[rows[item][::-1]] = rows[others[0]][::-1]  # the most frequent item is written last
        category[category == OOV_ID] = 0
        category[:FIRST_ID] = 0
    return RowFacts(int(catalog.counts.sum()), counts, category)


def facts_of_rows(
    sizes: Mapping[str, int],
    names: Sequence[str],
    behaviors: Mapping[str, np.ndarray],
    candidates: Mapping[str, np.ndarray],
    category: str | None,
) -> RowFacts:
    """Collects the facts of rows in training records.

    Args:
        sizes: mapping of feature to its number of rows, the item first.
        names: sequence of str. Features that get vectors.
        behaviors: mapping of feature to the rows of behaviors, which are counted.
        candidates: mapping of feature to the rows of candidates, which only tell categories.
        category: str or None. The feature that is the item's category.
    """
    item = next(iter(sizes))
    counts = {name: np.bincount(behaviors[name], minlength=sizes[name]) for name in names}
    of_item = None
    if category is not None:
        of_item = np.full(sizes[item], _LAST, np.int32)
        for part in (behaviors, candidates):
            known = (part[item] >= FIRST_ID) & (part[category] >= FIRST_ID)
            np.minimum.at(of_item, part[item][known], part[category][known])
        of_item[of_item == _LAST] = 0
    return RowFacts(len(behaviors[item]), counts, of_item)
