"""Opens and checks a folder of sequences that the Beam job wrote, without TensorFlow.

Layout::

    schema.json  manifest.json  _SUCCESS
    prepare.yaml                                   the options that repeat the run
    vocabulary/<feature>.tsv                       raw_id <TAB> count, most frequent first (an
                                                   earlier run's ids before new ones), also of
                                                   categorical context features
    train|validation|test/part-00000-of-00008.tfrecord, or .tfrecord.gz
    vectors/<feature>.npz                          a vector for every row id, see
                                                   :mod:`tfdare.sequences.vectors`
    rejected/*.jsonl                               one {"file", "line", "reason", "row"} per line
    events/part-00000-of-00008.arrow               with --keep_events: all events, for --since
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.schema import INT64, Schema, SchemaError
from tfdare.schema.differences import differences
from tfdare.sequences.record import GZIP_SUFFIX, UserRecord, context_dtypes, decode, read_records
from tfdare.sequences.vectors import read_vectors

SPLITS = ("train", "validation", "test")
SUCCESS = "_SUCCESS"


@dataclass(frozen=True)
class Sequences:
    """An opened folder of sequences.

    Attributes:
        path: str. The folder.
        schema: Schema. Its ``schema.json``.
        manifest: mapping. Its ``manifest.json``: counts, digests, options, code version.
    """

    path: str
    schema: Schema
    manifest: Mapping[str, Any]

    def files(self, split: str) -> list[str]:
        """Lists the TFRecord files of one split, sorted.

        Raises:
            SchemaError: no such split, or no file.
        """
        if split not in SPLITS:
            raise SchemaError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
        names = os.path.join(glob.escape(self.path), split, "part-*.tfrecord")
        paths = sorted([*glob.glob(names), *glob.glob(names + GZIP_SUFFIX)])
        if not paths:
            raise SchemaError(f"No TFRecord files under {os.path.join(self.path, split)!r}")
        return paths

    def requests(self, split: str) -> int:
        """Returns the number of requests of one split, from the manifest."""
        return self._count(split, "requests")

    def users(self, split: str) -> int:
        """Returns the number of users of one split, from the manifest."""
        return self._count(split, "users")

    def candidates(self, split: str) -> int:
        """Returns the number of candidates of one split, from the manifest."""
        return self._count(split, "candidates")

    def bytes(self, split: str) -> int:
        """Returns the size of the records of one split in bytes, from the manifest."""
        return self._count(split, "bytes")

    def _count(self, split: str, part: str) -> int:
        try:
            return int(self.manifest["counts"]["splits"][split][part])
        except KeyError as error:
            raise SchemaError(
                f"The manifest.json of {self.path!r} does not count {part} of {split!r}"
            ) from error

    def records(self, split: str) -> Iterator[UserRecord]:
        """Reads every user's record of one split, in file order."""
        context = context_dtypes(self.schema.context)
        for path in self.files(split):
            for data in read_records(path):
                yield decode(data, self.schema.names, context)

    def vocabulary_path(self, name: str) -> str:
        """Returns the path of the vocabulary file of (context) feature ``name``.

        Raises:
            SchemaError: the schema has no such feature, or names no file for it.
        """
        parts = self.schema.categorical
        for part in parts:
            if part.name == name and part.vocabulary:
                return os.path.join(self.path, part.vocabulary)
            if part.name == name and part.hash_buckets:
                raise SchemaError(
                    f"Feature {name!r} of {self.path!r} is hashed: its rows are shared by raw ids "
                    "that no file lists"
                )
        raise SchemaError(
            f"No vocabulary for feature {name!r}. Features: {tuple(part.name for part in parts)}"
        )

    def vocabulary(self, name: str) -> np.ndarray:
        """Reads the raw ids of (context) feature ``name``.

        Returns:
            int64, or bytes (UTF-8) where ids are text; element ``i`` has row ``i + 2``.
        """
        with open(self.vocabulary_path(name), "rb") as file:
            ids = [line.split(b"\t", 1)[0] for line in file]
        (dtype,) = (part.dtype for part in self.schema.categorical if part.name == name)
        return np.array(ids, np.int64) if dtype == INT64 else np.array(ids, bytes)

    def frequencies(self, name: str) -> np.ndarray:
        """Reads how often each id of (context) feature ``name`` occurred in the training period.

        Returns:
            int64; element ``i`` has row ``i + 2``.
        """
        with open(self.vocabulary_path(name), encoding="utf-8") as file:
            return np.array([int(line.split("\t", 1)[1]) for line in file], np.int64)

    @property
    def vector_columns(self) -> dict[str, int]:
        """The features that have vectors, and the vectors' length; empty without any."""
        entries = self.manifest.get("vectors", {})
        return {name: int(entry["columns"]) for name, entry in entries.items()}

    def vectors(self, name: str) -> np.ndarray:
        """Reads the vectors of feature ``name``: learned from co-occurrence, or given.

        Returns:
            float32 ``[vocabulary_size, columns]``, of length 1 or 0; row ``i`` is row id ``i``.

        Raises:
            SchemaError: the folder has no vectors of the feature, or they were changed.
        """
        if name not in self.vector_columns:
            raise SchemaError(
                f"{self.path!r} has no vectors of {name!r}. It has vectors of: "
                f"{', '.join(self.vector_columns) or 'no feature'}. Prepare it with --vectors, or "
                "run `python -m beam_jobs.vectors`"
            )
        (size,) = (part.vocabulary_size for part in self.schema.features if part.name == name)
        return read_vectors(self.path, name, self.manifest["vectors"][name], size)


