"""Clocks: units by range, dates and times from every format, UTC whatever the machine's zone."""

import dataclasses
import datetime
import json
import time

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.reading.clocks import UNITS, Clock, clock_of, from_text
from beam_jobs.reading.formats import make_format
from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows
from tests.beam_jobs.reading.test_bad_input import refused
from tests.beam_jobs.reading.test_inputs import read

BOUND = ("--max_rejected_fraction", "0.1")
UTC = datetime.timezone.utc
START = datetime.datetime(2024, 2, 28, 23, 59, 58, 250_000, UTC)
TIMES = [START + datetime.timedelta(seconds=n) for n in range(5)]
SECONDS = [1_709_164_798 + n for n in range(5)]


@pytest.fixture(params=["Asia/Kolkata", "America/New_York"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def texts(pattern):
    return [moment.strftime(pattern) for moment in TIMES]


def write_avro(path, values, kind):
    fields = [{"name": "user", "type": "string"}, {"name": "item", "type": "long"}]
    fields.append({"name": "time", "type": kind})
    records = [{"user": "u", "item": 1, "time": value} for value in values]
    with open(path, "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, records)


def write_parquet(path, column):
    pq.write_table(
        pa.table({"user": ["u"] * len(column), "item": [1] * len(column), "time": column}), path
    )


def read_times(path, form, unit="s"):
    form = make_format(form, "category=", None)
    # columns of `read` include a category
    form = dataclasses.replace(
        form, columns={**form.columns, "category": ("item",)}, clock=Clock(unit)
    )
    good, bad, _ = read(path, form, 1 << 20)
    return [row[-1] for row in good], [reason for _, reason in bad]


@pytest.mark.parametrize("unit", UNITS)
def test_times_from_every_format(tmp_path, zone, unit):
    path = tmp_path / "log"
    exact = [int(moment.timestamp() * 1000) * UNITS[unit] // 1000 for moment in TIMES]
    assert [value // UNITS[unit] for value in exact] == SECONDS
    naive = [moment.replace(tzinfo=None) for moment in TIMES]
    for kind, values in {
        "timestamp-millis": TIMES,
        "timestamp-micros": TIMES,
        "local-timestamp-millis": naive,
        "local-timestamp-micros": naive,
    }.items():
        write_avro(path, values, {"type": "long", "logicalType": kind})
        assert read_times(path, "avro", unit) == (exact, []), kind
    for kind in ("ms", "us", "ns"):
        for place in (None, "UTC", "America/New_York"):
            write_parquet(path, pa.array(TIMES if place else naive, pa.timestamp(kind, place)))
            assert read_times(path, "parquet", unit) == (exact, []), (kind, place)
    east = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    written = [
        [moment.isoformat() for moment in TIMES],
        [moment.astimezone(east).isoformat() for moment in TIMES],
        texts("%Y-%m-%dT%H:%M:%S.%fZ"),
        texts("%Y-%m-%d %H:%M:%S.25"),
        texts("%Y-%m-%d %H:%M:%S.250000000 UTC"),
        texts("%Y-%m-%dt%H:%M:%S,25-00"),
    ]
    for text in written:
        rows = "".join(f'u,1,"{value}"\n' for value in text)
        path.write_text("user,item,time\n" + rows)
        assert read_times(path, "csv", unit) == (exact, []), text[0]
        records = [{"user": "u", "item": 1, "time": value} for value in text]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        assert read_times(path, "jsonl", unit) == (exact, []), text[0]
        write_parquet(path, pa.array(text))
        assert read_times(path, "parquet", unit) == (exact, []), text[0]
        write_avro(path, text, "string")
        assert read_times(path, "avro", unit) == (exact, []), text[0]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_dates(tmp_path, zone, unit):
    path, days = tmp_path / "log", [datetime.date(2024, 2, 28), datetime.date(2024, 2, 29)]
    exact = [1_709_078_400 * UNITS[unit], 1_709_164_800 * UNITS[unit]]
    write_avro(path, days, {"type": "int", "logicalType": "date"})
    assert read_times(path, "avro", unit) == (exact, [])
    for kind in (pa.date32(), pa.date64(), pa.string()):
        write_parquet(path, pa.array(map(str, days) if kind == pa.string() else days, kind))
        assert read_times(path, "parquet", unit) == (exact, [])
    for name, day in zip(("a", "b"), days):
        folder = tmp_path / "folders" / f"time={day}"
        folder.mkdir(parents=True)
        (folder / name).write_text("user,item\nu,1\n")
    good, _ = read_times(tmp_path / "folders", "csv", unit)
    assert good == exact


@given(
    st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1)),
    st.integers(-840, 840),
)
def test_iso_8601_is_read_as_python_reads_it(moment, minutes):
    zoned = moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))
    texts = [zoned.isoformat(), moment.isoformat(" "), moment.isoformat("T", "minutes") + "Z", "x"]
    expected = [
        zoned.timestamp(),
        moment.replace(tzinfo=UTC).timestamp(),
        moment.replace(second=0, microsecond=0, tzinfo=UTC).timestamp(),
    ]
    values, fits = from_text(pa.array([text.encode() for text in texts]), 10**6)
    assert fits.tolist() == [True, True, True, False]
    np.testing.assert_allclose(values[:3] / 10**6, expected, atol=1e-6)


TEXTS = {
    "1709164798": 1_709_164_798,
    "1709164798.75": 1_709_164_798,
    "1.709164798e9": 1_709_164_798,
    "2024-02-30": "time is neither a whole number nor an ISO 8601 time",
    "2023-02-29T00:00:00Z": "time is neither a whole number nor an ISO 8601 time",
    "2024-02-29T25:00:00Z": "time is neither a whole number nor an ISO 8601 time",
    "29.02.2024": "time is neither a whole number nor an ISO 8601 time",
    "1969-12-31": "time is neither a whole number nor an ISO 8601 time",
    "-5": "time is negative",
    "": "time is empty",
    "NaN": "time is empty",
}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "avro"])
def test_each_time_is_judged_by_itself(tmp_path, form):
    path, written = tmp_path / "log", list(TEXTS)
    if form == "csv":
        path.write_text("user,item,time\n" + "".join(f"u,1,{text}\n" for text in written))
    elif form == "jsonl":
        lines = [f'{{"user": "u", "item": 1, "time": "{text}"}}\n' for text in written]
        path.write_text("".join(lines))
    elif form == "parquet":
        write_parquet(path, pa.array(written))
    else:
        write_avro(path, written, "string")
    good, bad = read_times(path, form)
    assert good == [value for value in TEXTS.values() if isinstance(value, int)]
    assert bad == [value for value in TEXTS.values() if isinstance(value, str)]


