"""Reads the stock server's configuration files, also those that no package has messages for.

Batching parameters, monitoring and TLS are text protos. The messages are built here from their
published fields: ``session_bundle_config.proto``, ``monitoring_config.proto`` and
``ssl_config.proto`` of https://github.com/tensorflow/serving. Unknown fields are errors, as there.
"""

from __future__ import annotations

import functools
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
    wrappers_pb2,
)

from serving.server.errors import StartError

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tensorflow.serving"
_INT64, _STRING, _BOOL = ".google.protobuf.Int64Value", ".google.protobuf.StringValue", "bool"
_BOXED_BOOL = ".google.protobuf.BoolValue"
_FIELDS = {
    "BatchingParameters": (
        ("max_batch_size", 1, _INT64),
        ("batch_timeout_micros", 2, _INT64),
        ("max_enqueued_batches", 3, _INT64),
        ("num_batch_threads", 4, _INT64),
        ("thread_pool_name", 5, _STRING),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, _BOOL),
        ("enable_large_batch_splitting", 8, _BOXED_BOOL),
        ("max_execution_batch_size", 9, _INT64),
    ),
    "PrometheusConfig": (("enable", 1, _BOOL), ("path", 2, "string")),
    "MonitoringConfig": (("prometheus_config", 1, f".{_PACKAGE}.PrometheusConfig"),),
    "SSLConfig": (
        ("server_key", 1, "string"),
        ("server_cert", 2, "string"),
        ("custom_ca", 3, "string"),
        ("client_verify", 4, _BOOL),
    ),
}
_SCALARS = {"int64": _Field.TYPE_INT64, "bool": _Field.TYPE_BOOL, "string": _Field.TYPE_STRING}
_Message = TypeVar("_Message", bound=message.Message)


def batching_parameters() -> message.Message:
    """Makes an empty ``BatchingParameters``."""
    return _classes()["BatchingParameters"]()


def monitoring_config() -> message.Message:
    """Makes an empty ``MonitoringConfig``."""
    return _classes()["MonitoringConfig"]()


def ssl_config() -> message.Message:
    """Makes an empty ``SSLConfig``."""
    return _classes()["SSLConfig"]()


def read_text_proto(path: str, into: _Message) -> _Message:
    """Fills the message ``into`` from a text proto file, and returns it.

    Raises:
        StartError: the file cannot be read, or is not such a message.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), into)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"Cannot read {path!r}: {error}") from error
    except text_format.ParseError as error:
        name = type(into).DESCRIPTOR.name
        raise StartError(f"Invalid protobuf file: {path!r} is no {name}: {error}") from error


@functools.cache
def _classes() -> dict[str, type]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/server/text_protos.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _FIELDS.items():
        message_type = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message_type.field.add(name=field_name, number=number)
            repeated = kind.startswith("repeated ")
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, kind
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }
