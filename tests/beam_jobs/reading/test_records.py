"""JSON lines and Avro: the same rows as the same log in other formats."""

import gzip
import json

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.reading.formats import make_format
from tests.beam_jobs.reading.test_inputs import read

OPTIONS = [
    "--split",
    "last_fraction",
    "--min_events",
    "30",
    "--window",
    "20",
    "--columns",
    "tags=tags",
    "--multi_hot",
    "tags=2",
    "--context",
    "city=city",
    "--numeric",
    "price=price",
    "--time_gap",
    "60",
]
AVRO = {
    "type": "record",
    "name": "event",
    "fields": [
        {"name": "user", "type": "string"},
        {"name": "item", "type": "long"},
        {"name": "category", "type": "int"},
        {"name": "tags", "type": {"type": "array", "items": "long"}},
        {"name": "city", "type": ["null", "int"]},
        {"name": "price", "type": ["null", "double"]},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}


def make_rows():
    random = np.random.default_rng(3)
    rows = []
    for user in range(12):
        for index in range(int(random.integers(25, 60))):
            item = int(random.integers(1, 40))
            rows.append(
                {
                    "user": f"u{user}",
                    "item": item,
                    "category": item % 5,
                    "tags": [item % 7, 20 + item % 3, 30][: int(random.integers(4))],
                    "city": None if random.random() < 0.1 else user % 3,
                    "price": None if random.random() < 0.1 else item / 4,
                    "time": 1_700_000_000 + index * 1000 + int(random.integers(900)),
                }
            )
    return rows


def as_csv(path, rows):
    cells = [
        [
            row["user"],
            row["item"],
            row["category"],
            "|".join(map(str, row["tags"])),
            "" if row["city"] is None else row["city"],
            "" if row["price"] is None else row["price"],
            row["time"],
        ]
        for row in rows
    ]
    path.write_text(
        "user,item,category,tags,city,price,time\n"
        + "".join(",".join(map(str, row)) + "\n" for row in cells)
    )


def as_avro(path, rows, codec="deflate"):
    schema = fastavro.parse_schema(AVRO)
    with open(path, "wb") as file:
        fastavro.writer(
            file, schema, [{**row, "time": row["time"] * 10**6} for row in rows], codec=codec
        )


def as_jsonl(path, rows, opener=open):
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_every_format_gives_the_same_sequences(prepare, tmp_path):
    rows = make_rows()
    as_csv(tmp_path / "log.csv", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    as_avro(tmp_path / "log.avro", rows)
    as_jsonl(tmp_path / "log.jsonl", rows)
    as_jsonl(tmp_path / "log.jsonl.gz", rows, gzip.open)
    odd = [{**rows[0], "item": str(rows[0]["item"])}, *rows[1:]]  # text where others are numbers
    as_jsonl(tmp_path / "odd.jsonl", odd)
    digests = {}
    for name, form, more in [
        ("log.csv", "csv", []),
        ("log.parquet", "parquet", []),
        ("log.avro", "avro", []),
        ("log.jsonl", "jsonl", []),
        ("log.jsonl", "jsonl", ["--chunk_bytes", "700"]),
        ("log.jsonl.gz", "jsonl", []),
        ("odd.jsonl", "jsonl", []),
    ]:
        outcome = prepare(tmp_path / name, *OPTIONS, *more, form=form, output=f"s{len(digests)}")
        assert outcome.code == 0, outcome.err
        assert outcome.manifest["counts"]["rows"]["rejected"] == 0
        digests[(name, *more)] = json.dumps(outcome.manifest["digests"], sort_keys=True)
    assert len(set(digests.values())) == 1, digests


LINES = [
    '{"user": "a", "item": 1, "category": 2, "time": 3}',
    "",
    '{"user": "a", "item": 1.0, "category": 2, "time": 4, "more": {"x": [1]}}',
    '{"user": "b", "item": "7", "category": 2, "time": 5}',
    '{"user": "b", "item": 1, "category": 2',
    '["user"]',
    '{"user": "b", "item": -1, "category": 2, "time": 5}',
    '{"user": 5, "item": 9, "category": 2, "time": 6}',
    '{"user": "b", "item": true, "category": 2, "time": 5}',
    '{"user": "b", "item": 3, "time": 5}',
    '{"user": "ü", "item": 3, "category": 1, "time": 1700000000000000000}',
    '{"user": "b", "item": 2, "category": 1, "time": 1} {"user": "b", "item": 2}',
]


@pytest.mark.parametrize("chunk_bytes", [40, 160, 1 << 20])
def test_bad_lines_are_reported_with_their_number(tmp_path, chunk_bytes):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(LINES))
    good, bad, rows = read(path, make_format("jsonl", None, None), chunk_bytes)
    assert good == [
        (1, "a", 1, 2, 3),
        (3, "a", 1, 2, 4),
        (4, "b", 7, 2, 5),
        (8, "5", 9, 2, 6),
        (11, "ü", 3, 1, 1700000000000000000),
    ]
    reasons = dict(bad)
    assert reasons.pop(5).startswith("not JSON: ") and reasons.pop(12).startswith("not JSON: ")
    assert reasons == {
        6: "not a JSON object",
        7: "item is negative",
        9: "item is not an integer",
        10: "category is empty",
    }
    assert rows == 11


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(LINES[0].encode() + b'\n{"user": "\xff", "item": 1}\n')
    good, bad, _ = read(path, make_format("jsonl", None, None), 1 << 20)
    assert len(good) == 1 and bad == [(2, "not UTF-8")]


def test_files_that_are_no_log_are_refused(prepare, tmp_path):
    rows = make_rows()
    as_avro(tmp_path / "log.avro", rows)
    as_jsonl(tmp_path / "log.jsonl", rows)
    cut = tmp_path / "cut.avro"
    cut.write_bytes((tmp_path / "log.avro").read_bytes()[:-100])
    for path, form, more, words in [
        ("log.avro", "csv", [], "is an avro file. Received: --format csv"),
        ("log.jsonl", "avro", [], "log.jsonl cannot be read"),
        ("cut.avro", "avro", [], "cut.avro cannot be read: its data end too early"),
        ("log.avro", "avro", ["--columns", "item=iid"], "missing columns: iid. Found: user, item"),
        ("log.jsonl", "jsonl", ["--columns", "item=iid"], "missing columns: iid. Found: user"),
    ]:
        refused = prepare(
            tmp_path / path, "--split", "last_fraction", *more, form=form, output="refused"
        )
        assert refused.code == 2 and words in refused.err, refused.err
        assert not refused.output.exists()
