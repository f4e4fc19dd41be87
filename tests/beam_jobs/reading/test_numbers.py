"""Numbers that are not what they seem: the same value, or the same fault, in every format."""

import json
import math
from decimal import Decimal

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from beam_jobs.reading.formats import make_format, make_impressions_format, with_context
from beam_jobs.reading.inputs import blocks, find_files, plan
from beam_jobs.reading.rows import to_events
from beam_jobs.reading.values import INEXACT, NO_LABEL
from beam_jobs.shared.errors import InputError
from tests.beam_jobs.reading.test_bad_input import refused

FORMATS = ("csv", "jsonl", "parquet", "avro")
NAMES = ("user", "item", "time", "tags", "city", "price", "label")


def make_form(form, columns=""):
    """Makes a format with an item, tags, a city that may be empty, a price, and a label."""
    log = with_context(make_format(form, "category=,tags=tags", None), ["tags=2"])
    form = make_impressions_format(form, f"tags=tags,{columns}", log)
    return with_context(form, (), ["city=city"], ["price=price"])


def read_rows(path, form, chunk_bytes=1 << 20):
    """Reads a file: its rows by line, as a mapping or as the reason for which they are bad."""
    rows, before = {}, 0
    for chunk in plan(find_files([str(path)], form), form, chunk_bytes):
        lines = 0
        for block in blocks(chunk, form, chunk_bytes):
            lines += block.lines
            events, odd, _ = to_events(block.columns, block.line, block.text_of, form)
            columns = {name: column.tolist() for name, column in events.columns.items()}
            columns["user"] = events.user.to_pylist()
            for index, line in enumerate(events.line.tolist()):
                rows[before + line] = {name: column[index] for name, column in columns.items()}
            rows |= {before + row.line: row.reason for row in [*odd, *block.rejected]}
        before += lines
    return [rows[line] for line in sorted(rows)]


def cell(value):
    """Formats a value as pandas writes it to csv, a gap as NaN."""
    if value is None:
        return ""
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)


def write(path, form, name, values, avro="double"):
    """Writes rows whose column ``name`` has ``values``, others plain ones."""
    plain = {"user": "u", "item": 1, "time": 5, "tags": [1], "city": 2, "price": 0.5, "label": 1}
    records = [{**plain, name: value} for value in values]
    if form == "csv":
        lines = [",".join(cell(record[column]) for column in NAMES) for record in records]
        path.write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(record, default=float) + "\n" for record in records))
    elif form == "parquet":
        pq.write_table(pa.table({n: [r[n] for r in records] for n in NAMES}), path)
    else:
        kinds = {
            **dict.fromkeys(NAMES, "long"),
            "user": "string",
            "price": "double",
            "tags": {"type": "array", "items": "long"},
            name: ["null", avro],
        }
        fields = [{"name": column, "type": kind} for column, kind in kinds.items()]
        with open(path, "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, records)


FLOATS = {
    1234.0: 1234,
    1e3: 1000,
    2.0**53 - 1: 2**53 - 1,
    2.0**53: INEXACT,
    1e300: INEXACT,
    2.5: "is not an integer",
    -1.0: "is negative",
    -0.0: 0,
    math.inf: "is not an integer",
    math.nan: "is empty",
    None: "is empty",
}


@pytest.mark.parametrize("form", FORMATS)
def test_ids_that_became_floating_point_numbers(tmp_path, form):
    for name in ("item", "city"):
        write(tmp_path / "log", form, name, list(FLOATS))
        rows = read_rows(tmp_path / "log", make_form(form))
        for row, expected in zip(rows, FLOATS.values(), strict=True):
            if name == "city" and expected == "is empty":
                assert row[name] == -1
            elif isinstance(expected, str):
                assert row == f"{name} {expected}"
            else:
                assert row[name] == expected
    write(tmp_path / "log", form, "user", [12.0, 2.0**53, None])
    first, *others = read_rows(tmp_path / "log", make_form(form))
    assert first["user"] == "12" and others == [f"user {INEXACT}", "user is empty"]


@pytest.mark.parametrize("form", FORMATS)
def test_numbers_that_are_missing_or_infinite(tmp_path, form):
    values = [1.5, math.nan, None, math.inf, -math.inf]
    write(tmp_path / "log", form, "price", values)
    price = [
        row["price"] if isinstance(row, dict) else row
        for row in read_rows(tmp_path / "log", make_form(form))
    ]
    assert price[0] == 1.5 and math.isnan(price[1]) and math.isnan(price[2])
    assert price[3:] == ["price is larger than 3.4e+38"] * 2


@pytest.mark.parametrize("form", FORMATS)
def test_labels(tmp_path, form):
    for values, avro in (
        ([True, False, None], "boolean"),
        ([1, 0, None, 2], "long"),
        ([1.0, 0.0, None, 0.5], "double"),
        (["true", "False", "", "t", "F", "TRUE", "1", "0.0", "yes", "-1"], "string"),
    ):
        write(tmp_path / "log", form, "label", values, avro)
        rows = read_rows(tmp_path / "log", make_form(form))
        expected = [1, 0, "label is empty", NO_LABEL]
        if avro == "string":
            expected = [1, 0, "label is empty", 1, 0, 1, 1, 0, NO_LABEL, NO_LABEL]
        labels = [row["label"] if isinstance(row, dict) else row for row in rows]
        assert labels == expected[: len(values)]


@pytest.mark.parametrize("form", FORMATS)
def test_a_column_without_values(tmp_path, form):
    write(tmp_path / "log", form, "city", [None, None], "string")
    assert [row["city"] for row in read_rows(tmp_path / "log", make_form(form))] == [-1, -1]
    write(tmp_path / "log", form, "tags", [None, None], {"type": "array", "items": "long"})
    assert [row["tags"] for row in read_rows(tmp_path / "log", make_form(form))] == [[-1, -1]] * 2
    write(tmp_path / "log", form, "item", [None, None], "string")
    assert read_rows(tmp_path / "log", make_form(form)) == ["item is empty"] * 2


@pytest.mark.parametrize("form", ["parquet", "avro"])
def test_decimals(tmp_path, form):
    values = [Decimal("12.00"), Decimal("9007199254740993.00"), Decimal("1.50"), None]
    avro = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}
    write(tmp_path / "log", form, "item", values, avro)
    rows = read_rows(tmp_path / "log", make_form(form))
    assert [row["item"] for row in rows[:2]] == [12, 2**53 + 1]
    assert rows[2:] == ["item is not an integer", "item is empty"]
    write(tmp_path / "log", form, "price", values, avro)
    assert [row["price"] for row in read_rows(tmp_path / "log", make_form(form))][2] == 1.5


