"""How records are written: packed or as lists, in files of a size, by ids or by hashes of ids."""

import functools
import operator

import numpy as np
import pytest

from beam_jobs.vocabulary.catalog import Hashed
from tests.beam_jobs.conftest import SMALL
from tests.beam_jobs.histories.test_earlier_run import RICH, make_days
from tests.harness import run_doctests
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.schema.id_hash import collisions, expected_collisions, hash_rows
from tfdare.sequences import SPLITS


def same_requests(first, second, **options):
    for split in SPLITS:
        pairs = zip(
            read_requests(first, split, 7, **options),
            read_requests(second, split, 7, **options),
            strict=True,
        )
        for (inputs, label, weight), (again, label_again, weight_again) in pairs:
            assert inputs.keys() == again.keys()
            for name in inputs:
                np.testing.assert_array_equal(inputs[name], again[name], name)
            np.testing.assert_array_equal(label, label_again)
            np.testing.assert_array_equal(weight, weight_again)


def test_lists_are_read_as_packed_records_are(prepare, tmp_path):
    days = make_days(tmp_path)
    packed = prepare(days, *RICH, output="packed")
    lists = prepare(days, *RICH, "--encoding", "lists", "--compression", "gzip", output="lists")
    assert lists.code == 0, lists.err
    assert lists.sequences.schema.encoding == "lists"
    assert lists.manifest["counts"]["splits"]["train"]["requests"] > 20
    same_requests(packed.sequences, lists.sequences)
    same_requests(packed.sequences, lists.sequences, shuffle=30, with_history_facts=True)
    for split in SPLITS:
        for record, other in zip(packed.sequences.records(split), lists.sequences.records(split)):
            assert record.user == other.user
            for name in ("item", "category", "tags"):
                np.testing.assert_array_equal(record.history[name], other.history[name])
            np.testing.assert_array_equal(record.request_time, other.request_time)
            np.testing.assert_array_equal(record.context["price"], other.context["price"])
            assert other.label.dtype == np.uint8 and other.context["price"].dtype == np.float32


def test_tensorflow_reads_lists_as_ragged_features(prepare, log):
    lists = prepare(log, *SMALL, "--encoding", "lists")
    data = tf.data.TFRecordDataset(lists.sequences.files("train")).batch(1000)
    kinds = {
        name: tf.io.RaggedFeature(tf.int64)
        for name in (
            "history_item",
            "history_category",
            "history_time",
            "position",
            "target_length",
            "target_item",
            "target_category",
            "label",
            "request_time",
        )
    }
    (parsed,) = (
        tf.io.parse_example(batch, {**kinds, "user": tf.io.FixedLenFeature([], tf.string)})
        for batch in data
    )
    records = list(lists.sequences.records("train"))
    assert parsed["user"].numpy().tolist() == [record.user.encode() for record in records] != []
    for index, record in enumerate(records):
        for name, values in {
            "history_item": record.history["item"],
            "label": record.label,
            "target_category": record.target["category"],
            "position": record.position,
        }.items():
            assert parsed[name][index].numpy().tolist() == values.tolist()


def test_files_of_a_size(prepare, log):
    whole = prepare(log, *SMALL)
    parts = prepare(log, *SMALL, "--shard_bytes", 2000, output="parts")
    assert parts.manifest["digests"] == whole.manifest["digests"]
    assert parts.manifest["counts"] == whole.manifest["counts"]
    files = {split: parts.sequences.files(split) for split in SPLITS}
    assert len(files["train"]) > len(whole.sequences.files("train"))
    for path in functools.reduce(operator.iadd, files.values(), []):
        with open(path, "rb") as file:
            size = len(file.read())
        one_record = len(list(tf.data.TFRecordDataset(path))) <= 1
        assert size <= 2000 or one_record
    same = zip(parts.sequences.records("test"), whole.sequences.records("test"), strict=True)
    assert all(record.user == other.user for record, other in same)


