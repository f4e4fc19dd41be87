"""LearnVocabularies: histories -> the catalog of items and the vocabularies of all features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from beam_jobs.histories.earlier_run import Earlier
from beam_jobs.histories.histories import Histories
from beam_jobs.histories.splits import ByTime, Protocol, training_events
from beam_jobs.reading.formats import Format
from beam_jobs.reading.text_ids import Texts, read_texts
from beam_jobs.shared.storage import write_file
from beam_jobs.shared.vocabulary_file import MISSING, Vocabulary
from beam_jobs.vocabulary.catalog import Catalog
from beam_jobs.vocabulary.context import ContextCounts, count_context, merge_context
from tfdare.schema import FIRST_ID
from tfdare.schema.id_hash import collisions, expected_collisions, mix

CATALOG_FILE = "catalog.arrow"
VOCABULARY_FOLDER = "vocabulary"
_PARTS = 16


@dataclass
class ItemCounts:
    """Items, their counts, and the earliest values of their other features.

    Attributes:
        items: int64 ``[I]`` raw ids.
        counts: int64 ``[I]``.
        first: mapping of feature to (value, time, order), each ``[I]``: the earliest value that is
            not missing, else ``MISSING``.
        context: ContextCounts or None. Counts of the context, where there is any.
    """

    items: np.ndarray
    counts: np.ndarray
    first: dict[str, tuple[np.ndarray, ...]]
    context: ContextCounts | None = None

    def take(self, rows: np.ndarray) -> ItemCounts:
        """Returns the items ``rows``, without the context."""
        first = {name: tuple(part[rows] for part in parts) for name, parts in self.first.items()}
        return ItemCounts(self.items[rows], self.counts[rows], first)


def count_items(
    histories: Histories, protocol: Protocol, form: Format, features: tuple[str, ...]
) -> ItemCounts:
    """Counts items and context in the training period of one bucket.

    Args:
        histories: Histories.
        protocol: Protocol.
        form: Format. Format of what holds the context: the log, or the impressions.
        features: tuple of str. The item first.
    """
    _, training = training_events(protocol, histories.length, histories.columns["time"])
    columns = _take(histories.columns, training)
    if histories.impressions is not None:  # candidates count, too, and carry the context
        assert isinstance(protocol, ByTime)
        context = histories.impressions.columns
        context = _take(context, protocol.split_of(context["time"]) == 0)
        counts = _count([columns, context], features)
    else:
        counts, context = _count([columns], features), columns
    if form.context or form.numeric:
        counts.context = count_context(form, context)
    return counts


def _take(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[rows] for name, column in columns.items()}


def _count(parts: list[Mapping[str, np.ndarray]], features: tuple[str, ...]) -> ItemCounts:
    def joined(name):
        return np.concatenate([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]

    item, time, order = joined(features[0]), joined("time"), joined("order")
    first = {name: (joined(name), time, order) for name in features[1:]}
    return _combine(item, np.ones(len(item), np.int64), first)


def merge_counts(parts: Iterable[ItemCounts]) -> ItemCounts:
    """Adds up counts of the same items."""
    parts = list(parts)
    context = [part.context for part in parts if part.context is not None]
    counts = _combine(
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.counts for part in parts]),
        {
            name: tuple(map(np.concatenate, zip(*(part.first[name] for part in parts))))
            for name in parts[0].first
        },
    )
    counts.context = merge_context(context) if context else None
    return counts


def make_catalog(
    counts: ItemCounts,
    features: tuple[str, ...],
    min_count: int,
    max_size: Mapping[str, int] | None = None,
    hashed: Mapping[str, int] | None = None,
) -> Catalog:
    """Sorts the items of the training period by falling count, equal counts by rising id."""
    counts = counts.take(np.lexsort((counts.items, -counts.counts)))
    others = {name: counts.first[name][0] for name in features[1:]}
    return Catalog(
        features,
        counts.items,
        counts.counts,
        others,
        min_count,
        max_size or {},
        hashed=hashed or {},
    )


def _combine(items, weights, first) -> ItemCounts:
    ids, code = np.unique(items, return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, code, weights)
    earliest = {name: _earliest(code, len(ids), *parts) for name, parts in first.items()}
    return ItemCounts(ids, counts, earliest)


def _earliest(code, size, value, time, order):
    """Returns, per code, (value, time, order) of the earliest value that is not missing."""
    last = np.iinfo(np.int64).max
    if (missing := (value if value.ndim == 1 else value[:, 0]) == MISSING).any():
        code, value, time, order = (part[~missing] for part in (code, value, time, order))
    best_time, best_order = np.full(size, last), np.full(size, last)
    best_value = np.full((size, *value.shape[1:]), MISSING)
    np.minimum.at(best_time, code, time)
    near = time == best_time[code]
    code, value, order = code[near], value[near], order[near]
    np.minimum.at(best_order, code, order)
    chosen = order == best_order[code]
    best_value[code[chosen]] = value[chosen]
    return best_value, best_time, best_order


class _CountItems(beam.DoFn):
    def __init__(self, protocol: Protocol, form: Format, features: tuple[str, ...], parts: int):
        self._protocol, self._form, self._parts = protocol, form, parts
        self._features = features

    def process(self, histories: Histories) -> Iterator[tuple[int, ItemCounts]]:
        counts = count_items(histories, self._protocol, self._form, self._features)
        part = mix(counts.items) % np.uint64(self._parts)
        for number in range(self._parts):
            share = counts.take(np.flatnonzero(part == number))
            if number == 0:
                share.context = counts.context
            yield number, share


class _WriteCatalog(beam.DoFn):
    def __init__(
        self,
        features: tuple[str, ...],
        min_count: int,
        max_size: Mapping[str, int],
        folder: str,
        earlier: Earlier | None,
        frozen: bool,
        hashed: Mapping[str, int],
        text_ids: frozenset[str],
    ):
        self._features, self._folder, self._hashed = features, folder, hashed
        self._text_ids = text_ids
        self._min_count, self._max_size = min_count, max_size
        self._earlier, self._frozen = earlier, frozen

    def process(self, element, texts: str | None = None) -> Iterator[dict[str, Any]]:
        _, parts = element
        decode = self._texts(texts).decode if texts else None
        counts = merge_counts(parts)
        catalog = make_catalog(
            counts, self._features, self._min_count, self._max_size, self._hashed
        )
        every = catalog.count_ids(1)
        if self._earlier is not None:
            catalog.extended = self._extend(self._earlier, every)
        learned = {
            name: self._write_vocabulary(name, vocabulary, decode)
            if isinstance(vocabulary, Vocabulary)
            else self._describe_hashed(name, every[name])
            for name, vocabulary in catalog.vocabularies.items()
        }
        context: dict[str, str] = {}
        numeric: dict[str, dict[str, float]] = {}
        if counts.context is not None:
            every = counts.context.vocabularies(1)
            if self._earlier is None:
                vocabularies = counts.context.vocabularies(self._min_count, self._max_size)
            else:
                vocabularies = self._extend(self._earlier, every)
            for name, vocabulary in vocabularies.items():
                if name not in self._hashed:
                    learned[name] = self._write_vocabulary(name, vocabulary, decode)
                    context[name] = self._path(name)
            for name, vocabulary in every.items():
                if name in self._hashed:
                    learned[name] = self._describe_hashed(name, vocabulary)
            for name, moments in counts.context.moments.items():
                mean, deviation = moments.mean, moments.deviation
                if self._earlier is not None:  # models trained on it normalize with its numbers
                    before = self._earlier.manifest["numeric"][name]
                    mean, deviation = before["mean"], before["deviation"]
                numeric[name] = {"mean": mean, "deviation": deviation, "events": moments.count}
        path = f"{self._folder}/{CATALOG_FILE}"
        write_file(path, catalog.save)
        yield {
            "vocabularies": learned,
            "catalog": path,
            "given": {name: self._path(name) for name in catalog.extended or ()},
            "context": context,
            "hashed": {name: self._hashed[name] for name in learned if name in self._hashed},
            "numeric": numeric,
            "text_ids": sorted(self._text_ids),
            "items": len(catalog),
            "events": int(catalog.counts.sum()),
        }

    def _extend(
        self, earlier: Earlier, vocabularies: Mapping[str, Vocabulary]
    ) -> dict[str, Vocabulary]:
        return {
            name: vocabulary.extend(
                earlier.vocabulary(name), self._min_count, self._frozen, self._max_size.get(name)
            )
            for name, vocabulary in vocabularies.items()
            if name not in self._hashed
        }

    def _path(self, name: str) -> str:
        return f"{self._folder}/{VOCABULARY_FOLDER}/{name}.tsv"

    def _texts(self, path: str) -> Texts:
        """Reads the texts of this run, and adds those of the earlier run's vocabularies."""
        parts = [read_texts(path).texts]
        if self._earlier is not None:
            names = self._text_ids - self._hashed.keys()
            parts += [self._earlier.texts(name) for name in sorted(names)]
        return Texts.of(parts)

    def _write_vocabulary(
        self,
        name: str,
        vocabulary: Vocabulary,
        decode: Callable[[np.ndarray], list[str]] | None,
    ) -> dict[str, Any]:
        content = vocabulary.text(decode if name in self._text_ids else None)
        write_file(self._path(name), content)
        return {
            "size": len(vocabulary) + FIRST_ID,
            "sha256": hashlib.sha256(content).hexdigest(),
            "events": int(vocabulary.counts.sum()),
        }

    def _describe_hashed(self, name: str, every: Vocabulary) -> dict[str, Any]:
        buckets = self._hashed[name]
        return {
            "size": buckets + FIRST_ID,
            "sha256": None,
            "events": int(every.counts.sum()),
            "hash_buckets": buckets,
            "ids": len(every),
            "ids_sharing_a_row": collisions(every.ids, buckets),
            "ids_expected_to": expected_collisions(len(every), buckets),
        }


