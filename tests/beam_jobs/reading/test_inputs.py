"""Reading text: any bytes, cut anywhere, give the same rows, the same faults, the same lines."""

import csv
import gzip
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beam_jobs.reading.formats import make_format
from beam_jobs.reading.inputs import blocks, find_files, plan
from beam_jobs.reading.rows import Events, to_events
from beam_jobs.reading.values import EMPTY, INEXACT, LARGEST, NOT_UTF8

FORM = make_format("csv", None, None)
HEADER = b"user,item,category,time\n"


def read(path, form, chunk_bytes):
    """Reads a file: its events and rejected rows, with their lines, and the number of rows."""
    good, bad, rows, before = [], [], 0, 0
    for chunk in plan(find_files([str(path)], form), form, chunk_bytes):
        lines = 0
        for block in blocks(chunk, form, chunk_bytes):
            lines += block.lines
            events, odd, _tally = to_events(block.columns, block.line, block.text_of, form)
            odd += [row for row in block.rejected if row.row.strip()]
            rows += len(events.line) + len(odd)
            columns = [events.columns[name].tolist() for name in ("item", "category", "time")]
            line = (events.line + before).tolist()
            good += zip(line, events.user.to_pylist(), *columns)
            bad += [(row.line + before, row.reason) for row in odd]
        before += lines
    return sorted(good), sorted(bad), rows


def number(text, name):
    """Parses one number by the rule of the reader; raises ValueError with the reason."""
    if text.lower() in EMPTY:
        raise ValueError(f"{name} is empty")
    digits = text.removeprefix("-")
    if not digits or set(digits) - set("0123456789"):
        whole = re.fullmatch(r"(-?[0-9]+)(\.0*|\.[0-9]+|e[0-9]+)", text)
        if not whole or (set(whole[2]) - set(".0") and name != "time" and "e" not in text):
            wanted = {"time": "neither a whole number nor an ISO 8601 time"}
            raise ValueError(f"{name} is {wanted.get(name, 'not an integer')}")
        if abs(float(text)) >= 2**53:
            raise ValueError(f"{name} {INEXACT}")
        text = str(int(float(text)))
    if abs(int(text)) > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST}")
    if int(text) < 0:
        raise ValueError(f"{name} is negative")
    return int(text)


def join_rows(lines):
    """Yields (line number, text) of rows; one in quotes may span lines if it has 4 columns."""
    number = 0
    while number < len(lines):
        after = number + 1
        while b"\n".join(lines[number:after]).count(b'"') % 2 and after <= len(lines):
            after += 1
        text = b"\n".join(lines[number:after])
        try:
            (fields,) = csv.reader([text.decode("latin-1")], strict=True)
            joined = after <= len(lines) and len(fields) == 4
        except csv.Error:
            joined = False
        after = after if joined else number + 1
        yield number + 2, b"\n".join(lines[number:after])
        number = after


def judge(data):
    """Does the same as :func:`read`, line by line in plain Python."""
    good, bad = [], []
    for line_number, line in join_rows(data.replace(b"\r\n", b"\n").split(b"\n")):
        if not line.decode("utf-8", "replace").strip():
            continue
        try:
            (fields,) = csv.reader([line.decode("latin-1")], strict=True)
        except csv.Error as error:
            bad.append((line_number, f"not a csv row: {error}"))
            continue
        if len(fields) != 4:
            bad.append((line_number, f"{len(fields)} columns instead of 4"))
            continue
        fields = [field.encode("latin-1").decode("utf-8", "surrogateescape") for field in fields]
        try:
            if not fields[0]:
                raise ValueError("user is empty")
            if not fields[0].isascii() and any("\udc80" <= c <= "\udcff" for c in fields[0]):
                raise ValueError(f"user {NOT_UTF8}")
            pairs = zip(("item", "category", "time"), fields[1:])
            numbers = [number(text, name) for name, text in pairs]
            user = re.sub(r"^([0-9]{1,15})\.0+$", r"\1", fields[0])
            good.append((line_number, user, *numbers))
        except ValueError as error:
            bad.append((line_number, str(error)))
    return good, bad, len(good) + len(bad)


