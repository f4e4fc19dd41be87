"""Text ids: the same sequences from every format, rows that can be read, and reasons."""

import datetime
import json
import re
import uuid

import apache_beam as beam
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beam_jobs.reading.bigquery import RowsToEvents
from beam_jobs.reading.events import EVENTS, TEXTS
from beam_jobs.reading.formats import make_format, with_context, with_text_ids
from beam_jobs.reading.inputs import blocks, find_files, plan
from beam_jobs.reading.rows import to_events
from beam_jobs.reading.text_ids import Texts
from beam_jobs.shared.hashing import text_codes
from tests.beam_jobs.conftest import SMALL
from tests.beam_jobs.histories.test_earlier_run import RICH, make_days, same_bytes
from tfdare.schema import STRING
from tfdare.schema.id_hash import fingerprint, hash_rows
from tfdare.sequences import SPLITS
from tfdare.sequences.raw_ids import RawIds, readable
from tfdare.sequences.requests import requests_of_record

FORMATS = ("csv", "jsonl", "parquet", "avro")
NAMES = ("user", "item", "hash", "tags", "city", "time")
WITH_ALL = (
    *("--columns", "category=hash,tags=tags", "--multi_hot", "tags=2", "--context", "city=city"),
    *("--max_rejected_fraction", "0.1", *SMALL),
)
CITIES = ("Łódź", "NA", "", "a|b")


