"""Vectors read from folders: what they must fit, and folders that have none."""

import hashlib
import io
import json

import numpy as np
import pytest

from tests.folders import make_splits, write_folder
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences
from tfdare.sequences.vectors import load_vectors, read_vectors


def write_vectors(folder, arrays, prefix=""):
    """Writes files of vectors; returns their entries."""
    entries = {}
    for name, vectors in arrays.items():
        buffer = io.BytesIO()
        np.savez(buffer, vectors=vectors)
        path = folder / f"{prefix}{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        entries[name] = {
            "file": f"{prefix}{name}.npz",
            "digest": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "columns": vectors.shape[1],
        }
    return entries


def test_a_folder_of_an_earlier_version_has_no_vectors(tmp_path):
    folder = write_folder(tmp_path / "s", make_splits(users=3), vectors=False)
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert not manifest.pop("vectors")  # a key of its own since vectors are written
    path.write_text(json.dumps(manifest))
    folder = open_sequences(folder.path)
    assert folder.vector_columns == {}
    with pytest.raises(
        SchemaError, match="has no vectors of 'item'. It has vectors of: no feature"
    ):
        folder.vectors("item")
    with pytest.raises(SchemaError, match="No vectors at"):
        load_vectors(tmp_path / "s", folder.schema)
    with pytest.raises(SchemaError, match="No vectors at"):
        load_vectors(tmp_path / "none", {})


def test_a_folder_of_vectors(tmp_path):
    arrays = {"item": np.eye(6, 3, dtype=np.float32), "brand": np.ones((4, 2), np.float32)}
    entries = write_vectors(tmp_path, arrays)
    (tmp_path / "vectors.json").write_text(json.dumps({"vectors": entries}))
    vectors = load_vectors(str(tmp_path), {"item": 6, "brand": 4, "category": 9})
    assert list(vectors) == ["item", "brand"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(vectors[name], array)
    with pytest.raises(SchemaError, match=r"must hold float32 \[7, 3\] for 'item'"):
        load_vectors(tmp_path, {"item": 7, "brand": 4})
    with pytest.raises(SchemaError, match="has vectors of brand; features are item"):
        load_vectors(tmp_path, {"item": 6})
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(SchemaError, match=r"vectors\.json of .* is not JSON"):
        load_vectors(tmp_path, {"item": 6})


def test_the_vectors_of_a_folder_of_sequences(tmp_path):
    folder = tmp_path / "sequences"
    entries = write_vectors(folder, {"item": np.eye(6, 3, dtype=np.float32)}, "vectors/")
    (folder / "manifest.json").write_text(json.dumps({"vectors": entries}))
    for path in (folder, folder / "vectors"):
        assert load_vectors(path, {"item": 6})["item"].shape == (6, 3)
    (folder / "train").mkdir()
    with pytest.raises(SchemaError, match="No vectors at"):
        load_vectors(folder / "train", {"item": 6})


def test_damaged_files_are_refused(tmp_path):
    arrays = {"item": np.eye(6, 3, dtype=np.float32)}
    entry = write_vectors(tmp_path, arrays)["item"]
    with pytest.raises(SchemaError, match="have no 'columns'"):
        read_vectors(str(tmp_path), "item", {"file": "item.npz", "digest": ""}, 6)
    with pytest.raises(SchemaError, match="were changed after the run"):
        read_vectors(str(tmp_path), "item", {**entry, "digest": "0" * 64}, 6)
    for content in (b"no archive", b"PK\x03\x04 cut"):
        (tmp_path / "item.npz").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        with pytest.raises(SchemaError, match="holds no array 'vectors'"):
            read_vectors(str(tmp_path), "item", {**entry, "digest": digest}, 6)
    doubles = write_vectors(tmp_path, {"item": np.eye(6, 3)})["item"]
    with pytest.raises(SchemaError, match=r"Received: float64 \[6, 3\]"):
        read_vectors(str(tmp_path), "item", doubles, 6)
