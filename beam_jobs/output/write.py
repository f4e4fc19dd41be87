"""WriteSequences, WriteRejected and WriteTally: elements -> files of a folder of sequences."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import apache_beam as beam
import numpy as np

from beam_jobs.reading.events import RejectedRows
from beam_jobs.reading.inputs import Chunk
from beam_jobs.requests.build import Shard
from beam_jobs.shared.storage import new_file, write_file
from beam_jobs.shared.tallies import AddTallies
from tfdare.sequences.record import GZIP_SUFFIX, write_framed

REJECTED_FOLDER = "rejected"
TALLY_FILE = "tally.json"
FRAME = 16
"""Bytes that a TFRecord file adds to every record."""
_BLOCK_BITS = 18  # a file of rejected rows covers 2**18 lines of a chunk


def records_digest(records: Iterable[bytes]) -> int:
    """Sums a hash of every record; the sum does not depend on their order or shards."""
    return sum(
        int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") for data in records
    )


class _WriteShard(beam.DoFn):
    def __init__(self, folder: str, shards: int, packed: bool, most: int | None):
        self._folder, self._shards, self._packed, self._most = folder, shards, packed, most

    def process(self, shard: Shard) -> Iterator[dict[str, int]]:
        for number, records in enumerate(self._parts(shard.records)):
            part = f"{shard.number:05d}" + (f"-{number:04d}" if self._most else "")
            name = f"part-{part}-of-{self._shards:05d}.tfrecord"
            name += GZIP_SUFFIX if self._packed else ""
            with new_file(f"{self._folder}/{shard.split}/{name}") as file:
                with self._packed_file(file) as target:
                    for data in records:
                        write_framed(target, data)
        yield {
            f"digest/{shard.split}": records_digest(shard.records),
            f"{shard.split}/bytes": sum(len(data) + FRAME for data in shard.records),
        }

    def _parts(self, records: list[bytes]) -> list[list[bytes]]:
        """Splits the records, in order, into files of limited size."""
        if self._most is None:
            return [records]
        parts: list[list[bytes]] = [[]]
        size = 0
        for data in records:
            if parts[-1] and size + len(data) + FRAME > self._most:
                parts.append([])
                size = 0
            parts[-1].append(data)
            size += len(data) + FRAME
        return parts

    def _packed_file(self, file: BinaryIO):
        if not self._packed:
            return contextlib.nullcontext(file)
        # no name and no time, so that equal records give equal files
        return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)


class WriteSequences(beam.PTransform):
    """Shards -> ``<folder>/<split>/part-*.tfrecord``, and the tally of bytes (before gzip) and
    digests.

    Args:
        folder: str.
        shards: int. Shards of every split.
        packed: bool. Whether files are ``.tfrecord.gz``.
        most: int or None. Bytes of a file at most, unless a single record is longer.
    """

    def __init__(self, folder: str, shards: int, packed: bool = False, most: int | None = None):
        super().__init__()
        self._write = _WriteShard(folder, shards, packed, most)

    def expand(self, shards):
        return shards | "WriteShard" >> beam.ParDo(self._write).with_output_types(Any)


class _WriteRejected(beam.DoFn):
    def __init__(self, folder: str, chunks: list[Chunk]):
        self._folder = folder
        self._files = [(chunk.file, chunk.path) for chunk in chunks]

    def process(self, element, lines: list[tuple[int, int]]) -> Iterator[int]:
        (chunk, block), groups = element
        count = np.zeros(len(self._files), np.int64)
        for number, size in lines:
            count[number] = size
        file, path = self._files[chunk]
        before = sum(
            int(count[number])
            for number in range(chunk - 1, -1, -1)
            if self._files[number][0] == file
        )
        rows = sorted((row for group in groups for row in group), key=lambda row: row.line)
        text = "".join(
            json.dumps(
                {"file": path, "line": before + row.line, "reason": row.reason, "row": row.row},
                ensure_ascii=False,
            )
            + "\n"
            for row in rows
        )
        name = f"part-{chunk:06d}-{block:06d}.jsonl"
        data = text.encode("utf-8", "backslashreplace")
        write_file(f"{self._folder}/{REJECTED_FOLDER}/{name}", data)
        yield len(rows)


def _by_block(rejected: RejectedRows):
    blocks: dict[int, list] = {}
    for row in rejected.rows:
        blocks.setdefault(row.line >> _BLOCK_BITS, []).append(row)
    for block, rows in blocks.items():
        yield (rejected.chunk, block), rows


class WriteRejected(beam.PTransform):
    """RejectedRows -> ``<folder>/rejected/*.jsonl``, each row with its line in the file.

    Sorted by name, the files follow the order of the log.

    Args:
        folder: str.
        chunks: list of Chunk.
        lines: PCollection of (chunk number, number of its lines), which give a row's line in its
            file.
    """

    def __init__(self, folder: str, chunks: list[Chunk], lines):
        super().__init__()
        self._write, self._lines = _WriteRejected(folder, chunks), lines

    def expand(self, rejected):
        # one combined element: some runners read an uncombined side input before it is complete
        lines = self._lines | "AllLines" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
        return (
            rejected
            | "ByBlock" >> beam.FlatMap(_by_block).with_output_types(tuple[tuple[int, int], Any])
            | "GroupByBlock" >> beam.GroupByKey()
            | "WriteRows"
            >> beam.ParDo(self._write, beam.pvalue.AsSingleton(lines)).with_output_types(int)
        )


class WriteTally(beam.PTransform):
    """Tallies -> ``{"tally": their sum, "learned", "vectors"}``, also a file.

    Args:
        folder: str.
        learned: PCollection. Output of LearnVocabularies.
        vectors: PCollection or None. Output of LearnVectors; None: there are no vectors.
    """

    def __init__(self, folder: str, learned, vectors=None):
        super().__init__()
        self._path, self._learned = f"{folder}/{TALLY_FILE}", learned
        self._vectors = vectors

    def expand(self, tallies):
        path = self._path

        def write(tally, learned, vectors=None):
            results = {"tally": tally, "learned": learned, "vectors": vectors or {}}
            write_file(path, json.dumps(results).encode())
            return results

        parts = [self._learned, *([self._vectors] if self._vectors is not None else [])]
        return (
            tallies
            | "AddTallies" >> beam.CombineGlobally(AddTallies())
            | "WriteTally" >> beam.Map(write, *map(beam.pvalue.AsSingleton, parts))
        )
