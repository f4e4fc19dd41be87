"""``build_sequences`` from end to end, read back through tfdare.sequences."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.histories.sort import DUPLICATE
from tests.beam_jobs import reference
from tests.beam_jobs.conftest import DATA, SMALL, csv_text, made_up_rows
from tfdare.sequences import SPLITS
from tfdare.sequences.record import encode

BUNDLES = ("--runner", "BundleBasedDirectRunner")
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def read_back(sequences):
    """Reads the records, by (user, split)."""
    return {
        (record.user, split): record
        for split in ("train", "validation", "test")
        for record in sequences.records(split)
    }


def check_sums(manifest):
    counts = manifest["counts"]
    rows, users, events = counts["rows"], counts["users"], counts["events"]
    assert rows["read"] == rows["filtered"] + rows["rejected"] + rows["kept"]
    assert rows["rejected"] == sum(rows["rejected_by_reason"].values())
    assert rows["kept"] == events["kept"] + events["too_short"]
    assert users["seen"] == users["kept"] + users["too_short"]
    for part in counts["splits"].values():
        assert part["candidates"] == part["positives"] + part["negatives"]
        assert part["requests"] == part["positives"]
    several = manifest["options"].get("multi_hot", {})
    for name, part in manifest["vocabularies"].items():
        most = manifest["training_period"]["events"] * several.get(name, 1)
        assert part["training_events"] <= most, name


def same_sequences(first, second):
    assert first["digests"] == second["digests"]
    assert first["schema_digest"] == second["schema_digest"]
    assert first["counts"] == second["counts"]
    return True


@pytest.mark.parametrize(
    "min_count, duplicates, clock", [(1, "drop", ()), (3, "keep", ("--coarse_clock",))]
)
def test_equals_a_plain_python_reference(prepare, log, min_count, duplicates, clock):
    rows = made_up_rows()
    outcome = prepare(log, "--min_count", min_count, "--duplicates", duplicates, *SMALL, *clock)
    assert outcome.code == 0, outcome.err
    vocabularies, expected, touched, own = reference.sequences(
        rows,
        8,
        2,
        min_count=min_count,
        keep_duplicates=duplicates == "keep",
        coarse_clock=bool(clock),
    )
    sequences = outcome.sequences
    for name, pairs in vocabularies.items():
        text = (outcome.output / "vocabulary" / f"{name}.tsv").read_text()
        assert text == "".join(f"{raw}\t{count}\n" for raw, count in pairs)
    records = read_back(sequences)
    assert set(records) == set(expected)
    raw = np.concatenate([[-1, -1], sequences.vocabulary("item")])
    row_of = {name: {r: i + 2 for i, (r, _) in enumerate(v)} for name, v in vocabularies.items()}
    for key, record in records.items():
        want = expected[key]
        assert record.position.tolist() == want["position"]
        assert record.history["item"].tolist() == want["history_item"]
        assert record.history["category"].tolist() == want["history_category"]
        assert record.history_time.tolist() == want["time"]
        first = np.cumsum(record.target_length) - record.target_length
        items, categories = record.target["item"], record.target["category"]
        assert list(zip(items[first].tolist(), categories[first].tolist())) == want["target"]
        assert record.label.sum() == len(first) and (record.label[first] == 1).all()
        for item, category in zip(
            np.delete(items, first).tolist(), np.delete(categories, first).tolist()
        ):
            assert raw[item] not in touched[key[0]]
            if item > 1:
                assert category == row_of["category"].get(own[int(raw[item])], 1)
    assert outcome.manifest["counts"]["rows"]["read"] == len(rows)
    check_sums(outcome.manifest)


def test_same_sequences_on_every_runner_with_any_buckets_and_chunks(prepare, log):
    first = prepare(log, *SMALL)
    assert first.code == 0, first.err
    vocabulary = (first.output / "vocabulary/item.tsv").read_bytes()
    for name, more in {
        "bundles": ("--buckets", "7", *BUNDLES),
        "processes": ("--buckets", "3", "--chunk_bytes", "1000", *PROCESSES),
        "chunks": ("--buckets", "1", "--chunk_bytes", "211"),
    }.items():
        other = prepare(log, *SMALL, *more, output=name)
        assert other.code == 0, other.err
        assert same_sequences(first.manifest, other.manifest), name
        assert (other.output / "vocabulary/item.tsv").read_bytes() == vocabulary
        shards = int(more[more.index("--buckets") + 1])
        assert len(other.sequences.files("test")) == shards
        for path in other.sequences.files("test"):
            assert path.endswith(f"-of-{shards:05d}.tfrecord")
    seeded = prepare(log, *SMALL, "--seed", "2", output="seeded")
    assert seeded.manifest["digests"]["records"] != first.manifest["digests"]["records"]
    assert seeded.manifest["digests"]["vocabularies"] == first.manifest["digests"]["vocabularies"]


def test_same_sequences_from_every_kind_of_file(prepare, log, tmp_path):
    rows = made_up_rows()
    want = prepare(log, *SMALL).manifest
    text = log.read_text()
    files = {
        "crlf": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        "gzip": gzip.compress(text[:500].encode()) + gzip.compress(text[500:].encode()),
        "some_quotes": csv_text(
            [(f'"{u}"' if t % 9 == 0 else u, i, c, t) for u, i, c, t in rows]
        ).encode(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        outcome = prepare(path, *SMALL, "--chunk_bytes", "3000", output=f"{name}_out")
        assert outcome.code == 0, (name, outcome.err)
        assert same_sequences(want, outcome.manifest), name
    # other column names, an extra column, another order, and several files
    users, items, categories, times = zip(*rows)
    half = len(rows) // 2
    note = ["x"] * len(rows)
    columns = {"ts": times, "note": note, "cat": categories, "uid": users, "iid": items}
    table = pa.table(columns)
    pq.write_table(table[:half], tmp_path / "part-1.parquet", row_group_size=50)
    strings = table.set_column(4, "iid", table["iid"].cast(pa.string()))
    pq.write_table(strings[half:], tmp_path / "part-2.parquet", row_group_size=7)
    mapping = ("--columns", "user=uid,item=iid,category=cat,time=ts")
    outcome = prepare(
        tmp_path / "part-*.parquet", *SMALL, *mapping, form="parquet", output="parquet"
    )
    assert outcome.code == 0, outcome.err
    assert same_sequences(want, outcome.manifest)
    assert [entry["kind"] for entry in outcome.manifest["input"]] == ["parquet", "parquet"]


BAD = {
    3: ("u1,2,3", "3 columns instead of 4"),
    4: ("u1,2,3,4,5", "5 columns instead of 4"),
    7: ("u1,,3,4", "item is empty"),
    9: (",2,3,4", "user is empty"),
    10: ("u1,2,x,4", "category is not an integer"),
    11: ("u1,2,3,-4", "time is negative"),
    15: ("u1,9223372036854775808,3,4", "item is larger than 9223372036854775807"),
    16: ("u1,1.5,3,4", "item is not an integer"),
    20: ('"u1,2,3,4', "not a csv row: unexpected end of data"),
    21: ("u1, 2,3,4", "item is not an integer"),
    22: ("u1,0x1F,3,4", "item is not an integer"),
    23: ("u1,1e-3,3,4", "item is not an integer"),
    29: ("u1,٣,3,4", "item is not an integer"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk_bytes", ["64000", "37"])
def test_rejected_rows_with_exact_lines(prepare, tmp_path, chunk_bytes, packed):
    good = iter(f"u{n % 2},{n},1,{n}" for n in range(1, 200))
    lines = ["user,item,category,time"]
    for number in range(2, 60):
        lines.append(BAD[number][0] if number in BAD else "" if number == 5 else next(good))
    lines[39] = lines[36]  # line 40 repeats line 37
    data = "\n".join(lines).encode()
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(data) if packed else data)
    runner = () if packed else BUNDLES
    outcome = prepare(path, "--chunk_bytes", chunk_bytes, *SMALL, *runner)
    assert outcome.code == 0, outcome.err
    rejected = outcome.rejected
    assert [row["line"] for row in rejected] == sorted([*BAD, 40])
    for row in rejected:
        want = BAD.get(row["line"], (lines[39], DUPLICATE))
        assert (row["row"], row["reason"]) == want
        assert row["file"] == str(path)
    counts = outcome.manifest["counts"]["rows"]
    assert counts["read"] == 57  # 59 lines, the header and a blank one
    assert counts["rejected"] == len(BAD) + 1
    assert counts["rejected_by_reason"]["item is not an integer"] == 5
    check_sums(outcome.manifest)
    assert f"{outcome.output}/rejected/*.jsonl" in outcome.out


def test_rejected_rows_of_parquet_by_row_number(prepare, tmp_path):
    size = 40
    item = pa.array([None if n == 20 else n for n in range(size)], pa.int32())
    category = pa.array([-1 if n == 33 else 1.0 if n != 7 else 1.5 for n in range(size)])
    time = pa.array([n * 1000 for n in range(size)], pa.timestamp("ms"))
    path = tmp_path / "log.parquet"
    table = pa.table({"user": [5] * size, "item": item, "category": category, "time": time})
    pq.write_table(table, path, row_group_size=9)
    outcome = prepare(path, "--chunk_bytes", "1", *SMALL, form="parquet")
    assert outcome.code == 0, outcome.err
    assert [(row["line"], row["reason"]) for row in outcome.rejected] == [
        (8, "category is not an integer"),
        (21, "item is empty"),
        (34, "category is negative"),
    ]
    record = read_back(outcome.sequences)["5", "test"]
    assert record.history_time.tolist() == [n for n in range(size) if n not in (7, 20, 33)][:-1]


def test_tmall_sorts_keeps_clicks_and_forgives_missing_brands(prepare, tmp_path):
    header = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"
    rows = [(1, n % 9, n % 3, 10 + n % 9, "" if n % 2 else 70, 1111 - n, 0) for n in range(30)]
    rows += [(1, 5, 1, 1, 1, 500, 2), (1, "", 1, 1, 1, 500, 0), (1, 5, 1, 1, 1, 500, 7)]
    path = tmp_path / "user_log_format1.csv"
    path.write_text(csv_text(rows, header))
    outcome = prepare(path, *SMALL, form="tmall")
    assert outcome.code == 0, outcome.err
    assert outcome.sequences.schema.names == ("item", "category", "seller", "brand")
    assert outcome.manifest["counts"]["rows"]["filtered"] == 1
    assert [(row["line"], row["reason"]) for row in outcome.rejected] == [
        (33, "item is empty"),
        (34, "behavior is none of 0, 1, 2, 3"),
    ]
    record = read_back(outcome.sequences)["1", "test"]
    assert (np.diff(record.history_time) >= 0).all()
    # an item that came with a brand once keeps it
    assert set(record.history["brand"].tolist()) == {2}


def test_behaviors_of_a_csv_and_further_features(prepare, tmp_path):
    rows = [(1, n, n % 3, n, "view" if n % 2 else "buy", n % 4) for n in range(60)]
    rows.append((1, 59, 2, 59, "buy", 3))  # another behavior at the same time is another row
    path = tmp_path / "log.csv"
    path.write_text(csv_text(rows, "user,item,category,time,action,brand_id"))
    columns = ("--columns", "behavior=action,brand=brand_id,category=")
    both = prepare(path, *columns, "--behavior", "view,buy", *SMALL)
    assert both.code == 0, both.err
    assert both.sequences.schema.names == ("item", "brand")
    assert both.manifest["counts"]["rows"] == {
        "read": 61,
        "filtered": 0,
        "rejected": 0,
        "rejected_by_reason": {},
        "cut": 0,
        "kept": 61,
    }
    views = prepare(path, *columns, "--behavior", "view", *SMALL, output="views")
    assert views.manifest["counts"]["rows"]["filtered"] == 31
    assert views.manifest["counts"]["rows"]["kept"] == 30


def test_requests_short_of_negatives_are_reported(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(csv_text([("u", n % 3, 1, n) for n in range(20)]))
    outcome = prepare(path, *SMALL)
    assert outcome.code == 0, outcome.err
    test = outcome.manifest["counts"]["splits"]["test"]
    assert test["requests_short_of_negatives"] == test["requests"] == 2
    assert test["candidates"] == 2
    assert "2 requests short of negatives" in outcome.out
    record = read_back(outcome.sequences)["u", "test"]
    assert record.target_length.tolist() == [1, 1]


def test_no_negatives_and_no_training(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(csv_text([("u", n, 1, n) for n in range(2)]))
    outcome = prepare(path, "--min_events", "2", "--negatives", "0")
    assert outcome.code == 0, outcome.err
    counts = outcome.manifest["counts"]["splits"]
    assert [counts[split]["requests"] for split in ("train", "validation", "test")] == [0, 0, 1]
    assert outcome.sequences.schema.max_candidates == 1
    assert outcome.sequences.schema.item.vocabulary_size == 2


def test_the_schema_records_every_option_of_the_split(prepare, log):
    outcome = prepare(log, *SMALL, "--window", "50", "--negatives", "4")
    schema = outcome.sequences.schema
    assert (schema.window, schema.max_candidates) == (50, 5)
    assert schema.split == {
        "protocol": "last_fraction",
        "test_fraction": 0.1,
        "min_test": 2,
        "max_test": 30,
        "train_start": 2,
        "train_stride": 3,
        "min_events": 8,
        "negatives": 4,
        "seed": 1,
        "min_count": 1,
        "duplicates": "drop",
        "behaviors": None,
    }
    manifest = outcome.manifest
    assert manifest["code"]["version"]
    assert manifest["input"] == [{"file": str(log), "bytes": log.stat().st_size, "kind": "text"}]
    assert "created" in manifest and manifest["schema_digest"] == schema.digest


def test_does_not_import_tensorflow(log, tmp_path):
    code = (
        "import sys\n"
        "from beam_jobs.build_sequences import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'tensorflow_serving'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    output = str(tmp_path / "out")
    command = [sys.executable, "-c", code, "--input", str(log), "--format", "csv"]
    done = subprocess.run(
        [*command, "--output", output, *SMALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line.split("] ")[-1] for line in done.stderr.splitlines()]
    assert said[1:] == [
        "reading events",
        "sorting histories",
        "learning vocabularies",
        "writing vocabularies",
        "building and writing requests",
        "learning vectors",
        "published",
    ]  # and nothing of Beam's own


real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real logs under {DATA}")


@real
def test_taobao_sample_by_the_papers_protocol(prepare):
    outcome = prepare(DATA / "taobao_user_behavior_sample.csv.gz", form="taobao")
    assert outcome.code == 0, outcome.err
    counts = outcome.manifest["counts"]
    assert counts["rows"]["read"] == 84_475
    assert counts["rows"]["filtered"] == 1_750 + 4_497 + 2_356
    check_sums(outcome.manifest)
    users = counts["users"]["kept"]
    assert counts["splits"]["test"]["requests"] == users
    assert counts["splits"]["validation"]["requests"] == users
    assert counts["splits"]["train"]["requests"] == 19 * users
    for (_, split), record in read_back(outcome.sequences).items():
        assert len(record.history_time) == record.position[-1]
        assert (np.diff(record.history_time) >= 0).all()
        assert record.position[0] >= (113 if split == "train" else 208)


@real
def test_checkins_by_the_last_tenth(prepare):
    outcome = prepare(
        DATA / "checkins.csv.gz",
        "--columns",
        "time=timestamp",
        "--split",
        "last_fraction",
        "--duplicates",
        "keep",
    )
    assert outcome.code == 0, outcome.err
    counts = outcome.manifest["counts"]
    assert counts["rows"]["read"] == counts["rows"]["kept"] == 378_559
    check_sums(outcome.manifest)
    records = read_back(outcome.sequences)
    tests = [len(record.position) for (_, split), record in records.items() if split == "test"]
    assert min(tests) >= 6 and max(tests) == 30
    for split, part in counts["splits"].items():
        assert part["negatives"] == 2 * part["positives"], split
    # people come back: many targets are in their own history, and no negative ever is
    repeats = []
    for (_, split), record in records.items():
        if split == "test":
            first = np.cumsum(record.target_length) - record.target_length
            negatives = np.delete(record.target["item"], first)
            assert not np.isin(negatives, record.history["item"]).any()
            for item, position in zip(record.target["item"][first], record.position):
                repeats.append(item in record.history["item"][:position])
    assert 0.6 < np.mean(repeats) < 0.8


def test_packed_files_hold_the_same(prepare, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(csv_text(made_up_rows()))
    plain = prepare(log, *SMALL, output="plain")
    packed = prepare(log, *SMALL, "--compression", "gzip", output="packed")
    again = prepare(log, *SMALL, "--compression", "gzip", output="again")
    assert packed.code == 0, packed.err
    assert packed.manifest["digests"] == plain.manifest["digests"]
    assert packed.sequences.schema == plain.sequences.schema
    for split in SPLITS:
        files = packed.sequences.files(split)
        assert len(files) == 2 and all(name.endswith(".tfrecord.gz") for name in files)
        sizes = [
            sum(os.path.getsize(name) for name in run.sequences.files(split))
            for run in (plain, packed)
        ]
        assert sizes[1] < sizes[0]
        for name, same in zip(files, again.sequences.files(split)):
            assert open(name, "rb").read() == open(same, "rb").read()
        records = [encode(record) for record in plain.sequences.records(split)]
        assert records == [encode(record) for record in packed.sequences.records(split)]
    refused = prepare(log, *SMALL, "--compression", "lzo", output="refused")
    assert refused.code == 2 and "--compression: invalid choice: 'lzo'" in refused.err