def test_a_clock_is_told_by_range():
    for unit, ticks in UNITS.items():
        clock = clock_of(np.array([0, 1_511_539_200, 1_709_164_798, 1_709_164_799]) * ticks)
        assert clock == Clock(unit, by_range=True)
        mixed = np.array([5, *(1_709_164_798 * other for other in UNITS.values())])
        assert clock.strange(mixed).tolist() == [n for n, u in enumerate(UNITS, 1) if u != unit]
    assert clock_of(np.array([1, 200])) == Clock(None, by_range=True)
    assert not clock_of(np.array([], np.int64)).known
    assert not len(Clock("s").strange(np.array([10**15])))  # what is given is not doubted


def in_unit(unit, rows=None):
    """Writes a log of 2024 as text, its times in a unit."""
    rows = rows or made_up_rows()
    times = [(1_709_164_000 + second * 1800) * UNITS[unit] for *_, second in rows]
    return csv_text([(*row[:3], time) for row, time in zip(rows, times)])


def test_a_run_says_its_unit_and_hours_follow_it(prepare, tmp_path):
    hours = [*SMALL, "--context", "hour=hour_of_day", "day=day_of_week", "--vectors", "none"]
    vocabularies = {}
    for unit in UNITS:
        path = tmp_path / f"{unit}.csv"
        path.write_text(in_unit(unit))
        outcome = prepare(path, *hours, output=unit)
        assert outcome.code == 0, outcome.err
        name = outcome.manifest["options"]["time_unit"]
        assert {"s": "seconds", "ns": "nanoseconds"}.get(unit, name) == name
        assert f"times in {name} by their range (--time_unit)" in outcome.err
        assert f"times       {name}" in outcome.out
        vocabularies[unit] = json.dumps(outcome.manifest["digests"]["vocabularies"])
    assert len(set(vocabularies.values())) == 1
    wrong = prepare(tmp_path / "ms.csv", *hours, "--time_unit", "s", output="wrong")
    assert wrong.code == 0 and wrong.manifest["options"]["time_unit"] == "seconds"
    assert json.dumps(wrong.manifest["digests"]["vocabularies"]) != vocabularies["s"]


