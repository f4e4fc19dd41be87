"""Bad inputs and options: refused with a message, and an earlier output stays whole."""

import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows

TAOBAO = "1,10,5,pv,100\n"


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refused(outcome, *words):
    """Checks that the run failed with these words and left no output."""
    assert outcome.code == 2
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err
    beside = [path.name for path in outcome.output.parent.iterdir()]
    assert not [name for name in beside if ".tmp-" in name or ".old-" in name]


def test_no_such_file(prepare, tmp_path):
    outcome = prepare(tmp_path / "nothing-*.csv")
    refused(outcome, "nothing-*.csv", "no such file")
    assert not outcome.output.exists()


@pytest.mark.parametrize("form", ["csv", "taobao", "tmall", "parquet"])
def test_empty_file(prepare, tmp_path, form):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    refused(prepare(path, form=form), str(path), "is empty (0 bytes)")


def test_header_only(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,category,time\n")
    refused(prepare(path), "No rows in", "nothing but a header")


def test_empty_gzip(prepare, tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b""))
    refused(prepare(path, form="taobao"), "No rows in")


def test_truncated_gzip(prepare, tmp_path):
    data = gzip.compress(csv_text(made_up_rows()).encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(data[: len(data) * 2 // 3])
    outcome = prepare(path, "--chunk_bytes", 500, *SMALL)
    refused(outcome, f"error: {path} is cut short: the gzip data ends too early")
    assert not outcome.output.exists()


def test_truncated_gzip_found_by_worker_processes(prepare, tmp_path):
    data = gzip.compress(TAOBAO.encode() * 200_000)  # more than is read before workers start
    paths = [tmp_path / "one.gz", tmp_path / "two.gz"]
    for path in paths:
        path.write_bytes(data[:-20])
    processes = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    outcome = prepare(paths, *processes, form="taobao")
    refused(outcome, f"error: {paths[0]} is cut short", f"{paths[1]} is cut short")


def test_corrupt_gzip(prepare, tmp_path):
    data = bytearray(gzip.compress(csv_text(made_up_rows()).encode()))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "log.csv.gz"
    path.write_bytes(bytes(data))
    refused(prepare(path, *SMALL), f"error: {path} ", "gzip")


def test_unknown_format(prepare, log):
    refused(prepare(log, form="orc"), "--format: invalid choice: 'orc'", "taobao", "parquet")


def test_missing_columns_are_named_beside_those_found(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("uid,item,category,when\n1,2,3,4\n")
    refused(
        prepare(path),
        "missing columns: user, time or timestamp",
        "Found: uid, item, category, when",
        "--columns",
    )


def test_missing_columns_of_parquet(prepare, tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [1], "item": [2]}), path)
    refused(prepare(path, form="parquet"), "missing columns: category", "Found: user, item")


def test_wrong_type_of_parquet(prepare, tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [1], "item": [[2]], "category": [1], "time": [1]}), path)
    refused(prepare(path, form="parquet"), "column 'item'", "list<")


def test_a_file_of_another_format_is_refused(prepare, tmp_path, log):
    refused(prepare(log, form="parquet"), str(log), "cannot be read")
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [1]}), path)
    refused(prepare(path), "is a parquet file. Received: --format csv")


def test_all_rows_rejected_shows_the_first_reasons(prepare, log):
    refused(
        prepare(log, form="taobao"),
        "No row is left",
        "were rejected",
        f"{log}:1: 4 columns instead of 5: user,item,category,timestamp",
    )


