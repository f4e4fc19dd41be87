"""LearnVectors: packed cells of pairs -> a file of vectors for each feature."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.sparse

from beam_jobs.cooccurrence.cells import Block, Layout, choose_contexts, make_block
from beam_jobs.cooccurrence.count import PairCounter
from beam_jobs.cooccurrence.factors import Factors, factorize, map_lines, scale_to_length_1
from beam_jobs.cooccurrence.facts import RowFacts, add_facts
from beam_jobs.cooccurrence.given import read_given, vectors_of_rows
from beam_jobs.cooccurrence.options import VectorOptions
from beam_jobs.shared.storage import read_file, write_file
from beam_jobs.shared.vocabulary_file import Vocabulary
from beam_jobs.vocabulary.catalog import Hashed
from beam_jobs.vocabulary.learn import VOCABULARY_FOLDER
from tfdare.schema import FIRST_ID

COOCCURRENCE, GIVEN = "cooccurrence", "given"
"""Origins of vectors, as the manifest names them."""
_CONTEXTS, _OTHERS, _FACTORS = "contexts", "others", "factors"


class _SumBlock(beam.DoFn):
    """Sums cells by block -> the contexts' lines, and under ``OTHERS`` all other ones."""

    def __init__(self, blocks: int):
        self._blocks = blocks
        self._facts: RowFacts | None = None

    def process(self, element, facts: RowFacts) -> Iterator[Any]:
        (name, _), parts = element
        if self._facts is not facts:  # once per worker
            self._facts = facts
            self._contexts = {key: choose_contexts(counts) for key, counts in facts.counts.items()}
        contexts = self._contexts[name]
        block = make_block(Layout(len(facts.counts[name]), len(contexts), self._blocks), parts)
        own = np.isin(block.rows, contexts)
        yield name, block.select(own)
        if not own.all():
            yield beam.pvalue.TaggedOutput(_OTHERS, (name, block.select(~own)))


class _Factorize(beam.DoFn):
    """The contexts' lines of a feature -> their vectors, and under ``FACTORS`` those of all."""

    def __init__(self, options: VectorOptions):
        self._options = options

    def process(self, element) -> Iterator[Any]:
        name, blocks = element
        factors, vectors = factorize(blocks, self._options.counted[name])
        yield beam.pvalue.TaggedOutput(_FACTORS, (name, factors))
        yield name, vectors


class _WriteVectors(beam.DoFn):
    """Writes the vectors of one feature; yields its name and its entry of the manifest."""

    def __init__(self, options: VectorOptions, folder: str, prefix: str, item: str):
        self._options, self._item = options, item
        self._folder, self._prefix = folder, prefix

    def process(self, element, facts: RowFacts) -> Iterator[tuple[str, dict[str, Any]]]:
        name, parts = element
        size, cells = len(facts.counts[name]), 0
        vectors = np.zeros((size, self._options.counted[name]), np.float32)
        for part in parts:
            vectors[part.rows] = part.vectors
            cells += part.cells
        yield name, self._write(name, vectors, facts, COOCCURRENCE, {"pairs": cells})

    def _write(
        self, name: str, vectors: np.ndarray, facts: RowFacts, origin: str, more: dict[str, int]
    ) -> dict[str, Any]:
        category = facts.category if name == self._item else None
        filled = fill_from_category(vectors, category)
        data = to_npz(vectors)
        file = f"{self._prefix}{name}.npz"
        write_file(f"{self._folder}/{file}", data)
        return {
            "file": file,
            "digest": hashlib.sha256(data).hexdigest(),
            "columns": vectors.shape[1],
            "origin": origin,
            **more,
            "category_mean": filled,
            "zero": int((~vectors[FIRST_ID:].any(axis=1)).sum()),
        }


class _WriteGiven(_WriteVectors):
    """Writes the vectors that a file gives for one feature, by the rows of its vocabulary."""

    def __init__(
        self, options: VectorOptions, folder: str, prefix: str, item: str, vocabularies: str
    ):
        super().__init__(options, folder, prefix, item)
        self._vocabularies = vocabularies

    def process(self, element, facts: RowFacts) -> Iterator[tuple[str, dict[str, Any]]]:
        name, path = element
        buckets = self._options.hashed.get(name)
        text_ids = name in self._options.text_ids
        ids: Hashed | Vocabulary
        if buckets is None:
            file = f"{self._vocabularies}/{VOCABULARY_FOLDER}/{name}.tsv"
            ids = Vocabulary.load(read_file(file), text_ids)
        else:
            ids = Hashed(buckets)
        vectors, known = vectors_of_rows(*read_given(path, name, text_ids, bool(buckets)), ids)
        yield (
            name,
            self._write(name, scale_to_length_1(vectors), facts, GIVEN, {"ids": known}),
        )