def records(users=12, seed=0):
    """Makes events whose ids are text, unsigned 64-bit hashes, and tags; some are repeated."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for time in np.sort(random.integers(0, 300, 20 + user)).tolist():
            item = int(random.zipf(1.5)) % 40
            rows.append(
                {
                    "user": f"u{user}",
                    "item": f"SKU-{item:04d}/b",
                    "hash": item * 0x9E3779B97F4A7C15 % 2**64,
                    "tags": [f"tag {item % 3}", "x"][: item % 3],
                    "city": CITIES[item % 4],
                    "time": 86_400 * 20_000 + time,
                }
            )
    return [*rows, *rows[:3]]


def write(folder, form, rows):
    """Writes the rows as a file of a format; times of some are text."""
    path = folder / f"log.{form}"
    if form == "csv":
        cells = [[*row.values()] for row in rows]
        table = {
            name: ["|".join(cell[i]) if name == "tags" else str(cell[i]) for cell in cells]
            for i, name in enumerate(NAMES)
        }
        pa_csv.write_csv(pa.table(table), path)
    elif form == "jsonl":
        iso = [datetime.datetime.fromtimestamp(row["time"], datetime.timezone.utc) for row in rows]
        lines = [{**row, "time": time.isoformat()} for row, time in zip(rows, iso)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif form == "parquet":
        kinds = {"hash": pa.uint64(), "city": pa.dictionary(pa.int8(), pa.string())}
        columns = {name: [row[name] for row in rows] for name in NAMES}
        pq.write_table(pa.table({n: pa.array(v, kinds.get(n)) for n, v in columns.items()}), path)
    else:
        kinds = {**dict.fromkeys(NAMES, "string"), "time": "long"}
        kinds["tags"] = {"type": "array", "items": "string"}
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        rows = [{**row, "hash": str(row["hash"])} for row in rows]
        with open(path, "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, rows)
    return path


def test_every_format_gives_the_sequences_of_the_rows(prepare, tmp_path):
    rows = records()
    outcomes = {
        form: prepare(write(tmp_path, form, rows), *WITH_ALL, form=form, output=form)
        for form in FORMATS
    }
    for outcome in outcomes.values():
        assert outcome.code == 0, outcome.err
        assert "text ids: category, city, item, tags" in outcome.err
        same_bytes(outcomes["csv"], outcome)
    outcome = outcomes["csv"]
    sequences = outcome.sequences
    assert {part.name: part.dtype for part in sequences.schema.categorical} == dict.fromkeys(
        ("item", "category", "tags", "city"), STRING
    )
    # what the records hold, decoded, is what the rows hold
    of_user = {}
    for row in rows[:-3]:
        of_user.setdefault(row["user"], []).append(row)
    ids, seen = RawIds(sequences), 0
    for split in SPLITS:
        for record in sequences.records(split):
            past = of_user[record.user][: len(record.history_time)]
            items = readable(ids.raw("item", record.history["item"])).tolist()
            tags = readable(ids.raw("tags", record.history["tags"])).tolist()
            for row, item, some in zip(past, items, tags, strict=True):
                assert item in ("", row["item"])
                assert set(some) <= {"", "\t", *row["tags"]}
                seen += item == row["item"]
    assert seen > 300
    hashes = (outcome.output / "vocabulary" / "category.tsv").read_text()
    assert any(int(line.split("\t")[0]) >= 2**63 for line in hashes.splitlines())
    # repeated rows are kept with their text
    kept = [row["row"] for row in outcome.rejected]
    assert len(kept) == 3
    assert all(rows[i]["item"] in kept[i] and str(rows[i]["hash"]) in kept[i] for i in range(3))


IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text != r"\N" and not re.fullmatch(r"[0-9]+\.0*|-?[0-9.]+e\+[0-9]+", text)
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(IDS, st.lists(IDS.filter(lambda tag: "|" not in tag), max_size=2))))
@example([("nan", ["null"]), ("a,b", ['"']), ("007", ["7"]), (" x ", ["é"])])
def test_any_text_is_read_as_it_was_written(tmp_path, values):
    rows = [
        {"user": "u", "item": item, "hash": 1, "tags": tags, "city": "", "time": n}
        for n, (item, tags) in enumerate(values)
    ]
    for kind in FORMATS:
        form = with_context(make_format(kind, "category=,tags=tags", None), ["tags=2"])
        form = with_text_ids(form, ["item", "tags"])
        if not rows and kind in ("csv", "jsonl"):
            continue  # no columns
        path, got = write(tmp_path, kind, rows), []
        for chunk in plan(find_files([str(path)], form), form, 1 << 20):
            for block in blocks(chunk, form, 1 << 20):
                events, odd, _ = to_events(block.columns, block.line, block.text_of, form)
                assert not odd and not block.rejected, (kind, odd, block.rejected)
                decode = Texts.of(events.texts).decode
                tags = [[tag for tag in row if tag] for row in decode(events.columns["tags"])]
                got += zip(decode(events.columns["item"]), tags)
        assert got == values, kind


def test_integers_stay_integers_unless_told(prepare, log):
    plain = prepare(log, *SMALL, "--max_rejected_fraction", "0.1")
    assert plain.sequences.schema.item.dtype == "int64" and "text ids" not in plain.err
    assert "dtype" not in (plain.output / "schema.json").read_text()
    text = prepare(log, *SMALL, "--text_ids", "item", output="text")
    assert text.sequences.schema.item.dtype == STRING
    assert text.sequences.schema.split["text_ids"] == ["item"]
    whole = [int(line) for line in text.sequences.vocabulary("item")]
    assert sorted(whole) == sorted(plain.sequences.vocabulary("item").tolist())
    outcome = prepare(log, *SMALL, "--text_ids", "shop", output="none")
    assert outcome.code == 2 and "--text_ids: shop not among" in outcome.err


def test_bad_rows_say_why(prepare, tmp_path):
    good = "".join(f"u{n % 3},ID {n % 7},c,{n}\n" for n in range(60))
    bad = {
        "u1,,c,1": "item is empty",
        r"u1,\N,c,1": "item is empty",
        '"u1","a\tb",c,1': "item has a control character, such as a tab",
        '"u1","a\nb",c,1': "item has a control character, such as a tab",
        "u1,1.2345678901234568e+18,c,1": "item was a floating-point number",
        "u1,caf\udce9,c,1": "item is not UTF-8 text; iconv",
    }
    path = tmp_path / "log.csv"
    text = "user,item,category,time\n" + good + "".join(f"{row}\n" for row in bad)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = prepare(path, *SMALL, "--text_ids", "item", "category")
    assert outcome.code == 0, outcome.err
    reasons = [row["reason"] for row in outcome.rejected]
    assert len(reasons) == len(bad)
    for reason, wanted in zip(reasons, bad.values()):
        assert reason.startswith(wanted)
    # a log of text that is read as integers says how to read it
    outcome = prepare(path, *SMALL, output="integers")
    assert outcome.code == 2 and "--text_ids item" in outcome.err


def as_text(paths):
    """Rewrites logs of integer ids as logs of text ids."""
    for path in paths:
        head, *lines = path.read_text().splitlines()
        names = head.split(",")
        for number, line in enumerate(lines):
            row = dict(zip(names, line.split(",")))
            row["item"] = f"sku {row['item']}"
            row["tags"] = "|".join(f"#{tag}" for tag in row["tags"].split("|") if tag)
            row["city"] = f"city-{row['city']}"
            lines[number] = ",".join(row.values())
        path.write_text("\n".join([head, *lines]) + "\n")
    return paths


def test_day_by_day_equals_the_whole(prepare, tmp_path):
    days = as_text(make_days(tmp_path))
    options = (*RICH, "--keep_events", "--max_rejected_fraction", "0.1")
    before = None
    for number, day in enumerate(days):
        since = ("--since", before.output) if before else ()
        before = prepare(
            day, *options, *since, buckets=None if before else "2", output=f"day-{number}"
        )
        assert before.code == 0, before.err
    whole = prepare(days, *options, output="whole")
    ids = [set(outcome.sequences.vocabulary("item").tolist()) for outcome in (before, whole)]
    assert ids[0] == ids[1] and len(ids[0]) > 30
    new = prepare(days[2], *RICH, "--vocabulary_from", before.output, output="frozen")
    assert new.code == 0, new.err
    same = ("vocabulary/item.tsv", "vocabulary/city.tsv")
    for name in same:
        lines = [
            [line.split(b"\t")[0] for line in (outcome.output / name).read_bytes().splitlines()]
            for outcome in (before, new)
        ]
        assert lines[0] == lines[1] and len(lines[0]) > 3
    refused = prepare(
        days[2], *RICH, "--since", before.output, "--text_ids", "item", buckets=None, output="other"
    )
    assert refused.code == 2 and "the ids that are text in" in refused.err


def test_hashed_text_ids_share_rows(prepare, tmp_path):
    rows = records()
    path = write(tmp_path, "csv", rows)
    plain = prepare(path, *WITH_ALL, output="plain")
    buckets = ("--hash_buckets", "item=50", "tags=9", "city=3")
    hashed = prepare(path, *WITH_ALL, *buckets, output="hashed")
    assert hashed.code == 0, hashed.err
    item = hashed.sequences.schema.item
    assert item.dtype == STRING and item.hash_buckets == 50
    assert [path.name for path in (hashed.output / "vocabulary").iterdir()] == ["category.tsv"]
    ids, again, compared = RawIds(plain.sequences), RawIds(hashed.sequences), 0
    for record, other in zip(plain.sequences.records("train"), hashed.sequences.records("train")):
        for name, size in (("item", 50), ("tags", 9)):
            raw = ids.raw(name, record.history[name]).reshape(-1)
            known = record.history[name] > 1
            wanted = hash_rows(fingerprint(raw[known]), size)
            np.testing.assert_array_equal(other.history[name][known], wanted)
            stand_ins = again.raw(name, other.history[name]).reshape(-1)[known]
            np.testing.assert_array_equal(hash_rows(fingerprint(stand_ins), size), wanted)
            compared += int(known.sum())
    assert compared > 100


def test_impressions_with_text_ids(prepare, tmp_path):
    rows = records()
    path = write(tmp_path, "parquet", rows)
    shown = tmp_path / "shown.csv"
    times = sorted(row["time"] for row in rows)
    lines = ["user,item,time,label,place"]
    for user in range(12):
        for time in times[:: len(times) // 9]:
            lines += [f"u{user},SKU-{n:04d}/b,{time},{n % 2},p {n}" for n in range(3)]
    shown.write_text("\n".join(lines) + "\n")
    outcome = prepare(
        path,
        *(
            "--columns",
            "category=",
            "--impressions",
            shown,
            "--impressions_format",
            "csv",
            "--context",
            "place=place",
        ),
        *("--split", "by_time", "--validation_from", times[len(times) // 2]),
        *("--test_from", times[-len(times) // 4], "--max_rejected_fraction", "0.1"),
        form="parquet",
    )
    assert outcome.code == 0, outcome.err
    schema = outcome.sequences.schema
    assert {p.name: p.dtype for p in schema.categorical} == {"item": STRING, "place": STRING}
    ids = RawIds(outcome.sequences)
    for record in outcome.sequences.records("train"):
        for request in requests_of_record(record, schema, ids):
            items = [item for item in readable(request.target["item"]).tolist() if item]
            assert len(items) >= 2 and all(item[:6] == "SKU-00" for item in items)


def test_given_vectors_of_text_ids(prepare, tmp_path):
    path, vectors = write(tmp_path, "csv", records()), tmp_path / "vectors.parquet"
    names = [f"SKU-{n:04d}/b" for n in range(1, 5)]
    numbers = np.eye(4, dtype=np.float32)
    pq.write_table(pa.table({"id": names, "vector": list(numbers)}), vectors)
    outcome = prepare(path, *WITH_ALL, "--vectors", f"item={vectors}")
    assert outcome.code == 0, outcome.err
    sequences = outcome.sequences
    ids = sequences.vocabulary("item").tolist()
    for name, vector in zip(names, numbers):
        np.testing.assert_array_equal(
            sequences.vectors("item")[ids.index(name.encode()) + 2], vector
        )


def test_uuids_are_their_text_in_every_format(prepare, tmp_path):
    ids = [uuid.UUID(int=number * 2**120 + 7) for number in range(9)]
    rows = [
        {"user": f"u{n % 3}", "item": ids[n * n % 9], "category": 1, "time": n} for n in range(60)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    binary = pa.array([id_.bytes for id_ in columns["item"]], pa.uuid())
    pq.write_table(pa.table({**columns, "item": binary}), tmp_path / "log.parquet")
    kinds = {"user": "string", "category": "long", "time": "long"}
    kinds["item"] = {"type": "string", "logicalType": "uuid"}
    fields = [{"name": name, "type": kinds[name]} for name in columns]
    with open(tmp_path / "log.avro", "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, rows)
    lines = [",".join(map(str, row.values())) for row in rows]
    (tmp_path / "log.csv").write_text("\n".join([",".join(columns), *lines]))
    outcomes = [
        prepare(
            tmp_path / f"log.{form}",
            *SMALL,
            "--max_rejected_fraction",
            "0.1",
            form=form,
            output=form,
        )
        for form in ("csv", "parquet", "avro")
    ]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
        same_bytes(outcomes[0], outcome)
    assert set(readable(outcomes[0].sequences.vocabulary("item"))) <= set(map(str, ids))


def test_rows_of_a_table():
    form = make_format("bigquery", "user=uid,item=iid,category=,time=at", None)
    form = with_text_ids(form, ["item"])
    rows = [{"uid": f"u{n % 3}", "iid": f"SKU {n % 4}", "at": n} for n in range(12)]
    codes = text_codes(pa.array([b"SKU 0", b"SKU 1", b"SKU 2", b"SKU 3"])).tolist()
    with beam.Pipeline("FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create(rows) | RowsToEvents("p:d.t", form, 2)
        events = outputs[EVENTS] | beam.FlatMap(lambda pair: pair[1].columns["item"].tolist())
        assert_that(events, equal_to(codes * 3), "events")
        texts = outputs[TEXTS] | beam.FlatMap(lambda array: array.to_pylist())
        assert_that(texts, equal_to([b"SKU 0", b"SKU 1", b"SKU 2", b"SKU 3"]), "texts")


def test_two_texts_of_one_code_are_refused(monkeypatch):
    import beam_jobs.reading.text_ids as module
    from beam_jobs.shared.errors import InputError

    monkeypatch.setattr(module, "text_codes", lambda texts: np.zeros(len(texts), np.int64))
    with pytest.raises(InputError, match="'a' and 'b' have the same 63-bit hash"):
        Texts.of([pa.array([b"a", b"b", b"a"])])