def test_bounds_by_default(prepare, tmp_path):
    bounds = ("--max_rejected_fraction", "0.1", "--max_short_fraction", "0.1")
    path = tmp_path / "log.csv"
    path.write_text(csv_text([*made_up_rows(), *[("u", "x", 1, 5)] * 10_000]))
    parts = [path, tmp_path / "good.csv"]
    parts[1].write_text(csv_text(made_up_rows(seed=1)))
    refused(
        prepare(parts, *SMALL, *bounds),
        "rows were rejected, ",
        "--max_rejected_fraction is 0.1: give a larger one to go on without them",
        "10,000 item is not an integer",
    )
    # what cannot be read is said before anything else is done
    path.write_text("user,item,category,time\n" + "u,-7,1,5\n" * 9 + "u,7,1,\n")
    outcome = prepare(path, *SMALL, *bounds)
    refused(
        outcome,
        "No row is left of the first 10 read: all were rejected.",
        "9 item is negative",
        "1 time is empty",
        f"{path}:2: item is negative: u,-7,1,5",
    )
    assert "reading events" not in outcome.err
    # repeated rows are left out as asked: they are no fault
    path.write_text(csv_text(made_up_rows() * 3))
    assert prepare(path, *SMALL, *bounds).code == 0
    path.write_text("user,item,category,time\n" + "".join(f"u,{n % 3},1,{n}\n" for n in range(30)))
    refused(
        prepare(path, *SMALL, *bounds, "--overwrite"),
        "requests, 100.0%, have fewer than --negatives 2",
        "--max_short_fraction; it is 0.1",
    )


def test_rejected_impressions_say_why(prepare, log, tmp_path):
    shown = tmp_path / "shown.csv"
    by_time = ["--split", "by_time", "--validation_from", "100", "--test_from", "150"]
    by_time += ["--min_events", "2", "--impressions", shown]
    shown.write_text("user,item,time,label\n" + "u1,7,120,yes\n" * 5 + "u1,x,120,1\n")
    words = ["5 label is neither 0 nor 1", "1 item is not an integer", f"{shown}:2: label is"]
    refused(prepare(log, *by_time), "No impression is left of the 6 read: 6 were", *words)
    bounds = ("--max_rejected_fraction", "0.1")
    early = prepare(log, *by_time, *bounds)
    refused(early, "No impression is left of the first 6 read: all were rejected.", *words)
    assert "reading events" not in early.err
    with shown.open("a") as file:
        file.write("u1,7,120,1\n")
    refused(prepare(log, *by_time, *bounds), "6 of 7 rows of impressions were rejected", *words)
    assert prepare(log, *by_time).code == 0