def open_sequences(path: str, digest: str | None = None) -> Sequences:
    """Opens a finished folder of sequences.

    Args:
        path: str. The folder that ``beam_jobs.build_sequences`` wrote.
        digest: str or None. ``Schema.digest`` that the folder must have.

    Raises:
        SchemaError: no such folder, no ``_SUCCESS`` (an unfinished run), a vocabulary file that is
            not the one the schema names, or another digest than ``digest``.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise SchemaError(f"No folder of sequences at {path!r}")
    if not os.path.exists(os.path.join(path, SUCCESS)):
        raise SchemaError(
            f"{path!r} has no {SUCCESS}: it is not a finished folder of sequences. "
            "Build it with `tfdare prepare`."
        )
    schema = Schema.from_json(_text(path, "schema.json"))
    if digest is not None and schema.digest != digest:
        raise SchemaError(
            f"{path!r} has schema digest {schema.digest[:12]}, but {digest[:12]} is needed: "
            "these sequences have other features, vocabularies, window or split."
        )
    text = _text(path, "manifest.json")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise SchemaError(f"The manifest.json of {path!r} is not JSON: {error}") from error
    sequences = Sequences(path, schema, manifest)
    for feature in schema.categorical:
        if feature.vocabulary and feature.digest:
            actual = file_digest(sequences.vocabulary_path(feature.name))
            if actual != feature.digest:
                raise SchemaError(
                    f"{feature.vocabulary!r} in {path!r} has digest {actual[:12]}, but the schema "
                    f"says {feature.digest[:12]}: the vocabulary was changed after the run."
                )
    return sequences


def open_matching(path: str, trained: Schema) -> Sequences:
    """Opens a folder of sequences for a model that was trained on `trained`.

    Raises:
        SchemaError: the folder is not finished, or its data differ from what the model was
            trained on; the message says in what.
    """
    sequences = open_sequences(path)
    schema = sequences.schema
    if schema.digest != trained.digest:
        raise SchemaError(
            f"{path!r} has schema digest {schema.digest[:12]}, but the model was trained on "
            f"{trained.digest[:12]}: {'; '.join(differences(trained, schema))}. Evaluate on "
            "sequences of the same run of `tfdare prepare`, or train anew on these"
        )
    return sequences


def _text(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError as error:
        raise SchemaError(f"{folder!r} has no {name}") from error


def file_digest(path: str) -> str:
    """Computes the SHA-256 of a file's bytes.

    Raises:
        SchemaError: there is no such file.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError as error:
        raise SchemaError(f"Missing file: {path!r}") from error
    return digest.hexdigest()
