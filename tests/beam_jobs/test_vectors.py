"""Vectors of ids as files: a stage of prepare, and a job of its own over a folder."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.options import parse
from beam_jobs.vectors import main
from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences
from tfdare.sequences.vectors import load_vectors


def run(sequences, output, *more):
    return main(["--sequences", str(sequences), "--output", str(output), *map(str, more)])


def planted_rows(users=60, groups=4, items=12, events=40, seed=0):
    """Makes users who stay in one group of items each; an item's category says nothing of it."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        group = user % groups
        for time in range(events):
            item = int(random.integers(items))
            rows.append((f"u{user}", group * 100 + item, item % 3, time * 10))
    return rows


def cosines(sequences, name="item"):
    vectors, raw = sequences.vectors(name), sequences.vocabulary(name)
    return raw, vectors[2:] @ vectors[2:].T


def test_ids_that_occur_together_are_closer(prepare, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(csv_text(planted_rows()))
    outcome = prepare(log, *SMALL, "--vectors", "item=4")
    assert outcome.code == 0, outcome.err
    raw, cosine = cosines(outcome.sequences)
    same = raw[:, None] // 100 == raw // 100
    np.fill_diagonal(cosine, np.nan)
    assert np.nanmin(cosine[same]) > np.nanmax(cosine[~same]) + 0.3
    entry = outcome.manifest["vectors"]["item"]
    data = (outcome.output / "vectors" / "item.npz").read_bytes()
    assert entry == {
        "file": "vectors/item.npz",
        "digest": hashlib.sha256(data).hexdigest(),
        "columns": 4,
        "origin": "cooccurrence",
        "pairs": entry["pairs"],
        "category_mean": 0,
        "zero": 0,
    }
    assert entry["pairs"] > 100 and list(outcome.manifest["vectors"]) == ["item"]
    assert f"vectors     item: 4 columns, {entry['pairs']:,} pairs" in outcome.out


def test_every_feature_of_one_value_has_vectors_by_default(prepare, tmp_path):
    log = tmp_path / "log.csv"
    rows = [(*row, row[1] % 3, f"{row[1] % 2}|{row[1] % 5}") for row in made_up_rows()]
    log.write_text(csv_text(rows, "user,item,category,timestamp,brand,tags"))
    features = ("--columns", "brand=brand,tags=tags", "--multi_hot", "tags=2")
    outcome = prepare(log, *SMALL, *features)
    sequences = outcome.sequences
    assert sequences.vector_columns == {"item": 16, "category": 16, "brand": 16}
    for name in sequences.vector_columns:
        vectors = sequences.vectors(name)
        (size,) = (f.vocabulary_size for f in sequences.schema.features if f.name == name)
        assert vectors.shape == (size, 16) and vectors.dtype == np.float32
        assert not vectors[:2].any()
        np.testing.assert_allclose(np.linalg.norm(vectors[2:], axis=1), 1, rtol=1e-6)
    without = prepare(log, *SMALL, *features, "--vectors", "none", output="without")
    assert without.sequences.vector_columns == {} and not (without.output / "vectors").exists()
    # vectors are no part of the schema: a model fits sequences whose vectors are newer
    assert without.manifest["schema_digest"] == outcome.manifest["schema_digest"]
    assert without.manifest["digests"] == outcome.manifest["digests"]


def test_what_occurs_together_only_later_changes_nothing(prepare, tmp_path):
    """Held-out events are of items that no one has together before."""
    split = ("--split", "by_time", "--validation_from", "300", "--test_from", "350")
    rows = planted_rows()
    random = np.random.default_rng(1)
    later = [
        (row[0], int(random.integers(4)) * 100 + row[1] % 100, row[2], row[3])
        if row[3] >= 300
        else row
        for row in rows
    ]
    assert later != rows
    files = []
    for name, content in (("as-before", rows), ("later", later)):
        log = tmp_path / f"{name}.csv"
        log.write_text(csv_text(content))
        outcome = prepare(log, *split, "--min_events", "30", output=name)
        assert outcome.code == 0, outcome.err
        files.append([(outcome.output / "vectors" / f"{n}.npz").read_bytes() for n in NAMES])
    assert files[0] == files[1]
    # neither do the last events of a user, where the split is by user
    cut = [row if row[3] < 380 else (row[0], 300 - row[1] // 100 * 100, 0, row[3]) for row in rows]
    for name, content in (("users", rows), ("users-later", cut)):
        log = tmp_path / f"{name}.csv"
        log.write_text(csv_text(content))
        outcome = prepare(log, *SMALL, output=name)
        files.append([(outcome.output / "vectors" / f"{n}.npz").read_bytes() for n in NAMES])
    assert files[2] == files[3] and files[2] != files[0]


NAMES = ("item", "category")


def same_files(first, *others, name=NAMES):
    for feature in name:
        files = {(folder / f"{feature}.npz").read_bytes() for folder in (first, *others)}
        assert len(files) == 1, feature


def test_neither_buckets_nor_runner_change_a_byte(prepare, log, tmp_path):
    folders = [
        prepare(log, *SMALL, *more, output=f"run-{number}", buckets=buckets).output / "vectors"
        for number, (buckets, more) in enumerate(
            [
                ("1", ()),
                ("4", ()),
                ("4", ("--chunk_bytes", "500")),
                ("3", ("--runner=BundleBasedDirectRunner",)),
                ("3", ("--direct_num_workers=2", "--direct_running_mode=multi_processing")),
            ]
        )
    ]
    same_files(*folders)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--coarse_clock", "--min_count", "2"),
        ("--gap", "3", "--vectors", "item=5", "category=3"),
        ("--hash_buckets", "item=25"),
    ],
    ids=["plain", "coarse", "gap", "hashed"],
)
def test_a_folder_with_events_gives_the_same_vectors(prepare, log, tmp_path, capfd, more):
    folder = prepare(log, *SMALL, *more, "--keep_events")
    options = more if "--gap" in more else ()
    assert run(folder.output, tmp_path / "out", *options) == 0
    assert "vectors     item: " in capfd.readouterr().out
    same_files(folder.output / "vectors", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "vectors.json").read_text())
    before = folder.manifest["vectors"]
    assert content["schema_digest"] == folder.sequences.schema.digest
    assert content["source"] == "events" and content["coarse_clock"] == ("--coarse_clock" in more)
    assert content["vectors"] == {
        name: {**entry, "file": f"{name}.npz"} for name, entry in before.items()
    }
    schema = folder.sequences.schema
    for path in (folder.output, folder.output / "vectors", tmp_path / "out"):
        vectors = load_vectors(path, schema)
        assert list(vectors) == list(NAMES)
        np.testing.assert_array_equal(vectors["item"], folder.sequences.vectors("item"))