field = st.sampled_from(
    [
        b"1",
        b"23",
        b"007",
        b"",
        b"-4",
        b"-0",
        b"x",
        b"1.0",
        b"12.50",
        b"3e2",
        b"9007199254740993.",
        b"NaN",
        b" 5",
        b"0x1",
        b"+1",
        b"u\xc3\xa9",
        b"\xff",
        b'"7"',
        b'"a,b"',
        b'"a\nb"',
        b'"',
        b'a"b',
        b"9223372036854775807",
        b"9223372036854775808",
        b"00000000000000000000012",
        b"1" * 30,
    ]
)
row = st.one_of(
    st.tuples(*[st.sampled_from([b"1", b"2", b"345"])] * 4).map(b",".join),
    st.lists(field, min_size=4, max_size=4).map(b",".join),
    st.lists(field, min_size=0, max_size=6).map(b",".join),
)
text = st.lists(
    st.tuples(row, st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])).map(b"".join), max_size=12
).map(b"".join)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(text, st.integers(1, 60), st.booleans())
@example(b"1,2,3,4", 1, False)
@example(b"\n\n1,2,3,4\n\n", 3, True)
@example(b'"1,2,3,4\n5,6,7,8\n"', 7, False)
@example(b'"1\nx",2,3,4\n5,6,7,8\n1,"2\n', 3, False)
@example(b'"1\nx",2,3,4\n"1,2\n\n"1\n\n",2,3,4', 3, True)
def test_rows_do_not_depend_on_how_the_file_is_cut(tmp_path, data, chunk_bytes, packed):
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(HEADER + data) if packed else HEADER + data)
    expected = judge(data)
    assert read(path, FORM, 1 << 20) == expected
    assert read(path, FORM, chunk_bytes) == expected


def test_stray_carriage_returns_are_no_line_ends(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(HEADER + b"1,2,3,4\n1,2\r,3,4\n1,2,3,5\n")
    good, bad, rows = read(path, FORM, 1 << 20)
    assert [row[0] for row in good] == [2, 4]
    assert [line for line, _ in bad] == [3]
    assert rows == 3


def test_quotes_are_plain_bytes_where_the_format_knows_none(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'"1,2,3,pv,4\n"1,2,3,pv,5\n')
    good, bad, _ = read(path, make_format("taobao", None, None), 1 << 20)
    assert [row[1] for row in good] == ['"1', '"1']
    assert not bad


@pytest.mark.parametrize(
    "values, good",
    [
        (pa.array([1, 2, None, -3], pa.int16()), [1, 2]),
        (pa.array([1, 2**63, 2**64 - 1], pa.uint64()), [1]),
        (pa.array([1.0, 2.5, float("nan"), None, 1e300, -1.0]), [1, 2]),
        (pa.array(["1", None, "x", "12"]), [1, 12]),
        (pa.array(["5", "6", "5"]).dictionary_encode(), [5, 6, 5]),
        (pa.array([1_500, 2_000], pa.timestamp("ms")), [1, 2]),
        (pa.array([1], pa.date32()), [86_400]),
    ],
)
def test_typed_columns_follow_the_same_rule(values, good):
    ones = pa.array([1] * len(values))
    if pa.types.is_dictionary(values.type):
        values = values.cast(pa.string())
    columns = {"user": ones, "item": ones, "category": ones, "time": values}
    line = np.arange(1, len(values) + 1)
    events, rejected, tally = to_events(columns, line, lambda row: f"row {row}", FORM)
    assert events.columns["time"].tolist() == good
    assert len(rejected) == len(values) - len(good)
    assert tally == {"rows_read": len(values), "rows_filtered": 0}


@given(st.lists(st.integers(-1, LARGEST), max_size=5))
def test_pickled_events_are_equal(values):
    import pickle

    column = np.array(values, np.int64)
    events = Events(pa.array(["u"] * len(values), pa.string()), {"item": column}, column)
    copy = pickle.loads(pickle.dumps(events))
    np.testing.assert_array_equal(copy.columns["item"], column)
    assert copy.columns["item"].dtype == np.int64
    assert copy.user.equals(events.user)
