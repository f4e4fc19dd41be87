"""Predict requests and answers as JSON, by the rules of the stock server's REST API.

Messages and rules are those of ``util/json_tensor.cc`` of https://github.com/tensorflow/serving;
the format is described at https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.protos import meta_graph_pb2, predict_pb2, types_pb2
from serving.client.tensors import from_proto, to_proto, type_name
from serving.server.errors import RequestError, code_of, invalid

_UNIMPLEMENTED = 12
_MAX_TEXT = 200
_INTEGERS: dict[int, type[np.integer]] = {
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_UINT64: np.uint64,
}
_FLOATS: dict[int, type[np.floating]] = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_DOUBLE: np.float64,
}
Inputs = Mapping[str, meta_graph_pb2.TensorInfo]


def parse(body: bytes) -> dict[str, Any]:
    """Parses the JSON object that a body holds.

    Raises:
        RequestError: (INVALID_ARGUMENT) it is no JSON object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_text(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {_text(document)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return document


def fill(request: predict_pb2.PredictRequest, document: Mapping[str, Any], inputs: Inputs) -> bool:
    """Puts the tensors of ``document`` into ``request``.

    Returns:
        True if the document was by rows (``instances``), False if by columns (``inputs``).

    Raises:
        RequestError: (INVALID_ARGUMENT) the document does not fit the signature's inputs.
    """
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid(
            f"JSON Value: {_text(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if not rows and not columns:
        raise invalid("Missing 'inputs' or 'instances' key")
    values = _instances(document, inputs) if rows else _columns(document["inputs"], inputs)
    for name, value in values.items():
        request.inputs[name].CopyFrom(to_proto(_tensor(value, inputs[name].dtype, name)))
    return rows


def answer(response: predict_pb2.PredictResponse, rows: bool) -> bytes:
    """Formats outputs as JSON: ``predictions`` by rows, ``outputs`` by columns.

    A single output is not wrapped in its name.

    Raises:
        RequestError: (INVALID_ARGUMENT) there are no outputs; or, by rows, the outputs do not have
            the same number of rows, at least one.
    """
    outputs = {name: from_proto(response.outputs[name]) for name in sorted(response.outputs)}
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if rows:
        _require_rows(outputs)
    listed = {name: _as_list(name, value) for name, value in outputs.items()}
    if not rows:
        return _dumped({"outputs": listed if len(listed) > 1 else next(iter(listed.values()))})
    if len(listed) == 1:
        return _dumped({"predictions": next(iter(listed.values()))})
    names = list(listed)
    return _dumped(
        {"predictions": [dict(zip(names, row)) for row in zip(*(listed[name] for name in names))]}
    )


def _instances(document, inputs: Inputs) -> dict[str, list]:
    listed = document["instances"]
    if not isinstance(listed, list):
        raise invalid(f"JSON Value: {_text(document)} Excepting 'instances' to be an list/array")
    if not listed:
        raise invalid(f"JSON Value: {_text(document)} No values in 'instances' array")
    if not isinstance(listed[0], dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    objects = _is_object(listed[0])
    for number, instance in enumerate(listed):
        if objects and not _is_object(instance):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        if not objects and _is_object(instance):
            raise invalid(f"Expecting value/list but got object at item {number} of input list")
        if objects and set(instance) != set(inputs):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{_text(instance)} must only have keys: {','.join(sorted(inputs))}"
            )
    if not objects:
        return {next(iter(inputs)): listed}
    return {name: [instance[name] for instance in listed] for name in inputs}


def _columns(columns, inputs: Inputs) -> dict[str, Any]:
    if not _is_object(columns):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        return {next(iter(inputs)): columns}
    for name in sorted(inputs):
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: columns[name] for name in inputs}


def _tensor(value, dtype: int, name: str) -> np.ndarray:
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    flat = [value]
    for level, size in enumerate(shape):
        for part in flat:
            if not isinstance(part, list):
                raise invalid(
                    f"JSON Value: {_text(part)} found at incorrect level: {level + 1} in the "
                    f"JSON DOM. Expected at level: {len(shape)} (input {name})"
                )
            if len(part) != size:
                raise invalid(
                    f"Encountered list at unexpected size: {len(part)} at level: {level} "
                    f"expected size: {size} (input {name})"
                )
        flat = [element for part in flat for element in part]
    if any(isinstance(element, list) for element in flat):
        raise invalid(
            f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)} "
            f"(input {name})"
        )
    return _flat_array(flat, dtype).reshape(shape)


