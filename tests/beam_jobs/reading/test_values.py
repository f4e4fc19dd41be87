"""Values as numbers, and the exact sums behind mean and deviation."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.reading.formats import DAY, HOUR, make_format, with_context
from beam_jobs.reading.values import floats, id_lists
from beam_jobs.shared.vocabulary_file import Vocabulary
from beam_jobs.vocabulary.catalog import Catalog
from beam_jobs.vocabulary.context import (
    ContextCounts,
    Moments,
    count_context,
    merge_context,
    raw_values,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS | st.just(math.nan), max_size=30), st.integers(0, 30))
def test_moments_are_exact_in_any_order(values, cut):
    known = [Fraction(value) for value in values if value == value]
    column = np.array(values, np.float64)
    moments = Moments.of(column[:cut]) + Moments.of(column[cut:])
    assert moments == Moments.of(column[::-1])
    assert moments == Moments(len(known), sum(known, Fraction(0)), sum(x * x for x in known))


def test_mean_and_deviation():
    moments = Moments.of(np.array([2, 4, 4, 4, 5, 5, 7, 9, math.nan]))
    assert (moments.count, moments.mean, moments.deviation) == (8, 5.0, 2.0)
    same = Moments.of(np.array([0.1, 0.1]))
    assert (same.mean, same.deviation) == (float(np.float32(0.1)), 1.0)
    assert (Moments().mean, Moments().deviation) == (0.0, 1.0)
    # where a sum of squares in floating point leaves nothing
    far = Moments.of(np.array([16777214, 16777215, 16777216] * 100_000))
    assert far.deviation == pytest.approx(math.sqrt(2 / 3), rel=1e-12)


@pytest.mark.parametrize(
    "text, values, more",
    [
        ("", [], 0),
        ("5", [5], 0),
        ("7|5", [7, 5], 0),
        ("3|2|1|0", [3, 2], 2),
        ("007|9223372036854775807", [7, 2**63 - 1], 0),
    ],
)
def test_several_values(text, values, more):
    # between two neighbors, so that a slip by a row shows
    numbers, reasons, left = id_lists(pa.array(["1", text, "2|2|2"]), "tags", 2)
    assert numbers.tolist() == [[1, -1], values + [-1] * (2 - len(values)), [2, 2]]
    assert left.tolist() == [0, more, 1] and reasons == {}
    ids = [int(part) for part in text.split("|") if part]
    lists = pa.array([[1], ids or None, [2, 2, 2]], pa.list_(pa.int64()))
    for column in (lists, pa.concat_arrays([pa.array([[9, 9]]), lists]).slice(1)):
        again, reasons, left = id_lists(column, "tags", 2)
        assert again.tolist() == numbers.tolist() and left.tolist() == [0, more, 1] and not reasons


@pytest.mark.parametrize(
    "text, reason",
    [
        ("|", "has an empty value among others"),
        ("1|", "has an empty value among others"),
        ("1|2|x", "is not an integer"),  # also beyond those kept
        ("1|-2", "is negative"),
        ("1,2", "is not an integer"),
        ("9223372036854775808", "is larger than 9223372036854775807"),
    ],
)
def test_invalid_lists_of_values_are_rejected(text, reason):
    numbers, reasons, _ = id_lists(pa.array([b"4|5", text.encode(), b"6"]), "tags", 2)
    assert reasons == {1: f"tags {reason}"}
    assert numbers[[0, 2]].tolist() == [[4, 5], [6, -1]]


def test_an_empty_value_in_a_list():
    column = pa.array([[1, None], [None], [2]])
    _, reasons, _ = id_lists(column, "tags", 2)
    assert reasons == {0: "tags has an empty value among others"}


NUMBERS = {"0": 0, "-1.5": -1.5, "2.": 2, ".25": 0.25, "1e3": 1000, "1E-2": 0.01, "": math.nan}


def test_floats():
    numbers, reasons = floats(pa.array(list(NUMBERS)), "price")
    assert np.array_equal(numbers, list(NUMBERS.values()), equal_nan=True) and reasons == {}
    for values in ([3, None, -2], [0.5, math.nan, None]):
        numbers, reasons = floats(pa.array(values), "price")
        expected = [math.nan if value is None else value for value in values]
        assert np.array_equal(numbers, expected, equal_nan=True) and reasons == {}
    numbers, _ = floats(pa.array(["-0"]), "price")
    assert math.copysign(1, numbers[0]) == 1  # or two equal rows would differ


@pytest.mark.parametrize(
    "value, reason",
    [
        ("abc", "is not a number"),
        ("1,5", "is not a number"),
        (" 1", "is not a number"),
        ("+1", "is not a number"),
        ("1e", "is not a number"),
        (".", "is not a number"),
        ("inf", "is larger than 3.4e+38"),
        ("-Infinity", "is larger than 3.4e+38"),
        ("0x10", "is not a number"),
        ("1_000", "is not a number"),
        ("3.5e38", "is larger than 3.4e+38"),
        ("-1e400", "is larger than 3.4e+38"),
        (math.inf, "is larger than 3.4e+38"),
        ("1\n", "is not a number"),
    ],
)
def test_invalid_floats_are_rejected(value, reason):
    fine = "1" if isinstance(value, str) else 1.0
    _, reasons = floats(pa.array([fine, value]), "price")
    assert reasons == {1: f"price {reason}"}


@pytest.mark.parametrize(
    "time, hour, day",
    [
        (0, 0, 3),  # 1 January 1970 was a Thursday
        (3599, 0, 3),
        (3600, 1, 3),
        (86399, 23, 3),
        (86400, 0, 4),
        (1_000_000_000, 1, 6),  # Sunday, 9 September 2001, 01:46:40
        (1_704_067_200, 0, 0),  # Monday, 1 January 2024, 00:00:00
    ],
)
def test_hour_and_day(time, hour, day):
    columns = {"time": np.array([time])}
    assert raw_values(HOUR, "x", columns).tolist() == [hour]
    assert raw_values(DAY, "x", columns).tolist() == [day]


def test_counts_of_context_add_up_in_any_order():
    form = with_context(
        make_format("csv", None, None), (), ("hour=hour_of_day", "city=town"), ("price=cost",)
    )

    def columns(time, city, price):
        return {
            "time": np.array(time, np.int64),
            "city": np.array(city, np.int64),
            "price": np.array(price, np.float64),
        }

    first = count_context(form, columns([0, 3600, 3601], [7, -1, 8], [1, math.nan, 3]))
    second = count_context(form, columns([7200, 3600], [8, 9], [5, math.nan]))
    empty = count_context(form, columns([], [], []))
    for parts in ([first, second, empty], [empty, second, first]):
        counts = merge_context(parts)
        assert isinstance(counts, ContextCounts)
        vocabularies = counts.vocabularies(1)
        assert vocabularies["hour"].text() == b"1\t3\n0\t1\n2\t1\n"
        assert vocabularies["city"].text() == b"8\t2\n7\t1\n9\t1\n"
        assert counts.vocabularies(2)["city"].text() == b"8\t2\n"
        assert counts.moments["price"] == Moments(3, Fraction(9), Fraction(35))


def test_vocabulary_as_text_and_back():
    for text in (b"", b"8\t2\n7\t1\n"):
        again = Vocabulary.load(text)
        assert again.text() == text and len(again) == text.count(b"\n")
        assert again.rows(np.array([7, 8, 9])).tolist() == ([3, 2, 1] if text else [1, 1, 1])


def test_catalog_keeps_several_values(tmp_path):
    tags = np.array([[5, 6, -1], [-1, -1, -1], [6, 9, 4]])
    catalog = Catalog(("item", "tags"), np.array([10, 20, 30]), np.array([4, 2, 1]), {"tags": tags})
    with open(tmp_path / "catalog", "wb") as file:
        catalog.save(file)
    with open(tmp_path / "catalog", "rb") as file:
        again = Catalog.load(file)
    assert again.others["tags"].tolist() == tags.tolist()
    assert again.vocabularies["tags"].text() == b"6\t5\n5\t4\n4\t1\n9\t1\n"
    unknown = {"item": np.array([30, 40, 20]), "tags": np.array([[1, 1, 1], [5, 7, -1], [5, 5, 5]])}
    index, rows = again.rows(unknown)
    assert index.tolist() == [2, -1, 1]
    # a known item has its own, an unknown one the event's: 7 is out of vocabulary
    assert rows["tags"].tolist() == [[2, 5, 4], [3, 1, 0], [0, 0, 0]]