@pytest.mark.parametrize("form", ["jsonl", "parquet", "avro"])
def test_fields_of_records_are_columns(tmp_path, form):
    form_of = make_form(form, "item=event.item.id,user=a.b")
    records = [
        {
            "event": {"item": {"id": n, "x": "y"}, "tags": [n, 2]},
            "a.b": f"u{n}",
            "time": 5,
            "label": 1,
        }
        for n in (7, 8)
    ]
    records = [{**record, "tags": [3], "city": 1, "price": 2.0} for record in records]
    path = tmp_path / "log"
    if form == "jsonl":
        path.write_text(
            "".join(json.dumps(record) + "\n" for record in [*records, {"event": None}])
        )
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist([*records, {"event": None}]), path)
    else:
        records = [{("a" if k == "a.b" else k): v for k, v in record.items()} for record in records]
        form_of = make_form(form, "item=event.item.id,user=a")

        def record_of(name, **kinds):
            fields = [{"name": key, "type": kind} for key, kind in kinds.items()]
            return {"type": "record", "name": name, "fields": fields}

        item = record_of("item", id="long", x="string")
        longs = {"type": "array", "items": "long"}
        event = ["null", record_of("event", item=item, tags=longs)]
        nulls = {"city": ["null", "long"], "price": ["null", "double"], "label": ["null", "long"]}
        kinds = {"event": event, "a": ["null", "string"], "time": ["null", "long"], **nulls}
        kinds["tags"] = ["null", longs]
        with open(path, "wb") as file:
            fastavro.writer(file, record_of("row", **kinds), [*records, {}])
    *rows, bad = read_rows(path, form_of)
    assert [(row["item"], row["user"], row["tags"]) for row in rows] == [
        (7, "u7", [3, -1]),
        (8, "u8", [3, -1]),
    ]
    assert bad == "user is empty"
    with pytest.raises(InputError, match=r"missing columns: user, event\.x\. Found: event, "):
        read_rows(path, make_form(form, "item=event.x"))