def test_nothing_that_a_terminal_acts_upon_is_printed(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,category,time\nu,\x1b[31m\x07,1,2\n")
    outcome = prepare(path)
    refused(outcome, "item is not an integer")
    assert all(char.isprintable() or char == "\n" for char in outcome.err)


def test_all_rows_of_other_behaviors(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("1,10,5,buy,100\n" * 3)
    refused(prepare(path, form="taobao"), "3 are of other behaviors than pv")


def test_no_user_long_enough(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("".join(f"1,10,5,pv,{t}\n" for t in range(45)))
    refused(
        prepare(path, form="taobao"),
        "the longest history has 45 events; --min_events is 210",
    )
    with path.open("a") as log:
        log.write("1,10,5\n")
    refused(
        prepare(path, form="taobao"),
        "--min_events is 210. 1 rows were rejected:",
        "log.csv:46: 3 columns instead of 5: 1,10,5",
    )


@pytest.mark.parametrize(
    "more, words",
    [
        (["--min_event", "5"], "--min_event"),
        (["--split", "random"], "'random'"),
        (["--test_fraction", "0.2"], "--test_fraction belongs to --split last_fraction"),
        (["--split", "last_fraction", "--train_targets", "3"], "belongs to --split leave_last"),
        (["--split", "last_fraction", "--test_fraction", "1.5"], "Received: 1.5"),
        (["--split", "last_fraction", "--max_test", "2"], "--max_test"),
        (["--negatives", "-1"], "--negatives must be at least 0. Received: -1"),
        (["--min_events", "1"], "--min_events must be at least 2"),
        (["--window", "0"], "--window must be at least 1"),
        (["--buckets", "0"], "--buckets must be at least 1"),
        (["--buckets", "100000"], "--buckets must be at most 99999. Received: 100000"),
        (["--chunk_bytes", "2000000000"], "--chunk_bytes must be at most 1073741824"),
        (["--split", "last_fraction", "--test_fraction", "1"], "must be below 1. Received: 1.0"),
        (["--train_targets", "-1"], "--train_targets must be at least 0. Received: -1"),
        (["--max_rejected_fraction", "nan"], "--max_rejected_fraction must be at least 0"),
        (["--duplicates", "maybe"], "--duplicates: invalid choice: 'maybe'"),
        (["--columns", "item"], "name=column pairs. Received: 'item'"),
        (["--columns", "Item=x"], "name='Item'"),
        (["--behavior", "click"], "missing columns: behavior"),
        (["--seed", "one"], "invalid int value"),
    ],
)
def test_options_that_do_not_fit(prepare, log, more, words):
    refused(prepare(log, *more), words)


def test_behavior_that_the_format_does_not_have(prepare, log):
    refused(prepare(log, "--behavior", "click", form="taobao"), "pv, buy, cart, fav", "click")
    refused(
        prepare(log, "--columns", "user=x", form="tmall"),
        "--columns is for csv, parquet, avro, jsonl",
    )


def test_an_output_that_exists_is_kept(prepare, log, tmp_path):
    first = prepare(log, *SMALL)
    assert first.code == 0
    before = tree(first.output)
    refused(prepare(log, *SMALL), "exists. Give --overwrite to replace it")
    broken = tmp_path / "broken.csv"
    broken.write_text("user,item,category,time\n1,2,3\n")
    refused(prepare(broken, "--overwrite"), "No row is left")
    assert tree(first.output) == before
    again = prepare(log, "--overwrite", "--seed", 2, *SMALL)
    assert again.code == 0
    assert again.manifest["options"]["seed"] == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["broken.csv", "log.csv", "sequences", "sequences.rejected"]


def test_overwrite_replaces_nothing_but_sequences(prepare, log, tmp_path):
    folder = tmp_path / "sequences"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    refused(prepare(log, "--overwrite", *SMALL), "is no folder of sequences")
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_an_internal_error_leaves_no_output(prepare, log, tmp_path, monkeypatch):
    import beam_jobs.build_sequences as job

    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(job.manifest, "make_schema", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        prepare(log, *SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_that_cannot_be_written(prepare, log, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(prepare(log, *SMALL, output="closed/sequences"), "cannot be written")


def test_output_below_a_file(prepare, log):
    outcome = prepare(log, *SMALL, output="log.csv/sequences")
    assert outcome.code == 2
    assert "cannot be written" in outcome.err


def test_help_starts_with_a_line_to_paste(capsys):
    from beam_jobs.build_sequences import main

    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("python -m beam_jobs.build_sequences --input ")
    ungrouped = re.search(r"^options:\n((?:  .*\n)+)", text, re.MULTILINE)[1]
    assert re.findall(r"^  (?:-h, )?(--\w+)", ungrouped, re.MULTILINE) == [
        "--help",
        "--output",
        "--overwrite",
        "--config",
        "--dry_run",
        "--rows",
    ]
    assert "\nvocabularies:\n  --min_count" in text and "default: None" not in text


def test_too_many_rejected_rows(prepare, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(csv_text(made_up_rows()))
    options = [*SMALL, "--duplicates", "keep"]
    before = prepare(path, *options)
    assert before.code == 0, before.err
    good = path.read_text()
    rows = len(good.splitlines()) - 1
    path.write_text(good + "1,x,1,5\n1,x,1,5\n1,2,1,\n")
    kept = tree(before.output)
    refusal = prepare(path, *options, "--overwrite", "--max_rejected_fraction", "0.001")
    refused(
        refusal,
        f"3 of {rows + 3:,} rows were rejected",
        "--max_rejected_fraction is 0.001",
        "2 item is not an integer",
        "1 time is empty",
        f"log.csv:{rows + 2}: ",
    )
    assert tree(before.output) == kept
    beside = before.output.with_name(f"{before.output.name}.rejected")
    assert f"All rejected rows: {beside}/*.jsonl" in refusal.err
    lines = [json.loads(line) for file in beside.iterdir() for line in file.open()]
    assert [row["line"] for row in lines] == [rows + 2, rows + 3, rows + 4]
    assert prepare(path, *options, "--overwrite", "--max_rejected_fraction", "0.5").code == 0
