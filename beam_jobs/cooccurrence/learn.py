"""LearnVectors: behaviors of the training period -> a file of vectors for each feature."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.sparse

from beam_jobs.cooccurrence.behaviors import Behaviors
from beam_jobs.cooccurrence.cells import Block, Layout, choose_contexts, count_contexts, make_block
from beam_jobs.cooccurrence.factors import factorize, information_matrix, scale_to_length_1
from beam_jobs.cooccurrence.facts import RowFacts, add_facts
from beam_jobs.cooccurrence.given import read_given, vectors_of_rows
from beam_jobs.cooccurrence.pairs import events_to_pair, find_baskets, limit_pairs, list_pairs
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import read_file, write_file
from beam_jobs.shared.vocabulary_file import Vocabulary
from beam_jobs.vocabulary.catalog import Hashed
from beam_jobs.vocabulary.learn import VOCABULARY_FOLDER
from tfdare.schema import FIRST_ID

COLUMNS = 16
"""Length of vectors where none is asked for."""
COOCCURRENCE, GIVEN = "cooccurrence", "given"
"""Origins of vectors, as the manifest names them."""
_MOST_BLOCKS = 64
_CELLS = 1 << 24  # cells of a bucket at which equal ones are first summed
FEWEST_EVENTS = 5
"""Training events that an item needs for a vector of its own, where its category is known.

The vector of a rarer one says who bought it, which in training is the answer: on a third of the
groceries' users the test AUC is .754 with own vectors for all, .788 from 5 events on and .792 from
10 on; on check-ins .9615, .9623 and .9602.
"""


@dataclass(frozen=True)
class VectorOptions:
    """Which features get vectors, and what counts as occurring together.

    Attributes:
        features: mapping of feature to the length of its vectors, or to the path of a file with
            given ones.
        coarse_clock: bool. Whether the order of the log decides among events of the same time.
        gap: int or None. A longer pause starts a new session.
        hashed: mapping of hashed feature to its number of buckets.
    """

    features: Mapping[str, int | str]
    coarse_clock: bool = False
    gap: int | None = None
    hashed: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.gap is not None and not self.counted:
            raise InputError(f"--gap needs vectors learned from a log. Received: {self.gap}")

    @property
    def counted(self) -> dict[str, int]:
        """The features whose vectors are learned from pairs, and the vectors' length."""
        return {name: value for name, value in self.features.items() if isinstance(value, int)}

    @property
    def given(self) -> dict[str, str]:
        """The features whose vectors are given, and the path of the file."""
        return {name: value for name, value in self.features.items() if isinstance(value, str)}


class _CountPairs(beam.DoFn):
    def __init__(self, options: VectorOptions, blocks: int):
        self._options, self._blocks = options, blocks
        self._facts: RowFacts | None = None

    def process(
        self, behaviors: Behaviors, facts: RowFacts
    ) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        if self._facts is not facts:  # once per worker
            self._facts = facts
            self._cells = {name: _Cells(facts, name, self._blocks) for name in facts.counts}
        options = self._options
        baskets = find_baskets(behaviors, options.coarse_clock, options.gap)
        for name in options.counted:
            rows = behaviors.rows[name]
            keep = events_to_pair(rows, baskets)
            limits = limit_pairs(facts.events, len(facts.counts[name]))
            counted = self._cells[name].start(rows[keep])
            for pairs in list_pairs(behaviors, baskets, keep, limits):
                counted.add(*pairs)
            for block, part in enumerate(counted.layout.split(counted.result())):
                if len(part) or not block:  # so that every feature has a block
                    yield (name, block), part


class _Cells:
    """The layout of a feature's matrix, its lines and its columns by row id."""

    def __init__(self, facts: RowFacts, name: str, blocks: int):
        counts = facts.counts[name]
        contexts = choose_contexts(counts)
        self._layout = Layout(len(counts), len(contexts), blocks)
        self._first = self._layout.first_cell(np.arange(len(counts)))
        self._column = np.full(len(counts), -1)
        self._column[contexts] = np.arange(len(contexts))

    def start(self, rows: np.ndarray) -> _Sum:
        """Starts the sums of pairs of events with these row ids."""
        return _Sum(self._layout, self._first[rows], self._column[rows])


class _Sum:
    """Weights by cell so far; equal cells are summed each time their number has doubled.

    Args:
        layout: Layout.
        first: int64 ``[E]``. The first cell of each event's line.
        column: int64 ``[E]``. The column of each event's id, -1: it is no context.
    """

    def __init__(self, layout: Layout, first: np.ndarray, column: np.ndarray):
        self.layout, self._first, self._column = layout, first, column
        self._all = layout.contexts == layout.size - FIRST_ID
        self._parts: list[np.ndarray] = []
        self._size, self._limit = 0, _CELLS

    def add(self, earlier: np.ndarray, later: np.ndarray, weights: np.ndarray) -> None:
        """Adds pairs, given by the indices of their events, to both events' lines."""
        for event, other in ((earlier, later), (later, earlier)):
            cells, column = self._first[event], self._column[other]
            cells += column
            packed = self.layout.pack(cells, weights)
            self._parts.append(packed if self._all else packed[column >= 0])
            self._size += len(self._parts[-1])
        if self._size >= self._limit:
            self._parts = [self.result()]
            self._size = len(self._parts[0])
            self._limit = max(_CELLS, 2 * self._size)

    def result(self) -> np.ndarray:
        """Returns the packed cells, sorted, each once."""
        return self.layout.pack(*self.layout.sum(self._parts))


class _SumBlock(beam.DoFn):
    def __init__(self, blocks: int):
        self._blocks = blocks

    def process(self, element, facts: RowFacts) -> Iterator[tuple[str, Block]]:
        (name, _), parts = element
        counts = facts.counts[name]
        layout = Layout(len(counts), count_contexts(counts), self._blocks)
        yield name, make_block(layout, parts)


class _WriteVectors(beam.DoFn):
    """Writes the vectors of one feature; yields its name and its entry of the manifest."""

    def __init__(self, options: VectorOptions, folder: str, prefix: str, item: str):
        self._options, self._item = options, item
        self._folder, self._prefix = folder, prefix

    def process(self, element, facts: RowFacts) -> Iterator[tuple[str, dict[str, Any]]]:
        name, blocks = element
        contexts = choose_contexts(facts.counts[name])
        matrix = information_matrix(blocks, len(facts.counts[name]), len(contexts))
        vectors = factorize(matrix, contexts, self._options.counted[name])
        if name == self._item and facts.category is not None:
            rare = facts.counts[name] < FEWEST_EVENTS
            vectors[rare & (facts.category > 0)] = 0  # filled with the category's mean
        yield name, self._write(name, vectors, facts, COOCCURRENCE, {"pairs": int(matrix.nnz)})

    def _write(
        self, name: str, vectors: np.ndarray, facts: RowFacts, origin: str, more: dict[str, int]
    ) -> dict[str, Any]:
        category = facts.category if name == self._item else None
        vectors, filled = fill_from_category(vectors, category)
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
        ids: Hashed | Vocabulary
        if buckets is None:
            file = f"{self._vocabularies}/{VOCABULARY_FOLDER}/{name}.tsv"
            ids = Vocabulary.load(read_file(file))
        else:
            ids = Hashed(buckets)
        vectors, known = vectors_of_rows(*read_given(path, name), ids)
        yield (
            name,
            self._write(name, scale_to_length_1(vectors), facts, GIVEN, {"ids": known}),
        )


def fill_from_category(vectors: np.ndarray, category: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Gives rows without a vector the mean of their category's, scaled to length 1.

    Args:
        vectors: float32 ``[V, D]``. Rows of zeros are filled.
        category: int32 ``[V]`` or None. The category of every row, 0: unknown; None: of all.

    Returns:
        The vectors, and how many rows were filled.
    """
    has = vectors.any(axis=1)
    if category is None or has.all():
        return vectors, 0
    source = np.flatnonzero(has & (category > 0))
    target = np.flatnonzero(~has & (category > 0))
    shape = (int(category.max()) + 1, len(vectors))
    members = scipy.sparse.csr_matrix((np.ones(len(source)), (category[source], source)), shape)
    sums = scale_to_length_1(members @ vectors.astype(np.float64))
    vectors = vectors.copy()
    vectors[target] = sums[category[target]]
    return vectors, int(vectors[target].any(axis=1).sum())


def to_npz(vectors: np.ndarray) -> bytes:
    """Returns the content of a file of vectors; equal vectors give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors)
    return buffer.getvalue()


class LearnVectors(beam.PTransform):
    """(Behaviors, RowFacts) -> files of vectors, and one dict of feature to its manifest's entry.

    Facts may come in parts, which are added up.

    Args:
        options: VectorOptions.
        buckets: int. Buckets of users.
        folder: str. Where the files are written.
        prefix: str. Start of the files' names, below the folder.
        item: str. The feature whose rows have a category.
        vocabularies: str. The folder of sequences whose vocabularies give the rows.
    """

    def __init__(
        self,
        options: VectorOptions,
        buckets: int,
        folder: str,
        prefix: str,
        item: str,
        vocabularies: str,
    ):
        super().__init__()
        self._options = options
        blocks = min(buckets, _MOST_BLOCKS)
        self._count, self._sum = _CountPairs(options, blocks), _SumBlock(blocks)
        self._write = _WriteVectors(options, folder, prefix, item)
        self._write_given = _WriteGiven(options, folder, prefix, item, vocabularies)

    def expand(self, sources):
        behaviors, facts = sources
        # combined: some runners read an uncombined side input before it is complete
        facts = beam.pvalue.AsSingleton(facts | "AddFacts" >> beam.CombineGlobally(add_facts))
        entries = []
        if self._options.counted:
            entries.append(
                behaviors
                | "CountPairs"
                >> beam.ParDo(self._count, facts).with_output_types(tuple[tuple[str, int], Any])
                | "GroupByBlock" >> beam.GroupByKey()
                | "SumBlock" >> beam.ParDo(self._sum, facts).with_output_types(tuple[str, Any])
                | "GroupByFeature" >> beam.GroupByKey()
                | "WriteVectors"
                >> beam.ParDo(self._write, facts).with_output_types(tuple[str, Any])
            )
        if self._options.given:
            entries.append(
                behaviors.pipeline
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