def test_another_unit_is_refused(prepare, tmp_path):
    for unit in ("s", "ms"):
        (tmp_path / unit).write_text(in_unit(unit))
    first = prepare(tmp_path / "s", *SMALL, "--keep_events", output="first")
    since = [*SMALL, "--since", first.output]
    refused(
        prepare(tmp_path / "ms", *since, buckets=None),
        f"Received: milliseconds in --input, seconds in --since {str(first.output)!r}",
        "--time_unit",
    )
    assert prepare(tmp_path / "s", *since, buckets=None).code == 0
    # the clock was not recorded by versions before this one
    manifest = first.manifest
    del manifest["options"]["time_unit"]
    (first.output / "manifest.json").write_text(json.dumps(manifest))
    assert prepare(tmp_path / "s", *since, "--overwrite", buckets=None).code == 0
    shown = "".join(f"u1,7,{1_709_200_000 + n},{n % 2}\n" for n in range(20))
    (tmp_path / "shown").write_text("user,item,time,label\n" + shown)
    by_time = ["--split", "by_time", "--validation_from", "1709400000000", "--test_from"]
    by_time += ["1709450000000", "--impressions", tmp_path / "shown", "--impressions_format", "csv"]
    refused(
        prepare(tmp_path / "ms", *by_time, output="shown-ms"),
        "Received: milliseconds in --input, seconds in --impressions",
    )


def test_a_part_in_another_unit_is_rejected(prepare, tmp_path):
    (tmp_path / "part-0").write_text(in_unit("s"))
    (tmp_path / "part-1").write_text(in_unit("us", made_up_rows(seed=1)))
    refused(
        prepare([tmp_path / "part-0", tmp_path / "part-1"], *SMALL, *BOUND),
        "time is not in seconds as others of the log are",
        "--max_rejected_fraction is 0.1",
        f"{tmp_path}/part-1:2: ",
    )


def test_dates_of_a_split_follow_the_clock_of_the_log(prepare, tmp_path):
    plain = ["--split", "by_time", "--vectors", "none", "--min_events", "2"]
    dates = ["--validation_from", "2024-03-02", "--test_from", "2024-03-02T12:00:00+02:00"]
    requests = set()
    for unit in ("s", "ms", "ns"):
        (tmp_path / f"{unit}.csv").write_text(in_unit(unit))
        outcome = prepare(tmp_path / f"{unit}.csv", *plain, *dates, output=unit)
        assert outcome.code == 0, outcome.err
        split, ticks = outcome.sequences.schema.split, UNITS[unit]
        assert split["validation_from"] == 1_709_337_600 * ticks
        assert split["test_from"] == (1_709_337_600 + 36_000) * ticks
        requests.add(tuple(outcome.sequences.requests(name) for name in ("train", "test")))
    assert len(requests) == 1 and 0 not in requests.pop()
    # a number beside a date is compared once the clock is known
    mixed = ["--validation_from", "1709337600000", "--test_from", "2024-03-02T10:00Z"]
    outcome = prepare(tmp_path / "ms.csv", *plain, *mixed, output="mixed")
    assert outcome.sequences.schema.split["test_from"] == (1_709_337_600 + 36_000) * 1000
    mixed[1] = "1709400000000"
    refused(
        prepare(tmp_path / "ms.csv", *plain, *mixed, output="late"),
        "a later --test_from, as dates or by the clock of the log. "
        "Received: 1709400000000 and 2024-03-02T10:00Z",
    )


def test_dates_of_a_split_need_a_clock(prepare, log, tmp_path):
    by_time = ["--split", "by_time", "--validation_from", "2024-03-08", "--test_from"]
    refused(prepare(log, *by_time, "2024-03-09"), "--validation_from is a date, but", "--time_unit")
    refused(prepare(log, *by_time, "2024-03-01"), "Received: 2024-03-08 and 2024-03-01")
    refused(prepare(log, *by_time, "8 March"), "must be a date or time such as", "'8 March'")
    refused(prepare(log, *by_time, "2024-02-30"), "'2024-02-30'")
