"""One user's record, and the ``tf.train.Example`` bytes and TFRecord framing that hold it.

Written and read here without TensorFlow (Beam workers write it, the gRPC client's command reads
it); ``tfdare.data`` parses the same bytes inside ``tf.data``. The message classes below describe
``tensorflow/core/example/{example,feature}.proto`` on the wire, the framing is the one of
TFRecord files: length, masked CRC-32C of the length, data, masked CRC-32C of the data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Iterator, Mapping

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@dataclass(frozen=True)
class UserRecord:
    """One user's history, once, and the requests that were cut from it.

    Request ``r`` sees the behaviors ``0 .. position[r] - 1`` (the newest ``window`` of them) and
    ranks ``target_length[r]`` candidates, which follow each other in ``target`` and ``label``.

    Attributes:
        user: str. The raw user id of the log.
        history: mapping of feature name to int32 ``[L]`` row ids, oldest first.
        history_time: int64 ``[L]``. Time of each behavior, as the log gives it (Taobao: seconds).
        position: int32 ``[R]``. Behaviors before the request.
        target_length: int32 ``[R]``. Candidates of the request.
        target: mapping of feature name to int32 ``[sum(target_length)]`` row ids.
        label: uint8 ``[sum(target_length)]``. 1 clicked, 0 not.
    """

    user: str
    history: Mapping[str, np.ndarray]
    history_time: np.ndarray
    position: np.ndarray
    target_length: np.ndarray
    target: Mapping[str, np.ndarray]
    label: np.ndarray


# name in the Example -> dtype of its packed bytes; history_<f> and target_<f> are "<i4".
PACKED = {"history_time": "<i8", "position": "<i4", "target_length": "<i4", "label": "u1"}


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
    message(
        messages, "Example", ("features", optional, kinds.TYPE_MESSAGE, ".tensorflow.Features")
    )
    pool = descriptor_pool.DescriptorPool()  # private: TensorFlow registers the same names
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def encode(record: UserRecord) -> bytes:
    """The record as a serialized ``Example``; equal records give equal bytes."""
    example = Example()
    feature = example.features.feature

    def put(name, dtype, values):
        feature[name].bytes_list.value.append(np.ascontiguousarray(values, dtype).tobytes())

    feature["user"].bytes_list.value.append(record.user.encode())
    for name, values in record.history.items():
        put(f"history_{name}", "<i4", values)
    for name, values in record.target.items():
        put(f"target_{name}", "<i4", values)
    for name, dtype in PACKED.items():
        put(name, dtype, getattr(record, name))
    return example.SerializeToString(deterministic=True)


def decode(data: bytes, names: tuple[str, ...]) -> UserRecord:
    """Inverse of :func:`encode` for the features ``names``.

    Raises:
        ValueError: the bytes are no Example, or a feature is missing.
    """
    try:
        feature = Example.FromString(data).features.feature
    except Exception as error:
        raise ValueError(f"Not a serialized Example: {error}") from error

    def get(name, dtype):
        if name not in feature or len(feature[name].bytes_list.value) != 1:
            raise ValueError(f"Record without feature {name!r}. Received: {sorted(feature)}")
        return np.frombuffer(feature[name].bytes_list.value[0], dtype)

    return UserRecord(
        user=get("user", "u1").tobytes().decode(),
        history={name: get(f"history_{name}", "<i4") for name in names},
        target={name: get(f"target_{name}", "<i4") for name in names},
        **{name: get(name, dtype) for name, dtype in PACKED.items()},
    )


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_framed(file: BinaryIO, data: bytes) -> None:
    """Appends one record to an open TFRecord file."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked_crc(length)))
    file.write(data + struct.pack("<I", _masked_crc(data)))


def read_framed(file: BinaryIO) -> Iterator[bytes]:
    """Records of an open TFRecord file.

    Raises:
        ValueError: the file is cut short, or a checksum does not fit.
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