class Wrapped(pa.ExtensionType):
    """An extension type over integers."""

    def __init__(self):
        super().__init__(pa.int64(), "tests.wrapped")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        return cls()


@pytest.fixture
def wrapped():
    pa.register_extension_type(Wrapped())
    yield Wrapped()
    pa.unregister_extension_type("tests.wrapped")


def test_types_of_parquet(tmp_path, wrapped):
    text = pa.array(["7", "8", None])
    numbers = pa.array([7, 8, None])
    lists = pa.array([[7, 8, 9], None, []])
    columns = {
        "item": [
            numbers.cast(pa.uint8()),
            numbers.dictionary_encode(),
            text.dictionary_encode(),
            text.cast(pa.large_string()),
            text.cast(pa.string_view()),
            text.cast(pa.binary()),
            text.cast(pa.large_binary()),
            numbers.cast(pa.decimal128(30)),
            numbers.cast(pa.float32()),
            pa.ExtensionArray.from_storage(wrapped, numbers),
        ],
        "tags": [
            lists.cast(pa.large_list(pa.int32())),
            lists.cast(pa.list_(pa.large_string())),
            lists.cast(pa.list_(pa.float64())),
            pa.array(["7|8|9", None, ""]).dictionary_encode(),
        ],
    }
    path = tmp_path / "log"
    plain = {name: [1, 1, 1] for name in NAMES}
    for name, arrays in columns.items():
        for array in arrays:
            pq.write_table(pa.table({**plain, name: array}), path)
            rows = read_rows(path, make_form("parquet"))
            if name == "item":
                assert [row["item"] for row in rows[:2]] == [7, 8], array.type
                assert rows[2] == "item is empty"
            else:
                assert [row["tags"] for row in rows] == [[7, 8], [-1, -1], [-1, -1]], array.type
    pairs = pa.array([[7, 8], [1, 2], [3, 4]], pa.list_(pa.int64(), 2))
    pq.write_table(pa.table({**plain, "tags": pairs}), path)
    assert [row["tags"] for row in read_rows(path, make_form("parquet"))] == pairs.to_pylist()
    for array in (lists, pa.array([{"a": 1}] * 3), pa.array([b"12"] * 3, pa.binary(2))):
        pq.write_table(pa.table({**plain, "item": array}), path)
        with pytest.raises(
            InputError, match=r"column 'item' \(item\) has type .*; integers or text"
        ):
            read_rows(path, make_form("parquet"))


VALUES = [
    *("1", "0", "1.0", "1e3", '"7"', '"7.0"', '""', "null", "NaN", "Infinity", "true", "false"),
    *("9007199254740993", "9007199254740992.0", "9223372036854775808", "2.5", "-1", "-0.0", '"x"'),
    *("[1]", "[]", "[1, null]", "[null]", "[1.0, 2]", '["3"]', '{"b": 1}', '"NaN"', '"\\u00e9"'),
    None,
]


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), min_size=2, max_size=6))
@example([("price", "NaN"), ("price", '"7"'), ("price", "1")])
@example([("label", "true"), ("label", "1"), ("label", None)])
def test_a_row_of_json_does_not_depend_on_its_neighbors(tmp_path, cells):
    plain = dict.fromkeys(NAMES, "1") | {"user": '"u"', "tags": "[1, 2]"}
    lines = []
    for name, value in [("item", "1"), *cells]:
        record = {**plain, name: value}
        parts = [f'"{key}": {text}' for key, text in record.items() if text is not None]
        lines.append("{" + ", ".join(parts) + "}\n")
    path, form = tmp_path / "log", make_form("jsonl")
    path.write_text("".join(lines))
    together = read_rows(path, form)
    for line, row in zip(lines, together, strict=True):
        path.write_text(lines[0] + line)
        alone = read_rows(path, form, 1)[1]
        np.testing.assert_equal(row, alone)


def test_ids_above_what_a_float_holds_are_never_merged(prepare, tmp_path):
    path = tmp_path / "log.parquet"
    size = 300
    ids = pa.array([2**53 + n % 40 for n in range(size)])
    plain = {"user": pa.array([f"u{n % 5}" for n in range(size)]), "time": pa.array(range(size))}
    pq.write_table(pa.table({**plain, "item": ids.cast(pa.float64(), safe=False)}), path)
    refused(
        prepare(path, "--columns", "category=", form="parquet"), f"log.parquet:1: item {INEXACT}"
    )
