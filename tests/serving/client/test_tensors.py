"""Conversion of NumPy arrays to TensorProto and back, without TensorFlow."""

import numpy as np
import pytest

from serving.client.protos import tensor_pb2, types_pb2
from serving.client.tensors import from_proto, to_proto, type_name

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 2)])
def test_round_trip(dtype, typed, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    back = from_proto(to_proto(array, typed))
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype[0] in "iu"])
def test_integers_of_every_length_are_written_as_protobuf_writes_them(dtype):
    info = np.iinfo(dtype)
    powers = [1 << bit for bit in range(0, info.bits - 1, 3)]
    negative = [-number for number in powers]
    for values in ([info.min, info.max], [0, 1, 5], [127], [128, 3], powers, negative):
        array = np.array([v for v in values if info.min <= v <= info.max], dtype)
        message = to_proto(array, typed=True)
        appended = tensor_pb2.TensorProto(dtype=message.dtype)
        appended.tensor_shape.dim.add(size=len(array))
        if len(array):
            [(field, _)] = [f for f in message.ListFields() if f[0].name.endswith("_val")]
            getattr(appended, field.name).extend(array.tolist())
        assert message == appended
        assert message.SerializeToString() == appended.SerializeToString()
        for encoding in (message, to_proto(array)):
            np.testing.assert_array_equal(from_proto(encoding), array)


def test_orders_and_bytes():
    swapped = np.arange(6, dtype=">i8").reshape(2, 3).T
    np.testing.assert_array_equal(from_proto(to_proto(swapped)), swapped)
    np.testing.assert_array_equal(from_proto(to_proto(swapped, True)), swapped)
    strings = np.array([[b"a", b"\xff"]], object)
    assert from_proto(to_proto(strings)).tolist() == strings.tolist()
    assert from_proto(to_proto(np.array([b"ab"]))).tolist() == [b"ab"]
    nan = np.array([np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(from_proto(to_proto(nan, True)), nan)


def proto(dtype, shape, **values):
    message = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


def test_fewer_values_repeat_the_last():
    message = proto(types_pb2.DT_INT64, [2, 2], int64_val=[5, 6])
    assert from_proto(message).tolist() == [[5, 6], [6, 6]]
    assert from_proto(proto(types_pb2.DT_FLOAT, [2])).tolist() == [0.0, 0.0]
    assert from_proto(proto(types_pb2.DT_STRING, [1])).tolist() == [b""]


@pytest.mark.parametrize(
    "bad",
    [
        proto(types_pb2.DT_INT64, [2], tensor_content=b"123"),
        proto(types_pb2.DT_INT64, [1], int64_val=[1, 2]),
        proto(types_pb2.DT_INT64, [-1], int64_val=[1]),
        proto(types_pb2.DT_INT64, [1 << 40, 1 << 40], int64_val=[1]),
        proto(types_pb2.DT_UINT8, [1], int_val=[300]),
        proto(types_pb2.DT_INVALID, [1]),
        proto(types_pb2.DT_RESOURCE, [1]),
        proto(types_pb2.DT_STRING, [1], tensor_content=b"a"),
        proto(types_pb2.DT_INT64, [1] * 40, int64_val=[1]),
    ],
)
def test_inconsistent_protos_are_refused(bad):
    with pytest.raises(ValueError):
        from_proto(bad)
    unknown = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64)
    unknown.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError):
        from_proto(unknown)


def test_unknown_types_are_named_or_refused():
    assert type_name(types_pb2.DT_FLOAT) == "float" and type_name(types_pb2.DT_INT64) == "int64"
    assert "4321" in type_name(4321)
    for array in (np.array([1j]), np.array(["text"]), np.array([1], "M8[s]")):
        with pytest.raises(ValueError, match="No tensor holds"):
            to_proto(array)