def _map_lines(element: tuple[str, Block], factors: Mapping[str, Factors]):
    name, block = element
    return name, map_lines(block, factors[name])


def fill_from_category(vectors: np.ndarray, category: np.ndarray | None) -> int:
    """Gives rows without a vector the mean of their category's, scaled to length 1.

    Args:
        vectors: float32 ``[V, D]``. Rows of zeros are filled.
        category: int32 ``[V]`` or None. The category of every row, 0: unknown; None: of all.

    Returns:
        How many rows were filled.
    """
    has = vectors.any(axis=1)
    if category is None or has.all():
        return 0
    source = np.flatnonzero(has & (category > 0))
    target = np.flatnonzero(~has & (category > 0))
    shape = (int(category.max()) + 1, len(source))
    line = (category[source], np.arange(len(source)))
    members = scipy.sparse.csr_matrix((np.ones(len(source)), line), shape)
    means = scale_to_length_1(members @ vectors[source].astype(np.float64))
    filled = means[category[target]]
    vectors[target] = filled
    return int(filled.any(axis=1).sum())


def to_npz(vectors: np.ndarray) -> bytes:
    """Returns the content of a file of vectors; equal vectors give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors)
    return buffer.getvalue()


class LearnVectors(beam.PTransform):
    """(Packed cells, RowFacts) -> files of vectors, and one dict of feature to manifest's entry.

    Args:
        counter: PairCounter. Of the cells.
        folder: str. Where the files are written.
        prefix: str. Start of the files' names, below the folder.
        vocabularies: str. The folder of sequences whose vocabularies give the rows.
    """

    def __init__(self, counter: PairCounter, folder: str, prefix: str, vocabularies: str):
        super().__init__()
        self._options = options = counter.options
        item = counter.item
        self._sum = _SumBlock(counter.blocks)
        self._factorize = _Factorize(options)
        self._write = _WriteVectors(options, folder, prefix, item)
        self._write_given = _WriteGiven(options, folder, prefix, item, vocabularies)

    def expand(self, sources):
        cells, facts = sources
        # combined: some runners read an uncombined side input before it is complete
        facts = beam.pvalue.AsSingleton(facts | "AddFacts" >> beam.CombineGlobally(add_facts))
        entries = []
        if self._options.counted:
            summed = (
                cells
                | "GroupByBlock" >> beam.GroupByKey()
                | "SumBlock"
                >> beam.ParDo(self._sum, facts)
                .with_outputs(_OTHERS, main=_CONTEXTS)
                .with_output_types(tuple[str, Any])
            )
            contexts = (
                summed[_CONTEXTS]
                | "GroupContexts" >> beam.GroupByKey()
                | "Factorize"
                >> beam.ParDo(self._factorize)
                .with_outputs(_FACTORS, main=_CONTEXTS)
                .with_output_types(tuple[str, Any])
            )
            factors = contexts[_FACTORS] | "AllFactors" >> beam.combiners.ToDict()
            others = summed[_OTHERS] | "MapLines" >> beam.Map(
                _map_lines, beam.pvalue.AsSingleton(factors)
            ).with_output_types(tuple[str, Any])
            entries.append(
                (contexts[_CONTEXTS], others)
                | "AllVectors" >> beam.Flatten()
                | "GroupByFeature" >> beam.GroupByKey()
                | "WriteVectors"
                >> beam.ParDo(self._write, facts).with_output_types(tuple[str, Any])
            )
        if self._options.given:
            entries.append(
                cells.pipeline
                | "Given" >> beam.Create(sorted(self._options.given.items()))
                | "WriteGiven"
                >> beam.ParDo(self._write_given, facts).with_output_types(tuple[str, Any])
            )
        return entries | "Features" >> beam.Flatten() | "Entries" >> beam.combiners.ToDict()


def describe(vectors: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yields a label and a line of text for every feature that has vectors."""
    for name, entry in vectors.items():
        origin = (
            f"{entry['pairs']:,} pairs"
            if entry["origin"] == COOCCURRENCE
            else f"given for {entry['ids']:,} ids"
        )
        text = f"{name}: {entry['columns']} columns, {origin}"
        if entry["category_mean"]:
            text += f", {entry['category_mean']:,} ids have the mean of their category"
        yield "vectors", text + (f", {entry['zero']:,} ids none" if entry["zero"] else "")