class LearnVocabularies(beam.PTransform):
    """Histories -> one dict: the vocabularies written, their digests, the path of the catalog,
    the files of context vocabularies, mean and deviation of numbers.

    Only events before a user's first held-out event count, and impressions of the training period.
    Other features of an item are its earliest values that are not missing, by (time, order in the
    log).

    Args:
        form: Format. Format of what holds the context: the log, or the impressions.
        protocol: Protocol.
        min_count: int. Count that an id needs.
        buckets: int. Buckets of users.
        folder: str. Where the files are written.
        earlier: Earlier or None. An earlier run: its ids keep their rows, and its numeric features
            their mean and deviation.
        frozen: bool. Whether no id is added to those of ``earlier``.
        max_size: mapping of feature to the ids that its vocabulary holds at most.
        features: tuple of str. Features of the log. Defaults to those of ``form``.
        hashed: mapping of feature to its number of hash buckets. These have no vocabulary.
        merge_ram: str or None. Memory that the worker which merges needs, a hint to the runner.
        text_ids: frozenset. Features, and context features, whose ids are text.
        texts: PCollection of the path that :class:`beam_jobs.reading.text_ids.WriteTexts` wrote;
            None without text ids.
    """

    def __init__(
        self,
        form: Format,
        protocol: Protocol,
        min_count: int,
        buckets: int,
        folder: str,
        earlier: Earlier | None = None,
        frozen: bool = False,
        max_size: Mapping[str, int] | None = None,
        features: tuple[str, ...] | None = None,
        hashed: Mapping[str, int] | None = None,
        merge_ram: str | None = None,
        text_ids: frozenset[str] = frozenset(),
        texts: beam.PCollection | None = None,
    ):
        super().__init__()
        self._merge_ram = merge_ram
        self._texts = [] if texts is None else [beam.pvalue.AsSingleton(texts)]
        features = features or form.features
        self._count = _CountItems(protocol, form, features, min(buckets, _PARTS))
        self._write = _WriteCatalog(
            features, min_count, max_size or {}, folder, earlier, frozen, hashed or {}, text_ids
        )

    def expand(self, histories):
        merge = beam.Map(lambda pair: (0, merge_counts(pair[1])))
        merge, write = (
            merge.with_output_types(tuple[int, Any]),
            beam.ParDo(self._write, *self._texts),
        )
        if self._merge_ram:  # these steps hold all ids of the log
            merge = merge.with_resource_hints(min_ram=self._merge_ram)
            write = write.with_resource_hints(min_ram=self._merge_ram)
        return (
            histories
            | "CountItems" >> beam.ParDo(self._count).with_output_types(tuple[int, Any])
            | "GroupByPart" >> beam.GroupByKey()
            | "MergeCounts" >> merge
            | "GroupParts" >> beam.GroupByKey()
            | "WriteCatalog" >> write.with_output_types(Any)
        )
