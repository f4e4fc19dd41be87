"""Folders of sequences: opened only if finished and whole."""

import dataclasses
import json
import os

import numpy as np
import pytest

from tests.folders import CONTEXT, MULTI_HOT, SIZES, TIME_GAP, make_splits, write_folder
from tfdare.schema import Schema, SchemaError
from tfdare.sequences import SPLITS, open_sequences


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "sequences"
    write_folder(path, make_splits(users=5), shards=2)
    return path


def test_opens_what_was_written(folder):
    splits = make_splits(users=5)
    opened = open_sequences(str(folder))
    assert opened.schema == Schema.load(str(folder / "schema.json"))
    for split in SPLITS:
        assert [os.path.basename(path) for path in opened.files(split)] == [
            "part-00000-of-00002.tfrecord",
            "part-00001-of-00002.tfrecord",
        ]
        expected = splits[split][0::2] + splits[split][1::2]
        records = list(opened.records(split))
        assert [record.user for record in records] == [record.user for record in expected]
        for actual, record in zip(records, expected):
            assert actual.history["item"].tolist() == record.history["item"].tolist()
            assert actual.target["category"].tolist() == record.target["category"].tolist()
            assert actual.label.tolist() == record.label.tolist()
        assert opened.requests(split) == sum(len(record.position) for record in records)
        assert opened.candidates(split) == sum(len(record.label) for record in records)


def test_opens_tags_context_and_time(tmp_path):
    path, extras = tmp_path / "rich", {"multi_hot": MULTI_HOT, "context": CONTEXT}
    splits = make_splits(users=3, **extras)
    opened = write_folder(path, splits, time_gap=TIME_GAP, **extras)
    assert opened.schema.time_gap == TIME_GAP and opened.users("test") == 3
    assert [part.name for part in opened.schema.context] == ["hour", "interests", "price"]
    for actual, record in zip(opened.records("train"), splits["train"], strict=True):
        assert actual.history["tags"].tolist() == record.history["tags"].tolist()
        assert actual.request_time.tolist() == record.request_time.tolist()
        assert set(actual.context) == {"hour", "interests", "price"}
        for name, values in actual.context.items():
            assert values.tobytes() == record.context[name].tobytes()
    assert len(opened.vocabulary("hour")) == 4 and len(opened.vocabulary("tags")) == 7
    with pytest.raises(SchemaError, match="'price'.*'tags', 'hour', 'interests'"):
        opened.vocabulary("price")
    with open(path / "vocabulary/hour.tsv", "a", encoding="utf-8") as file:
        file.write("99\t1\n")
    with pytest.raises(SchemaError, match="vocabulary/hour.tsv.*changed"):
        open_sequences(path)


def test_takes_a_path_object_and_its_digest(folder):
    opened = open_sequences(folder)
    assert open_sequences(folder, opened.schema.digest).path == str(folder)
    assert open_sequences(folder, opened.schema.with_dims(3, 5).digest).schema == opened.schema


def test_vocabulary_row_of_an_id(folder):
    ids = open_sequences(folder).vocabulary("category")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1000, 1007, 1014, 1021, 1028]
    assert len(ids) == SIZES["category"] - 2


def test_glob_characters_in_the_path(tmp_path):
    path = tmp_path / "run [1]*"
    write_folder(path, make_splits(users=2))
    assert len(open_sequences(path).files("train")) == 1


def _no_folder(folder):
    os.rename(folder, f"{folder}.away")


def _unfinished(folder):
    os.remove(folder / "_SUCCESS")


def _changed_vocabulary(folder):
    with open(folder / "vocabulary/category.tsv", "a", encoding="utf-8") as file:
        file.write("99\t1\n")


def _no_vocabulary(folder):
    os.remove(folder / "vocabulary/item.tsv")


def _no_schema(folder):
    os.remove(folder / "schema.json")


def _no_manifest(folder):
    os.remove(folder / "manifest.json")


def _broken_manifest(folder):
    (folder / "manifest.json").write_text('{"counts": ')


@pytest.mark.parametrize(
    "damage, words",
    [
        (_no_folder, ["No folder"]),
        (_unfinished, ["_SUCCESS", "not a finished folder"]),
        (_changed_vocabulary, ["vocabulary/category.tsv", "changed"]),
        (_no_vocabulary, ["Missing file", "item.tsv"]),
        (_no_schema, ["has no schema.json"]),
        (_no_manifest, ["has no manifest.json"]),
        (_broken_manifest, ["manifest.json", "not JSON"]),
    ],
)
def test_damaged_folders_are_refused(folder, damage, words):
    damage(folder)
    with pytest.raises(SchemaError) as error:
        open_sequences(folder)
    for word in [*words, str(folder)]:
        assert word in str(error.value)


def test_another_digest_is_refused(folder):
    schema = open_sequences(folder).schema
    other = dataclasses.replace(schema, window=schema.window + 1).digest
    with pytest.raises(SchemaError) as error:
        open_sequences(folder, other)
    assert other[:12] in str(error.value) and schema.digest[:12] in str(error.value)


def test_splits_that_are_not_there(folder):
    opened = open_sequences(folder)
    with pytest.raises(SchemaError, match="split='Train'"):
        opened.files("Train")
    for path in opened.files("test"):
        os.remove(path)
    with pytest.raises(SchemaError, match="No TFRecord files under .*test"):
        opened.files("test")


def test_counts_that_are_not_there(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["counts"]["splits"]["test"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaError, match="does not count requests of 'test'"):
        open_sequences(folder).requests("test")


def test_a_feature_that_is_not_there(folder):
    with pytest.raises(SchemaError, match="'shop'.*'item', 'category'"):
        open_sequences(folder).vocabulary("shop")
