"""Reads vectors of ids that ``tfdare prepare`` or ``beam_jobs.vectors`` wrote, without TensorFlow.

A file ``<feature>.npz`` holds one array, ``vectors``: float32 ``[vocabulary_size, columns]``, a
vector of length 1 or 0 for every row id of the schema, rows 0 (padding) and 1 (out of vocabulary)
zero. Its SHA-256 stands in ``manifest.json`` of a folder of sequences, or in ``vectors.json`` of
a folder that ``beam_jobs.vectors`` wrote.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.schema import Schema, SchemaError

VECTORS_FOLDER = "vectors"
VECTORS_FILE = "vectors.json"
ARRAY = "vectors"
"""Name of the array in a file of vectors."""


def load_vectors(path: str, sizes: Schema | Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads the vectors of all features of a folder.

    Args:
        path: str. A folder of sequences, its folder ``vectors``, or a folder that
            ``beam_jobs.vectors`` wrote.
        sizes: Schema, or mapping of feature to its number of row ids, that the vectors must fit.

    Returns:
        Mapping of feature to float32 ``[vocabulary_size, columns]``.

    Raises:
        SchemaError: there are no vectors, they were changed, or they do not fit `sizes`.
    """
    if isinstance(sizes, Schema):
        sizes = {part.name: part.vocabulary_size for part in sizes.features}
    folder, entries = _entries(os.fspath(path))
    if unknown := sorted(entries.keys() - sizes.keys()):
        raise SchemaError(
            f"{path!r} has vectors of {', '.join(unknown)}; features are {', '.join(sizes)}"
        )
    return {name: read_vectors(folder, name, entry, sizes[name]) for name, entry in entries.items()}


def read_vectors(folder: str, name: str, entry: Mapping[str, Any], size: int) -> np.ndarray:
    """Reads and checks the vectors of one feature.

    Args:
        folder: str. The folder whose manifest has the entry.
        name: str. The feature.
        entry: mapping. What the manifest says of it.
        size: int. Row ids of the feature.

    Raises:
        SchemaError: the file is missing, was changed, or holds other than ``[size, columns]``.
    """
    try:
        path, digest = os.path.join(folder, entry["file"]), entry["digest"]
        shape = (size, int(entry["columns"]))
    except KeyError as error:
        raise SchemaError(f"The vectors of {name!r} in {folder!r} have no {error}") from error
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise SchemaError(f"Missing file of vectors: {path!r}") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != digest:
        raise SchemaError(
            f"{path!r} has digest {actual[:12]}, but {digest[:12]} is recorded: the vectors of "
            f"{name!r} were changed after the run"
        )
    try:
        vectors = np.load(io.BytesIO(data), allow_pickle=False)[ARRAY]
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SchemaError(f"{path!r} holds no array {ARRAY!r}: {error}") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise SchemaError(
            f"{path!r} must hold float32 {list(shape)} for {name!r}. "
            f"Received: {vectors.dtype} {list(vectors.shape)}"
        )
    return vectors


def _entries(path: str) -> tuple[str, Mapping[str, Any]]:
    """Returns the folder that the files' names start from, and the entries by feature."""
    manifests = [(path, VECTORS_FILE), (path, "manifest.json")]
    above, last = os.path.split(os.path.abspath(path))
    if last == VECTORS_FOLDER:
        manifests.append((above, "manifest.json"))
    for folder, name in manifests:
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                entries = json.load(file).get("vectors")
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise SchemaError(f"{name} of {folder!r} is not JSON: {error}") from error
        if entries:
            return folder, entries
    raise SchemaError(
        f"No vectors at {path!r}. Write them with `tfdare prepare` or `python -m beam_jobs.vectors`"
    )
