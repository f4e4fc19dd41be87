"""One user's record: encoded and framed as TensorFlow writes and reads it."""

import dataclasses
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdare.compat import tf
from tfdare.schema import CategoricalContext, NumericContext
from tfdare.sequences.record import (
    ARRAY_DTYPES,
    UserRecord,
    context_dtypes,
    decode,
    encode,
    read_framed,
    write_framed,
)

NAMES = ("item", "category")
CONTEXT = context_dtypes((CategoricalContext("hour", 5), NumericContext("price")))
IDS = st.integers(-(2**31), 2**31 - 1)


@st.composite
def records(draw):
    length = draw(st.integers(0, 8))
    sizes = draw(st.lists(st.integers(0, 4), max_size=4))
    total = sum(sizes)

    def ids(count, values=IDS, dtype=np.int32):
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype)

    return UserRecord(
        user=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        history={name: ids(length) for name in NAMES},
        history_time=ids(length, st.integers(-(2**63), 2**63 - 1), np.int64),
        position=ids(len(sizes)),
        target_length=np.array(sizes, np.int32),
        target={name: ids(total) for name in NAMES},
        label=ids(total, st.integers(0, 255), np.uint8),
        request_time=ids(len(sizes), st.integers(-(2**63), 2**63 - 1), np.int64),
        context={
            "hour": ids(len(sizes)),
            "price": ids(len(sizes), st.floats(width=32), np.float32),
        },
        weight=draw(st.sampled_from((None, ids(total, st.floats(0, 100, width=32), np.float32)))),
    )


def arrays_of(record):
    arrays = {f"history_{name}": values for name, values in record.history.items()}
    arrays.update({f"target_{name}": values for name, values in record.target.items()})
    arrays.update({f"context_{name}": values for name, values in record.context.items()})
    arrays.update({name: getattr(record, name) for name in ARRAY_DTYPES})
    for name in ("request_time", "weight"):
        if getattr(record, name) is not None:
            arrays[name] = getattr(record, name)
    return arrays


def assert_equal(actual, expected):
    assert actual.user == expected.user
    arrays, wanted = arrays_of(actual), arrays_of(expected)
    assert sorted(arrays) == sorted(wanted)
    for name, values in arrays.items():
        assert values.dtype == wanted[name].dtype, name
        assert values.tobytes() == wanted[name].tobytes(), name  # NaN as it was


def small():
    return UserRecord(
        user="user-1",
        history={"item": np.array([2, 3, 4], np.int32), "category": np.array([2, 2, 3], np.int32)},
        history_time=np.array([10, 20, 30]),
        position=np.array([2, 3], np.int32),
        target_length=np.array([2, 1], np.int32),
        target={"item": np.array([5, 6, 7], np.int32), "category": np.array([4, 4, 4], np.int32)},
        label=np.array([1, 0, 1], np.uint8),
        request_time=np.array([25, 35]),
        context={"hour": np.array([3, 4], np.int32), "price": np.array([0.5, np.nan], np.float32)},
    )


def test_dtypes_of_context():
    assert CONTEXT == {"hour": "<i4", "price": "<f4"}


@given(records())
def test_round_trip(record):
    assert_equal(decode(encode(record), NAMES, CONTEXT), record)


def test_several_values_are_flat():
    tags = np.array([2, 3, 0, 4, 0, 0], np.int32)  # two each
    record = dataclasses.replace(small(), history={"tags": tags}, target={"tags": tags})
    again = decode(encode(record), ("tags",))
    assert again.history["tags"].tolist() == again.target["tags"].tolist() == tags.tolist()


def test_the_time_of_requests_may_be_unknown():
    again = decode(encode(dataclasses.replace(small(), request_time=None)), NAMES)
    assert again.request_time is None and again.context == {}


@given(records())
def test_equal_records_give_equal_bytes(record):
    turned = UserRecord(
        user=record.user,
        history=dict(reversed(record.history.items())),
        history_time=record.history_time.astype(np.int64).copy(),
        position=record.position.tolist(),
        target_length=record.target_length.astype(np.int64),
        target=dict(reversed(record.target.items())),
        label=record.label,
        request_time=record.request_time.tolist(),
        context=dict(reversed(record.context.items())),
        weight=None if record.weight is None else record.weight.astype(np.float64),
    )
    assert encode(turned) == encode(record)


@given(records())
@settings(max_examples=30)
def test_is_the_example_of_tensorflow(record):
    feature = tf.train.Example.FromString(encode(record)).features.feature
    arrays = arrays_of(record)
    assert sorted(feature) == sorted([*arrays, "user"])
    assert feature["user"].bytes_list.value[0].decode() == record.user
    for name, values in arrays.items():
        (data,) = feature[name].bytes_list.value
        assert data == values.astype(values.dtype.newbyteorder("<")).tobytes()


def test_reads_the_example_of_tensorflow():
    example = tf.train.Example()
    for name, values in arrays_of(small()).items():
        example.features.feature[name].bytes_list.value.append(values.tobytes())
    example.features.feature["user"].bytes_list.value.append(b"user-1")
    assert_equal(decode(example.SerializeToString(), NAMES, CONTEXT), small())


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", encode(small())[:-3]])
def test_bytes_that_are_no_record(data):
    with pytest.raises(ValueError, match="Example|feature"):
        decode(data, NAMES)


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="history_shop.*history_item"):
        decode(encode(small()), ("item", "shop"))
    with pytest.raises(ValueError, match="context_city.*context_hour"):
        decode(encode(small()), NAMES, {"city": "<i4"})


def test_bytes_that_are_no_whole_number_of_ids():
    example = tf.train.Example.FromString(encode(small()))
    example.features.feature["position"].bytes_list.value[0] += b"\0"
    with pytest.raises(ValueError, match="multiple"):
        decode(example.SerializeToString(), NAMES)


def framed(*data):
    file = io.BytesIO()
    for record in data:
        write_framed(file, record)
    return file.getvalue()


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_framing_round_trip(data):
    assert list(read_framed(io.BytesIO(framed(*data)))) == data


def test_framing_is_that_of_tensorflow(tmp_path):
    data = [b"", b"a", encode(small()), bytes(range(256)) * 300]
    path = str(tmp_path / "ours.tfrecord")
    with open(path, "wb") as file:
        file.write(framed(*data))
    assert [record.numpy() for record in tf.data.TFRecordDataset(path)] == data
    theirs = tmp_path / "theirs.tfrecord"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in data:
            writer.write(record)
    assert theirs.read_bytes() == framed(*data)


FRAMED = framed(b"first", b"second")


@pytest.mark.parametrize("cut", range(1, len(FRAMED)))
def test_a_file_cut_short_raises(cut):
    whole = len(framed(b"first"))
    records = read_framed(io.BytesIO(FRAMED[:cut]))
    if cut >= whole:
        assert next(records) == b"first"
    if cut == whole:
        assert list(records) == []  # between two records nothing shows that more should follow
        return
    with pytest.raises(ValueError, match="Damaged TFRecord"):
        next(records)


@pytest.mark.parametrize("index", range(len(FRAMED)))
def test_a_flipped_bit_raises(index):
    damaged = bytearray(FRAMED)
    damaged[index] ^= 0x10
    with pytest.raises(ValueError, match="Damaged TFRecord"):
        list(read_framed(io.BytesIO(bytes(damaged))))


def test_a_length_beyond_the_file_is_not_believed():
    with pytest.raises(ValueError, match="bad length"):
        list(read_framed(io.BytesIO(struct.pack("<QI", 2**60, 0) + b"x" * 50)))
