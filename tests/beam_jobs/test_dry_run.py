"""``--dry_run``: what is understood of a log, and the command line that it proposes."""

import gzip
import json
import shlex

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.build_sequences import main
from beam_jobs.reading.proposals import (
    IMPRESSIONS,
    LOG,
    columns_option,
    format_of,
    propose_columns,
)
from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows

RECORDS = [
    {"userId": user, "sku": item, "created_at": f"2024-03-0{1 + second // 100}", "cat": category}
    for user, item, category, second in made_up_rows()
]
PROPOSED = "user=userId,item=sku,time=created_at,category=cat"


@pytest.fixture
def dry_run(tmp_path, capfd, monkeypatch):
    """Runs the command in a folder of its own; gives what it prints, and the proposed command."""
    monkeypatch.chdir(tmp_path)

    def run(*options, code=0):
        before = sorted(tmp_path.iterdir())
        assert main(["--dry_run", *map(str, options)]) == code
        assert sorted(tmp_path.iterdir()) == before
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return err if code else (out, shlex.split(out.splitlines()[-1])[3:])

    return run


def write(path, form, records):
    if form == "csv":
        rows = [",".join(map(str, record.values())) for record in records]
        path.write_text("\n".join([",".join(records[0]), *rows, ""]))
    elif form == "jsonl":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        kinds = {int: "long", str: "string"}
        fields = [{"name": name, "type": kinds[type(v)]} for name, v in records[0].items()]
        with open(path, "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, records)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "avro"])
def test_format_and_columns_are_proposed_and_run(dry_run, tmp_path, form):
    write(tmp_path / "log", form, RECORDS)
    text, command = dry_run("--input", "log", "--duplicates", "keep", *SMALL)
    assert command[:2] == ["--input", "log"]
    assert command[-6:] == ["--format", form, "--columns", PROPOSED, "--output", "sequences"]
    assert f"{len(RECORDS):,} read, 0 rejected; 12 users, " in text
    assert "seconds by their range (--time_unit), 2024-03-01T00:00:00Z to 2024-03-02T" in text
    lines = [line.split()[:2] for line in text.splitlines()]
    assert ["userId", "user"] in lines and ["cat", "category"] in lines
    if form == "csv":
        assert main([*command, "--vectors", "none", "--max_short_fraction", "1"]) == 0
        manifest = json.loads((tmp_path / "sequences" / "manifest.json").read_text())
        assert manifest["counts"]["rows"]["kept"] == len(RECORDS)


def test_event_types_rejected_rows_and_delimiter(dry_run, tmp_path):
    rows = [f"{n % 3};view;{n};{1_700_000_000 + n}" for n in range(30)]
    rows[4], rows[7], rows[20] = "5;buy;x;1700000000", "1;2", "5;buy;9;1700000000"
    (tmp_path / "log").write_text("\n".join(["member_id;eventType;Article ID;ts", *rows]))
    text, command = dry_run("--input", "log", "--rows", 20)
    assert command[5] == "user=member_id,item=Article ID,time=ts,behavior=eventType,category="
    assert "csv, values parted by semicolons" in text
    assert "No column's name tells category: left out" in text
    assert "20 read, 2 rejected" in text and "more than --max" not in text
    assert "1 item is not an integer" in text
    assert "log:6: item is not an integer: 5;buy;x;1700000000" in text
    assert "log:9: 2 columns instead of 4: 1;2" in text
    assert "event types view 18, buy 1; all are kept (--behavior)" in text
    text, command = dry_run("--input", "log", "--columns", command[5], "--behavior", "buy")
    assert "27 of other event types" in text and "view 27, buy 2; kept: buy" in text
    assert "--columns" in command and command.count("--columns") == 1


def test_rows_go_on_in_the_next_file(dry_run, tmp_path):
    rows = [(1, n, 2, n) for n in range(15)] + [(1, "x", 2, 3)]
    for name in ("a", "b"):
        (tmp_path / name).write_text(csv_text(rows))
    text, _ = dry_run("--input", "a", "b", "--rows", "20")
    assert "20 read, 1 rejected" in text and "a:17: item" in text
    assert "times       no known unit by their range" in text


def test_rows_that_cannot_be_used(dry_run, tmp_path):
    (tmp_path / "log").write_bytes(b"\xef\xbb\xbf" + b'{"uid": 1, "iid": 2, "ts": "soon"}\n' * 5)
    text, command = dry_run("--input", "log")
    assert command[2:6] == ["--format", "jsonl", "--columns", "user=uid,item=iid,time=ts,category="]
    assert "5 read, 5 rejected; 0 users, 0 items" in text
    assert "more than --max_rejected_fraction 0.1: a run of such rows would fail" in text
    assert "5 time is neither a whole number nor an ISO 8601 time" in text


def test_text_ids(dry_run, tmp_path):
    rows = [(f"u{n}", f"SKU-{n % 7}", n % 3, n) for n in range(40)]
    (tmp_path / "log").write_text(csv_text([*rows, (1, "", 2, 3)]))
    text, _ = dry_run("--input", "log")
    assert "41 read, 1 rejected; 40 users, 7 items" in text
    assert "text ids    item\n" in text


def test_published_formats_and_partitions(dry_run, tmp_path):
    (tmp_path / "t").write_text("".join(f"1,{n},5,pv,{1511544070 + n}\n" for n in range(9)))
    assert format_of([str(tmp_path / "t")]) == "taobao"
    text, command = dry_run("--input", "t")
    assert command == ["--input", "t", "--format", "taobao", "--output", "sequences"]
    assert "9 read" in text and "pv 9; kept: pv" in text
    header = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
    (tmp_path / "m").write_text(header)
    assert format_of([str(tmp_path / "m")]) == "tmall"
    (tmp_path / "day" / "date=2024-03-08").mkdir(parents=True)
    (tmp_path / "day" / "date=2024-03-08" / "part").write_text("user,item\n1,2\n")
    text, command = dry_run("--input", "day", "--output", "there")
    assert command[-2:] == ["--columns", "time=date,category="]
    assert ["date", "time", "2024-03-08"] in [line.split() for line in text.splitlines()]
    (tmp_path / "day" / "a").write_text("\n\n")
    (tmp_path / "day" / "_SUCCESS").write_text("")
    text, command = dry_run("--input", "day", "--columns", "time=date,category=")
    assert "1 read" in text and "--columns" not in command[4:]
    (tmp_path / "blank").write_text("\n")
    assert "every file is" in dry_run("--input", "blank", code=2)


def test_nested_and_typed_columns(dry_run, tmp_path):
    rows = [
        {
            "event": {"user": "a", "sku": n},
            "at": None,
            "tags": [1, 2],
            "when": (19_789 + n) * 86_400 * 10**6,
        }
        for n in range(1, 4)
    ]
    table = pa.Table.from_pylist(rows)
    when = table["when"].cast(pa.timestamp("us"))
    table = table.drop(["when"]).append_column("createdAt", when)
    pq.write_table(table, tmp_path / "log")
    text, command = dry_run("--input", "log")
    assert command[4:6] == ["--columns", "user=event.user,item=event.sku,time=createdAt,category="]
    assert ["event.sku", "item", "1,", "2,", "3"] in [line.split() for line in text.splitlines()]
    assert "2024-03-08T00:00:00Z to 2024-03-10T00:00:00Z" in text
    assert "3 read, 0 rejected; 1 users, 3 items" in text


def test_impressions(dry_run, log, tmp_path):
    shown = "uid,item,ts,clicked,pageViewId\n" + "".join(
        f"u1,7,{n},{n % 2},{n}\n" for n in range(9)
    )
    (tmp_path / "shown").write_text(shown)
    write(tmp_path / "shown.parquet", "parquet", [{"user": "u1", "item": 7, "time": 3, "label": 1}])
    by_time = ["--split", "by_time", "--validation_from", "100", "--test_from", "150"]
    text, command = dry_run("--input", log.name, "--impressions", "shown", *by_time)
    assert command[-4:-2] == [
        "--impressions_columns",
        "user=uid,time=ts,label=clicked,request=pageViewId",
    ]
    assert "9 read, 0 rejected; 1 users, 1 items" in text
    _, command = dry_run("--input", log.name, "--impressions", "shown.parquet", *by_time)
    assert "--impressions_columns" not in command
    assert command[-4:-2] == ["--impressions_format", "parquet"]


def test_what_cannot_be_told_is_said(dry_run, tmp_path, prepare):
    (tmp_path / "log").write_text("who,item_id,when,clicked\n1,2,3,0\n")
    error = dry_run("--input", "log", code=2)
    assert "No column's name tells which holds user, time. Name it: --columns user=COLUMN" in error
    assert ["item_id", "item", "2"] in [line.split() for line in error.splitlines()]
    assert "a label? what was shown is given with --impressions" in error
    assert "--rows must be at least 1" in dry_run("--input", "log", "--rows", 0, code=2)
    assert "--rows needs --dry_run" in prepare(tmp_path / "log", "--rows", 5).err
    assert "no such file" in dry_run("--input", "none", code=2)
    (tmp_path / "zip").write_bytes(b"PK\x03\x04\0\0")
    assert "it is a zip archive" in dry_run("--input", "zip", code=2)
    assert "windw" in dry_run(
        "--input", "log", "--columns", "user=who,time=when", "--windw", code=2
    )


def test_without_format_the_content_tells_it(tmp_path, capfd):
    path, output = tmp_path / "log", tmp_path / "sequences"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    options = ["--input", path, "--output", output, *SMALL, "--max_short_fraction", 1]
    options += ["--duplicates", "keep", "--vectors", "none"]
    options = [str(option) for option in options]
    assert main(options) == 2
    assert "--dry_run proposes them" in capfd.readouterr().err
    assert main([*options, "--columns", PROPOSED]) == 0
    assert json.loads((output / "manifest.json").read_text())["options"]["format"] == "jsonl"
    assert "\nformat: jsonl\n" in (output / "prepare.yaml").read_text()


@pytest.mark.parametrize(
    "names, expected",
    [
        ("userId movieId rating timestamp", "user=userId,item=movieId,category="),
        (
            "timestamp visitorid event itemid transactionid",
            "user=visitorid,item=itemid,behavior=event,category=",
        ),
        (
            "user_id:token item_id:token timestamp:float",
            "user=user_id:token,item=item_id:token,time=timestamp:float,category=",
        ),
        ("date TIME USER_ID ProductId", "user=USER_ID,item=ProductId,time=TIME,category="),
        ("event event.uid event.iid ts", "user=event.uid,item=event.iid,time=ts,category="),
        ("user item time category", ""),
        ("a,b c", "category="),
    ],
)
def test_names_of_columns(names, expected):
    assert columns_option(propose_columns(names.split(), LOG), LOG[:-1]) == expected
    assert not set(propose_columns(names.split(), IMPRESSIONS)) & {"category", "behavior"}
