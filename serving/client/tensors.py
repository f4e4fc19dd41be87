"""TensorProto to numpy and back, without TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from serving.client.protos import tensor_pb2, types_pb2

MAX_FILLED = 1 << 24
"""Most elements that a proto may leave to be filled in (by repeating its last value)."""

# data type -> (numpy dtype, typed field)
_KINDS: dict[int, tuple[np.dtype[Any], str]] = {
    types_pb2.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    types_pb2.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    types_pb2.DT_HALF: (np.dtype("<f2"), "half_val"),
    types_pb2.DT_INT8: (np.dtype("i1"), "int_val"),
    types_pb2.DT_INT16: (np.dtype("<i2"), "int_val"),
    types_pb2.DT_INT32: (np.dtype("<i4"), "int_val"),
    types_pb2.DT_INT64: (np.dtype("<i8"), "int64_val"),
    types_pb2.DT_UINT8: (np.dtype("u1"), "int_val"),
    types_pb2.DT_UINT16: (np.dtype("<u2"), "int_val"),
    types_pb2.DT_UINT32: (np.dtype("<u4"), "uint32_val"),
    types_pb2.DT_UINT64: (np.dtype("<u8"), "uint64_val"),
    types_pb2.DT_BOOL: (np.dtype("?"), "bool_val"),
    types_pb2.DT_STRING: (np.dtype(object), "string_val"),
}
_TYPES = {dtype: enum for enum, (dtype, _) in _KINDS.items()}


def type_name(enum: int) -> str:
    """Returns the name of a data type as TensorFlow's messages write it: ``int64``, ``float``."""
    if enum not in types_pb2.DataType.values():
        return f"unknown data type {enum}"
    return types_pb2.DataType.Name(enum).removeprefix("DT_").lower()


def to_proto(
    array: np.ndarray, typed: bool = False, into: tensor_pb2.TensorProto | None = None
) -> tensor_pb2.TensorProto:
    """Converts an array to a TensorProto.

    Args:
        array: np.ndarray. Numbers, booleans, or bytes objects.
        typed: bool. Values in the typed field (``float_val`` ...), as TensorFlow Serving answers,
            instead of packed bytes, as clients send. Defaults to False.
        into: TensorProto or None. An empty one that is filled. Defaults to a new one.

    Raises:
        ValueError: the array's dtype has no counterpart.
    """
    array = np.asarray(array)
    if array.dtype.kind == "S":
        array = array.astype(object)
    dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
    if dtype not in _TYPES:
        raise ValueError(f"No tensor holds arrays of this dtype. Received: {array.dtype}")
    enum = _TYPES[dtype]
    proto = tensor_pb2.TensorProto() if into is None else into
    proto.dtype = enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if enum == types_pb2.DT_STRING:
        proto.string_val.extend(np.ravel(array).tolist())
        return proto
    array = np.ascontiguousarray(array, dtype)
    if not typed:
        proto.tensor_content = array.tobytes()
    elif array.size:
        field = tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[_KINDS[enum][1]]
        packed = _packed(array.ravel())
        head = _varints(np.array([field.number << 3 | _PACKED])) + _varints(np.array([len(packed)]))
        proto.MergeFromString(head + packed)
    return proto


_PACKED = 2
"""Wire type of a length-delimited field."""


def _packed(values: np.ndarray) -> bytes:
    """Encodes numbers as a packed field, in a fraction of the time that appending them takes."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 2:
        return values.tobytes()
    return _varints(values.view("<u2") if values.dtype.kind == "f" else values)


def _varints(values: np.ndarray) -> bytes:
    """Encodes integers as varints, all with as many 7-bit groups as the largest needs."""
    values = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
    width = max(1, -(-int(values.max()).bit_length() // 7))
    groups = values[:, np.newaxis] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    groups = (groups & np.uint64(127)).astype(np.uint8)
    groups[:, :-1] |= 128  # more groups follow
    return groups.tobytes()


def from_proto(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Converts a TensorProto to an array (read-only where it views the proto's bytes).

    Fewer typed values than elements repeat the last one (none: zeros), as in TensorFlow.

    Raises:
        ValueError: data type, shape and values do not fit together.
    """
    if proto.dtype not in _KINDS:
        raise ValueError(f"unsupported data type {type_name(proto.dtype)}")
    dtype, field = _KINDS[proto.dtype]
    if proto.tensor_shape.unknown_rank:
        raise ValueError("shape of unknown rank")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise ValueError(f"bad shape {list(shape)}")
    count = math.prod(shape)
    if proto.tensor_content:
        if dtype.kind == "O" or len(proto.tensor_content) != count * dtype.itemsize:
            raise ValueError(f"{len(proto.tensor_content)} bytes for shape {list(shape)}")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, field)
    if len(values) > count:
        raise ValueError(f"{len(values)} values for shape {list(shape)}")
    if count - len(values) > MAX_FILLED:
        raise ValueError(f"{len(values)} values for the large shape {list(shape)}")
    try:
        if proto.dtype == types_pb2.DT_HALF:
            flat = np.array(values, "<u2").view(dtype)
        else:
            flat = np.array(values, dtype)
    except OverflowError as error:
        raise ValueError(f"a value does not fit {type_name(proto.dtype)}") from error
    if len(flat) < count:
        fill = flat[-1] if len(flat) else (b"" if dtype.kind == "O" else dtype.type(0))
        flat = np.concatenate([flat, np.full(count - len(flat), fill, dtype)])
    return flat.reshape(shape)
