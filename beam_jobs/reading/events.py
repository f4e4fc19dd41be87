"""ReadEvents: chunks of files -> events by bucket of users, and the rejected rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.reading.formats import Format
from beam_jobs.reading.inputs import Chunk, blocks
from beam_jobs.reading.rows import Events, Rejected, to_events
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.hashing import hash_strings
from beam_jobs.shared.tallies import DAMAGED, TALLY, tagged

EVENTS, REJECTED, LINES, TEXTS = "events", "rejected", "lines", "texts"
_LINE_BITS = 32


@dataclass(frozen=True)
class RejectedRows:
    """Rejected rows of one chunk; lines are counted within the chunk."""

    chunk: int
    rows: tuple[Rejected, ...]


def pack_order(chunk: int, line: np.ndarray) -> np.ndarray:
    """Returns the order of rows in the log, as one int64 that sorts like (chunk, line)."""
    return (np.int64(chunk) << np.int64(_LINE_BITS)) | line.astype(np.int64)


def unpack_order(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns chunk and line within the chunk, from :func:`pack_order`."""
    return order >> _LINE_BITS, order & ((1 << _LINE_BITS) - 1)


class _ReadChunk(beam.DoFn):
    def __init__(
        self, form: Format, buckets: int, chunk_bytes: int, before: int, tally_prefix: str
    ):
        self._form, self._tally_prefix = form, tally_prefix
        self._buckets = buckets
        self._chunk_bytes = chunk_bytes
        self._before = before

    def process(self, chunk: Chunk) -> Iterator[Any]:
        try:
            yield from self._read(chunk)
        except InputError as error:
            # If raised here, it would be retried and buried in the workers' tracebacks. The
            # message goes to the driver with the tally instead, and the run fails there.
            yield tagged({f"{DAMAGED}{error.message}": 1})

    def _read(self, chunk: Chunk) -> Iterator[Any]:
        lines, texts = 0, []
        for block in blocks(chunk, self._form, self._chunk_bytes):
            lines += block.lines
            events, odd, tally = to_events(block.columns, block.line, block.text_of, self._form)
            texts += events.texts
            rejected = [row for row in block.rejected if row.row.strip()] + odd
            tally["rows_read"] += len(rejected) - len(odd)
            for row in rejected:
                name = f"rows_rejected/{row.reason}"
                tally[name] = tally.get(name, 0) + 1
            if rejected:
                rejected.sort(key=lambda row: row.line)
                rows = RejectedRows(chunk.number, tuple(rejected))
                yield beam.pvalue.TaggedOutput(REJECTED, rows)
            order = pack_order(self._before + chunk.number, events.line)
            yield from by_bucket(events, order, self._buckets)
            yield tagged({f"{self._tally_prefix}{name}": count for name, count in tally.items()})
        yield beam.pvalue.TaggedOutput(LINES, (chunk.number, lines))
        yield from distinct_texts(texts)


def distinct_texts(texts: list[pa.Array]) -> Iterator[Any]:
    """Yields the distinct texts of text ids, where there are any, as the output TEXTS."""
    if texts:
        distinct = pa.chunked_array(texts, pa.binary()).unique()
        yield beam.pvalue.TaggedOutput(TEXTS, distinct)


def by_bucket(events: Events, order: np.ndarray, buckets: int) -> Iterator[tuple[int, Events]]:
    """Groups events by the bucket of their user; their order in the log replaces their lines."""
    if not len(events.line):
        return
    user = events.user.dictionary_encode()
    code = user.indices.to_numpy(zero_copy_only=False)
    bucket = (hash_strings(user.dictionary) % np.uint64(buckets)).astype(np.int32)[code]
    rows = np.argsort(bucket, kind="stable")
    edges = np.searchsorted(bucket[rows], np.arange(buckets + 1))
    for number in range(buckets):
        index = rows[edges[number] : edges[number + 1]]
        if len(index):
            columns = {name: column[index] for name, column in events.columns.items()}
            yield number, Events(events.user.take(pa.array(index)), columns, order[index])


class ReadEvents(beam.PTransform):
    """Chunks -> ``events`` (bucket, Events), ``rejected``, number of ``lines`` by chunk, ``tally``,
    and the distinct ``texts`` of text ids.

    The line of an event is its order in the whole log (:func:`pack_order`), after the ``before``
    chunks that earlier runs read. Names of the tally start with ``tally_prefix``.
    """

    def __init__(
        self, form: Format, buckets: int, chunk_bytes: int, before: int = 0, tally_prefix: str = ""
    ):
        super().__init__()
        self._read = _ReadChunk(form, buckets, chunk_bytes, before, tally_prefix)

    def expand(self, chunks):
        return (
            chunks
            | "SpreadChunks" >> beam.Reshuffle()
            | "ReadChunk"
            >> beam.ParDo(self._read)
            .with_outputs(REJECTED, LINES, TEXTS, TALLY, main=EVENTS)
            .with_output_types(Any)
        )