def _flat_array(flat: list, dtype: int) -> np.ndarray:
    if dtype in _INTEGERS:
        _require_kinds(flat, {int}, dtype)
        try:
            return np.array(flat, _INTEGERS[dtype])
        except OverflowError as error:
            bounds = np.iinfo(_INTEGERS[dtype])
            wrong = next(element for element in flat if not bounds.min <= element <= bounds.max)
            raise _type_error(wrong, dtype) from error
    if dtype in _FLOATS:
        _require_kinds(flat, {int, float}, dtype)
        numbers = np.finfo(_FLOATS[dtype])
        limits = {int: 2 ** (numbers.nmant + 1) - 1, float: float(numbers.max)}
        for element in flat:
            if abs(element) > limits[type(element)] and element not in (math.inf, -math.inf):
                raise invalid(
                    f"Cannot convert JSON value: {_text(element)} to {type_name(dtype)} without "
                    "loss of precision."
                )
        return np.array(flat, _FLOATS[dtype])
    if dtype == types_pb2.DT_BOOL:
        _require_kinds(flat, {bool}, dtype)
        return np.array(flat, bool)
    if dtype == types_pb2.DT_STRING:
        strings = np.empty(len(flat), object)
        strings[:] = [_bytes(element, dtype) for element in flat]
        return strings
    raise RequestError(
        code_of(_UNIMPLEMENTED), f"Conversion of JSON Value to type: {type_name(dtype)}"
    )


def _require_kinds(flat: list, kinds: set[type], dtype: int) -> None:
    if not set(map(type, flat)) <= kinds:
        raise _type_error(next(element for element in flat if type(element) not in kinds), dtype)


def _bytes(value, dtype: int) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict):
        raise _type_error(value, dtype)
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_text(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _require_rows(outputs: Mapping[str, np.ndarray]) -> None:
    batch = None
    for name, value in outputs.items():
        if value.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if len(value) < 1:
            raise invalid(f"Tensor name: {name} has invalid batch size: {len(value)}")
        if batch not in (None, len(value)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {batch}"
            )
        batch = len(value)


def _as_list(name: str, value: np.ndarray):
    if value.dtype == object:
        as_bytes = name.endswith("_bytes")
        flat = np.empty(value.size, object)
        flat[:] = [
            {"b64": base64.b64encode(element).decode()}
            if as_bytes
            else element.decode(errors="replace")
            for element in value.flat
        ]
        return flat.reshape(value.shape).tolist()
    if value.dtype != np.float32:
        return value.tolist()
    short = np.array([float(f"{element:.6g}") for element in value.ravel().tolist()])
    exact = short.astype(np.float32) == value.ravel()
    for position in np.flatnonzero(~exact & np.isfinite(value.ravel())):
        short[position] = float(f"{value.flat[position]:.9g}")
    return short.reshape(value.shape).tolist()


def _type_error(value, dtype: int) -> RequestError:
    kinds = {bool: str(value), type(None): "Null", dict: "Object", list: "Array", str: "String"}
    kind = kinds.get(type(value), "Number")
    return invalid(
        f"JSON Value: {_text(value)} Type: {kind} is not of expected type: {type_name(dtype)}"
    )


def _is_base64(value) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_object(value) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _text(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _dumped(document) -> bytes:
    return json.dumps(document).encode()