def test_a_folder_without_events_gives_those_of_its_training_records(prepare, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(csv_text(planted_rows()))
    folder = prepare(log, *SMALL, "--vectors", "item=4")
    assert run(folder.output, tmp_path / "out", "--vectors", "item=4", "category=2") == 0
    content = json.loads((tmp_path / "out" / "vectors.json").read_text())
    assert content["source"] == "train"
    vectors = load_vectors(tmp_path / "out", folder.sequences.schema)
    assert {name: part.shape[1] for name, part in vectors.items()} == {"item": 4, "category": 2}
    raw = folder.sequences.vocabulary("item")
    cosine = vectors["item"][2:] @ vectors["item"][2:].T
    same = raw[:, None] // 100 == raw // 100
    assert cosine[same].min() > cosine[~same].max() + 0.3


def test_rows_of_a_frozen_vocabulary(prepare, tmp_path):
    rows = planted_rows()
    early, late = tmp_path / "early.csv", tmp_path / "late.csv"
    early.write_text(csv_text(rows))
    # another night: group 0 is gone, group 9 is new, and the frequencies differ
    late.write_text(
        csv_text([(u, i + 900 if i < 100 else i, c, t) for u, i, c, t in rows if i % 7 or t % 20])
    )
    first = prepare(early, *SMALL, output="first")
    second = prepare(late, *SMALL, "--vocabulary_from", str(first.output), output="second")
    assert second.code == 0, second.err
    raw, cosine = cosines(second.sequences)
    np.testing.assert_array_equal(raw, first.sequences.vocabulary("item"))
    gone, group = raw < 100, raw // 100
    vectors = second.sequences.vectors("item")[2:]
    assert not vectors[gone].any() and vectors[~gone].any(axis=1).all()
    assert second.manifest["vectors"]["item"]["zero"] == gone.sum() > 5
    same = (group[:, None] == group) & ~gone & ~gone[:, None]
    other = (group[:, None] != group) & ~gone & ~gone[:, None]
    assert cosine[same].min() > cosine[other].max()


def test_events_of_all_days_count(prepare, tmp_path):
    rows = sorted(made_up_rows(), key=lambda row: row[3])
    days = [tmp_path / "day-0.csv", tmp_path / "day-1.csv"]
    days[0].write_text(csv_text(rows[: len(rows) // 2]))
    days[1].write_text(csv_text(rows[len(rows) // 2 :]))
    first = prepare(days[0], *SMALL, "--keep_events", output="day-0")
    second = prepare(days[1], *SMALL, "--since", str(first.output), output="day-1", buckets=None)
    assert second.code == 0, second.err
    whole = prepare(days, *SMALL, "--vocabulary_from", str(second.output), output="whole")
    same_files(second.output / "vectors", whole.output / "vectors")
    assert (first.output / "vectors" / "item.npz").read_bytes() != (
        (second.output / "vectors" / "item.npz").read_bytes()
    )


def test_an_item_that_occurs_alone_has_the_mean_of_its_category(prepare, tmp_path):
    rows = planted_rows(users=40)  # every other item has 5 events and more
    # alone before and after a long pause: 7000 of a category that others have, 7001 of its own
    rows += [("u0", 7000, 1, -50_000), ("u1", 7001, 9, -50_000)]
    log = tmp_path / "log.csv"
    log.write_text(csv_text([(u, i, c, t + 100_000) for u, i, c, t in rows]))
    outcome = prepare(log, *SMALL, "--gap", "1000")
    sequences = outcome.sequences
    raw, vectors = sequences.vocabulary("item"), sequences.vectors("item")
    category = {item: kind for _, item, kind, _ in rows}
    alone, lone = (int(np.flatnonzero(raw == item)[0]) + 2 for item in (7000, 7001))
    members = [row for row, item in enumerate(raw, 2) if category[item] == 1 and item != 7000]
    mean = vectors[members].mean(axis=0)
    np.testing.assert_allclose(vectors[alone], mean / np.linalg.norm(mean), rtol=1e-5)
    assert not vectors[lone].any()
    entry = outcome.manifest["vectors"]["item"]
    assert (entry["category_mean"], entry["zero"]) == (1, 1)
    assert outcome.manifest["options"]["gap"] == 1000
    assert "1 ids have the mean of their category, 1 ids none" in outcome.out


def write_given(path, ids, vectors, name="id"):
    pq.write_table(pa.table({name: ids, "vector": vectors}), path)
    return path


@pytest.mark.parametrize("column", ["id", "item"])
def test_given_vectors(prepare, log, tmp_path, column):
    plain = prepare(log, *SMALL, "--vectors", "none", output="plain").sequences
    raw = plain.vocabulary("item")
    random = np.random.default_rng(0)
    ids = np.append(raw[3:], 10**9)  # without the three most frequent, with one that is unknown
    given = random.normal(size=(len(ids), 5)).astype(np.float32)
    order = random.permutation(len(ids))
    path = write_given(tmp_path / "v.parquet", ids[order], list(given[order]), column)
    outcome = prepare(log, *SMALL, "--vectors", f"item={path}", "category=3", output="given")
    assert outcome.code == 0, outcome.err
    vectors = outcome.sequences.vectors("item")
    expected = given[:-1] / np.linalg.norm(given[:-1], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[5:], expected, rtol=1e-5)
    entry = outcome.manifest["vectors"]["item"]
    assert entry["origin"] == "given" and entry["columns"] == 5 and entry["category_mean"] == 3
    assert entry["ids"] == len(raw) - 3 and entry["zero"] == 0 and "pairs" not in entry
    np.testing.assert_allclose(np.linalg.norm(vectors[2:5], axis=1), 1, rtol=1e-5)
    assert outcome.sequences.vector_columns == {"item": 5, "category": 3}
    kept = tmp_path / "out"
    assert run(outcome.output, kept, "--vectors", f"item={path}") == 0
    same_files(outcome.output / "vectors", kept, name=("item",))


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        ([1, 2, 1], [[1.0], [2.0], [3.0]], "row 3: id comes twice. Received: 1"),
        ([1, 2], [[1.0, 2.0], [2.0]], "row 2: vector must have 2 numbers, as the first"),
        ([1, 2], [[1.0], [float("nan")]], "row 2: vector has a number that is missing"),
        ([1, 2], [[1.0], [float("inf")]], "row 2: vector has a number that is missing"),
        ([1, 2], [[1.0], [None]], "row 2: vector has a number that is missing"),
        ([1, 2], [[1.0], None], "row 2: vector is empty. Received: None"),
        ([1], pa.array([[]], pa.list_(pa.float32())), "row 1: vector has no numbers"),
        ([1, None], [[1.0], [2.0]], "row 2: id is empty. Received: None"),
        (["a"], [[1.0]], "column 'id' must be of integers. Received: string"),
        ([1], [1.0], "column 'vector' must be of lists of numbers. Received: double"),
        ([1], [["a"]], "column 'vector' must be of lists of numbers"),
    ],
)
def test_bad_given_vectors_are_refused(prepare, log, tmp_path, ids, vectors, words):
    path = write_given(tmp_path / "v.parquet", ids, vectors)
    outcome = prepare(log, *SMALL, "--vectors", f"item={path}")
    assert outcome.code == 2 and words in outcome.err and "v.parquet" in outcome.err
    assert not outcome.output.exists()


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (["item=0"], "--vectors must be name=columns, 1 to 4096, or name=path. Received: item=0"),
        (["item=-3"], "Received: item=-3"),
        (["item=5000"], "Received: item=5000"),
        (["item"], "must be name=value pairs"),
        (["brand=4"], "no feature of one value 'brand' among item, category"),
        (["item=missing.parquet"], "'missing.parquet' cannot be read as Parquet"),
        (["item=4", "--gap", "-1"], "--gap must be at least 0. Received: -1"),
        (["none", "--gap", "9"], "leaves nothing to write|--gap needs vectors learned from a log"),
    ],
)
def test_invalid_options_are_refused(prepare, log, tmp_path, capfd, vectors, words):
    outcome = prepare(log, *SMALL, "--vectors", *vectors)
    assert outcome.code == 2 and re.search(words, outcome.err), outcome.err
    folder = prepare(log, *SMALL, output="fine")
    capfd.readouterr()
    assert run(folder.output, tmp_path / "out", "--vectors", *vectors) == 2
    assert re.search(words, capfd.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_file_without_the_columns_is_refused(prepare, log, tmp_path):
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"key": [1], "vector": [[1.0]]}), path)
    outcome = prepare(log, *SMALL, "--vectors", f"item={path}")
    assert outcome.code == 2
    assert "must have columns 'item' or 'id', and 'vector'. Received: key, vector" in outcome.err


def test_nothing_to_read_or_write_is_refused(prepare, log, tmp_path, capfd):
    folder = prepare(log, *SMALL, "--train_start", "1000", output="untrained")
    assert folder.code == 0, folder.err
    assert run(folder.output, tmp_path / "out") == 2
    assert "has no training requests" in capfd.readouterr().err
    assert run(folder.output, tmp_path / "out", "--vectors", "none") == 2
    assert "--vectors none leaves nothing to write" in capfd.readouterr().err


def test_changed_vectors_are_refused(prepare, log, tmp_path):
    outcome = prepare(log, *SMALL)
    sequences = outcome.sequences
    with pytest.raises(SchemaError, match="no vectors of 'brand'. It has vectors of: item, cat"):
        sequences.vectors("brand")
    path = outcome.output / "vectors" / "item.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SchemaError, match="vectors of 'item' were changed after the run"):
        open_sequences(str(outcome.output)).vectors("item")
    path.unlink()
    with pytest.raises(SchemaError, match=r"Missing file of vectors: .*item\.npz"):
        sequences.vectors("item")


def test_options_of_a_log_of_days():
    options = parse(["--input", "x", "--format", "tmall", "--output", "y"], "prog").vectors
    assert options.coarse_clock and options.gap is None
    assert dict(options.features) == dict.fromkeys(("item", "category", "seller", "brand"), 16)
    assert not dataclasses.replace(options, features={"item": "path"}).counted


def test_help_starts_with_a_line_to_paste(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("python -m beam_jobs.vectors --sequences") and "--gap" in out
