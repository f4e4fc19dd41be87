"""One user's record, and the ``tf.train.Example`` bytes and TFRecord framing that hold it.

Written and read here without TensorFlow (Beam workers write it, the gRPC client's command reads
it); ``tfdare.data`` parses the same bytes inside ``tf.data``. The message classes below describe
``tensorflow/core/example/{example,feature}.proto`` on the wire, the framing is the one of
TFRecord files: length, masked CRC-32C of the length, data, masked CRC-32C of the data.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfdare.schema import PACKED, CategoricalContext, NumericContext


@dataclass(frozen=True)
class UserRecord:
    """One user's history, stored once, and the requests that were cut from it.

    Request ``r`` has the behaviors ``0 .. position[r] - 1`` (the newest ``window`` of them) and
    ranks ``target_length[r]`` candidates, which follow each other in ``target`` and ``label``.
    Features of V values (`Feature.max_values` above 1) have V row ids for each behavior and each
    candidate, padded with 0 at the end, all in one flat array.

    Attributes:
        user: str. The raw user id of the log.
        history: mapping of feature name to int32 ``[L]`` (or ``[L * V]``) row ids, oldest first.
        history_time: int64 ``[L]``. Time of each behavior, as the log gives it (Taobao: seconds).
        position: int32 ``[R]``. Number of behaviors before the request, ascending.
        target_length: int32 ``[R]``. Candidates of the request.
        target: mapping of feature name to int32 ``[T]`` (or ``[T * V]``) row ids, T the sum of
            ``target_length``.
        label: uint8 ``[T]``. 1 clicked, 0 not.
        weight: float32 ``[T]`` or None. Sample weight of each candidate; None: all weigh 1
            (`Schema.sample_weights`).
        request_time: int64 ``[R]`` or None. Time of each request, in the unit of
            ``history_time``; None where it is not known.
        context: mapping of context feature name to int32 ``[R]`` (or ``[R * V]``) row ids, or to
            float32 ``[R]`` for a number, NaN where it is not known.
    """

    user: str
    history: Mapping[str, np.ndarray]
    history_time: np.ndarray
    position: np.ndarray
    target_length: np.ndarray
    target: Mapping[str, np.ndarray]
    label: np.ndarray
    request_time: np.ndarray | None = None
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    weight: np.ndarray | None = None


# name in the Example -> dtype of its packed bytes; history_<f> and target_<f> are "<i4".
ARRAY_DTYPES = {"history_time": "<i8", "position": "<i4", "target_length": "<i4", "label": "u1"}
REQUEST_TIME, WEIGHT = "<i8", "<f4"
"""Dtypes of ``request_time`` and ``weight``, which are optional in a record."""
GZIP_SUFFIX = ".gz"
"""Ending of the names of files that are compressed by gzip."""


def context_dtypes(context: Iterable[CategoricalContext | NumericContext]) -> dict[str, str]:
    """Returns the dtype of the packed bytes of each context feature (`Schema.context`) by name."""
    return {part.name: "<f4" if isinstance(part, NumericContext) else "<i4" for part in context}


def _example_class():
    file = descriptor_pb2.FileDescriptorProto(
        name="tfdare/example.proto", package="tensorflow", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(parent, name, *fields):
        proto = parent.add(name=name)
        for number, (field_name, label, kind, type_name) in enumerate(fields, start=1):
            proto.field.add(
                name=field_name, number=number, label=label, type=kind, type_name=type_name
            )
        return proto

    repeated, optional = kinds.LABEL_REPEATED, kinds.LABEL_OPTIONAL
    messages = file.message_type
    message(messages, "BytesList", ("value", repeated, kinds.TYPE_BYTES, None))
    message(messages, "FloatList", ("value", repeated, kinds.TYPE_FLOAT, None))
    message(messages, "Int64List", ("value", repeated, kinds.TYPE_INT64, None))
    feature = message(
        messages,
        "Feature",
        ("bytes_list", optional, kinds.TYPE_MESSAGE, ".tensorflow.BytesList"),
        ("float_list", optional, kinds.TYPE_MESSAGE, ".tensorflow.FloatList"),
        ("int64_list", optional, kinds.TYPE_MESSAGE, ".tensorflow.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for kind in feature.field:
        kind.oneof_index = 0
    features = message(
        messages,
        "Features",
        ("feature", repeated, kinds.TYPE_MESSAGE, ".tensorflow.Features.FeatureEntry"),
    )
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", optional, kinds.TYPE_STRING, None),
        ("value", optional, kinds.TYPE_MESSAGE, ".tensorflow.Feature"),
    )
    entry.options.map_entry = True
    message(messages, "Example", ("features", optional, kinds.TYPE_MESSAGE, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()  # private: TensorFlow registers the same names
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def encode(record: UserRecord, encoding: str = PACKED) -> bytes:
    """Serializes a record as an ``Example``; equal records give equal bytes.

    Args:
        record: UserRecord.
        encoding: str. `Schema.encoding`: arrays as bytes, or as int64 and float lists.
    """
    example = Example()
    feature = example.features.feature

    def put(name, dtype, values):
        if encoding == PACKED:
            feature[name].bytes_list.value.append(np.ascontiguousarray(values, dtype).tobytes())
        elif dtype == "<f4":
            feature[name].float_list.value.extend(np.asarray(values).tolist())
        else:
            feature[name].int64_list.value.extend(np.asarray(values).tolist())

    feature["user"].bytes_list.value.append(record.user.encode())
    for name, values in record.history.items():
        put(f"history_{name}", "<i4", values)
    for name, values in record.target.items():
        put(f"target_{name}", "<i4", values)
    for name, dtype in ARRAY_DTYPES.items():
        put(name, dtype, getattr(record, name))
    if record.request_time is not None:
        put("request_time", REQUEST_TIME, record.request_time)
    if record.weight is not None:
        put("weight", WEIGHT, record.weight)
    for name, values in record.context.items():
        values = np.asarray(values)
        put(f"context_{name}", "<f4" if values.dtype.kind == "f" else "<i4", values)
    return example.SerializeToString(deterministic=True)


def decode(
    data: bytes, names: tuple[str, ...], context: Mapping[str, str] | None = None
) -> UserRecord:
    """Parses a serialized ``Example``, of either encoding, into a record.

    Args:
        data: bytes. A serialized ``Example``.
        names: tuple of str. Features to decode.
        context: mapping of str to str or None. Context features to decode, each with the dtype
            that :func:`context_dtypes` gives. Defaults to none of them.

    Raises:
        ValueError: the bytes are not an Example, or a feature is missing.
    """
    try:
        feature = Example.FromString(data).features.feature
    except Exception as error:
        raise ValueError(f"Not a serialized Example: {error}") from error

    def get(name, dtype):
        kind = feature[name].WhichOneof("kind") if name in feature else None
        if kind in ("int64_list", "float_list"):
            return np.array(getattr(feature[name], kind).value, dtype)
        if kind is None or len(feature[name].bytes_list.value) != 1:
            raise ValueError(f"Record without feature {name!r}. Received: {sorted(feature)}")
        return np.frombuffer(feature[name].bytes_list.value[0], dtype)

    return UserRecord(
        user=get("user", "u1").tobytes().decode(),
        history={name: get(f"history_{name}", "<i4") for name in names},
        target={name: get(f"target_{name}", "<i4") for name in names},
        **{name: get(name, dtype) for name, dtype in ARRAY_DTYPES.items()},
        request_time=get("request_time", REQUEST_TIME) if "request_time" in feature else None,
        context={name: get(f"context_{name}", kind) for name, kind in (context or {}).items()},
        weight=get("weight", WEIGHT) if "weight" in feature else None,
    )


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_framed(file: BinaryIO, data: bytes) -> None:
    """Appends one record to an open TFRecord file."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked_crc(length)))
    file.write(data + struct.pack("<I", _masked_crc(data)))


def read_framed(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    """Reads the records of an open TFRecord file.

    Raises:
        ValueError: the file is cut short, or a checksum does not match.
    """
    while header := file.read(12):
        length, crc = header[:8], header[8:]
        if len(header) < 12 or struct.unpack("<I", crc)[0] != _masked_crc(length):
            raise ValueError(f"Damaged TFRecord: bad length at byte {file.tell() - len(header)}")
        (size,) = struct.unpack("<Q", length)
        data, tail = file.read(size), file.read(4)
        if len(tail) < 4 or struct.unpack("<I", tail)[0] != _masked_crc(data):
            raise ValueError(f"Damaged TFRecord: bad record of {size} bytes before {file.tell()}")
        yield data


def read_records(path: str) -> Iterator[bytes]:
    """Reads the records of a TFRecord file, decompressed if its name ends in ``.gz``.

    Raises:
        ValueError: the file is damaged.
    """
    with gzip.open(path, "rb") if path.endswith(GZIP_SUFFIX) else open(path, "rb") as file:
        try:
            yield from read_framed(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"Damaged gzip data in {path!r}: {error}") from error