def test_hashed_features_share_rows(prepare, tmp_path):
    days = make_days(tmp_path)
    plain = prepare(days, *RICH, output="plain")
    options = ("--hash_buckets", "item=50", "city=3", "tags=1000")
    hashed = prepare(days, *RICH, *options, output="hashed")
    again = prepare(days, *RICH, *options, "--buckets", "5", output="again")
    assert hashed.code == 0, hashed.err
    assert hashed.manifest["digests"] == again.manifest["digests"]
    schema = hashed.sequences.schema
    assert schema.item.hash_buckets == 50 and schema.item.vocabulary_size == 52
    assert schema.features[1].hash_buckets == 0 and schema.features[1].vocabulary
    assert {path.name for path in (hashed.output / "vocabulary").iterdir()} == {
        "category.tsv",
        "hour.tsv",
    }
    raw = {
        name: np.concatenate([[-1, -1], plain.sequences.vocabulary(name)])
        for name in ("item", "city", "tags")
    }
    compared = 0
    for record, other in zip(plain.sequences.records("train"), hashed.sequences.records("train")):
        rows, values = other.history["item"], raw["item"][record.history["item"]]
        known = values >= 0  # the plain vocabulary asks for two events
        np.testing.assert_array_equal(rows[known], hash_rows(values[known], 50))
        compared += int(known.sum())
        assert rows.min() >= 2 and rows.max() < 52
        some = record.history["tags"] > 1
        np.testing.assert_array_equal(
            other.history["tags"][some], hash_rows(raw["tags"][record.history["tags"][some]], 1000)
        )
        np.testing.assert_array_equal(other.history["tags"] == 0, record.history["tags"] == 0)
        np.testing.assert_array_equal(
            other.context["city"], hash_rows(raw["city"][record.context["city"]], 3)
        )
    assert compared > 100
    vocabulary = hashed.manifest["vocabularies"]["item"]
    assert vocabulary["hash_buckets"] == 50 and vocabulary["ids"] > 20
    assert vocabulary["ids_expected_to"] == expected_collisions(vocabulary["ids"], 50)
    assert abs(vocabulary["ids_sharing_a_row"] - vocabulary["ids_expected_to"]) < 0.2
    assert "hashed      item:" in hashed.out


def test_collisions_come_as_expected():
    ids = np.arange(20_000) * 7
    for buckets in (2_000, 20_000, 200_000):
        share = collisions(ids, buckets)
        assert share == pytest.approx(expected_collisions(20_000, buckets), abs=0.01)
    assert expected_collisions(1, 10) == 0 and expected_collisions(2, 1) == 1
    assert collisions(np.array([5]), 3) == 0 and collisions(np.zeros(0, np.int64), 3) == 0
    rows = Hashed(9).rows(np.array([[4, -1], [-1, -1]]))
    assert rows[0, 0] >= 2 and rows[0, 1] == rows[1, 0] == rows[1, 1] == 0
    assert run_doctests("tfdare.schema.id_hash") > 0


def test_invalid_encoding_options_are_refused(prepare, log):
    for more, words in [
        (("--hash_buckets", "brand=3"), "--hash_buckets: no feature 'brand'"),
        (("--hash_buckets", "item=0"), "must be name=ids, 1 or more. Received: item=0"),
        (("--hash_buckets", "item=9", "--max_size", "item=5"), "to limit: item"),
        (("--encoding", "json"), "--encoding: invalid choice: 'json'"),
        (("--shard_bytes", "0"), "--shard_bytes must be at least 1. Received: 0"),
    ]:
        refused = prepare(log, *SMALL, *more, output="refused")
        assert refused.code == 2 and words in refused.err, refused.err


def test_hashed_vocabularies_go_on_with_since(prepare, tmp_path):
    days = make_days(tmp_path)
    options = (*RICH, "--hash_buckets", "item=64")
    first = prepare(days[0], *options, "--keep_events", output="first")
    second = prepare(days[1], *options, "--since", str(first.output), buckets=None, output="second")
    assert second.code == 0, second.err
    whole = prepare(
        days[:2], *options, "--vocabulary_from", str(second.output), "--keep_events", output="whole"
    )
    assert whole.manifest["digests"] == second.manifest["digests"]
    other = prepare(
        days[1],
        *RICH,
        "--hash_buckets",
        "item=65",
        "--since",
        str(first.output),
        buckets=None,
        output="other",
    )
    assert other.code == 2 and "made with other options: hash_buckets" in other.err
