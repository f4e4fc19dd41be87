"""Text ids: a run works on their codes, which are hashes; the texts are kept beside.

The ids of a feature are text where the log has them so: "SKU-0025/b", a UUID, an integer beyond
the signed 64-bit ones. A code is a non-negative int64, the same in every run
(:func:`beam_jobs.shared.hashing.text_codes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.reading.values import as_bytes, empty_reason, lengths_of, not_utf8, whole_texts
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.hashing import text_codes
from beam_jobs.shared.storage import open_file, write_file
from beam_jobs.shared.vocabulary_file import MISSING

_NULL = rb"\N"
_CONTROLS = r"[\x00-\x1f\x7f]"


@dataclass(frozen=True)
class Texts:
    """What codes stand for.

    Attributes:
        codes: int64 ``[N]``, rising.
        texts: pyarrow Array of bytes ``[N]``.
    """

    codes: np.ndarray
    texts: pa.Array

    @classmethod
    def of(cls, texts: Sequence[pa.Array]) -> Texts:
        """Codes texts, which may repeat.

        Raises:
            InputError: two of them have the same code.
        """
        distinct = pa.chunked_array(texts, pa.binary()).unique()
        codes = text_codes(distinct)
        order = np.argsort(codes, kind="stable")
        codes, distinct = codes[order], distinct.take(pa.array(order))
        if len(same := np.flatnonzero(codes[1:] == codes[:-1])):
            pair = [distinct[int(same[0]) + i].as_py().decode() for i in range(2)]
            raise InputError(f"The ids {pair[0]!r} and {pair[1]!r} have the same 63-bit hash")
        return cls(codes, distinct)

    def decode(self, codes: np.ndarray) -> list[Any]:
        """Returns the text of every code, an empty one for ``MISSING``, as (nested) lists."""
        known = codes != MISSING
        index = np.searchsorted(self.codes, codes[known])
        decoded = np.full(codes.shape, "", object)
        decoded[known] = [text.decode() for text in self.texts.take(pa.array(index)).to_pylist()]
        return decoded.tolist()

    def save(self, file: BinaryIO) -> None:
        """Writes the texts; their codes follow from them."""
        table = pa.table({"text": self.texts})
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=1 << 20)

    @classmethod
    def load(cls, file: BinaryIO) -> Texts:
        """Reads what :meth:`save` wrote."""
        return cls.of(pa.ipc.open_stream(file.read()).read_all()["text"].chunks)


def read_texts(path: str) -> Texts:
    """Reads the file that :class:`WriteTexts` wrote."""
    with open_file(path) as file:
        return Texts.load(file)


class WriteTexts(beam.PTransform):
    """Arrays of texts -> a file with each of them once; gives its path.

    Args:
        path: str. The file.
        earlier: str or None. Such a file of an earlier run, whose texts are added.
    """

    def __init__(self, path: str, earlier: str | None = None):
        super().__init__()
        self._path, self._earlier = path, earlier

    def expand(self, texts):
        path, earlier = self._path, self._earlier

        def write(element: tuple[int, Iterable[pa.Array]]) -> str:
            before = [read_texts(earlier).texts] if earlier else []
            write_file(path, Texts.of([*before, *element[1]]).save)
            return path

        nothing = texts.pipeline | "NoTexts" >> beam.Create([pa.array([], pa.binary())])
        return (
            (texts, nothing)
            | beam.Flatten()
            | "KeyTexts" >> beam.Map(lambda part: (0, part)).with_output_types(tuple[int, Any])
            | "GroupTexts" >> beam.GroupByKey()
            | "WriteTexts" >> beam.Map(write).with_output_types(str)
        )


def text_ids(
    column: pa.Array,
    name: str,
    optional: bool = False,
    wanted: np.ndarray | None = None,
    hashed: bool = False,
) -> tuple[np.ndarray, dict[int, str], pa.Array]:
    """Codes a column of text ids; returns the codes, the reasons of bad rows, and distinct texts.

    Args:
        column: pyarrow Array. Text, or typed: 12 and 12.0 are the text ``12``.
        name: str. Name of the column in reasons.
        optional: bool. Whether a row may be empty; its value is then ``MISSING``.
        wanted: bool ``[E]`` or None. Rows to check; the others get no reason. None: all.
        hashed: bool. As for :func:`beam_jobs.shared.hashing.text_codes`.
    """
    text, inexact = whole_texts(as_bytes(column), name)
    encoded = text.dictionary_encode()
    distinct, code = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)
    empty = (lengths_of(distinct) == 0) | _equals(distinct, _NULL)
    odd = dict.fromkeys(np.flatnonzero(empty).tolist(), empty_reason(name))
    controls = pc.match_substring_regex(distinct, _CONTROLS).to_numpy(zero_copy_only=False)
    odd |= dict.fromkeys(
        np.flatnonzero(controls).tolist(), f"{name} has a control character, such as a tab"
    )
    odd |= not_utf8(distinct, name)
    known = np.ones(len(distinct), bool)
    known[list(odd)] = False
    codes = np.full(len(distinct), MISSING)
    codes[known] = text_codes(distinct.filter(pa.array(known)), hashed)
    if wanted is None:
        wanted = np.ones(len(column), bool)
    reasons = {row: reason for row, reason in inexact.items() if wanted[row]}
    for row in np.flatnonzero(~known[code] & wanted).tolist():
        reason = odd[int(code[row])]
        if not (optional and reason == empty_reason(name)):
            reasons.setdefault(row, reason)
    return codes[code], reasons, distinct.filter(pa.array(known & (not hashed)))


def _equals(texts: pa.Array, value: bytes) -> np.ndarray:
    return pc.equal(texts, pa.scalar(value, pa.binary())).to_numpy(zero_copy_only=False)
