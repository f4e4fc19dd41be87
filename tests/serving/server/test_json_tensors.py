"""Conversion of JSON to tensors and back, by the rules of the stock server's REST API."""

import base64
import json

import grpc
import numpy as np
import pytest

from serving.client.protos import meta_graph_pb2, predict_pb2, types_pb2
from serving.client.tensors import from_proto, to_proto
from serving.server.errors import RequestError
from serving.server.json_tensors import answer, fill, parse

FLOAT, DOUBLE, INT32, UINT8 = (
    types_pb2.DT_FLOAT,
    types_pb2.DT_DOUBLE,
    types_pb2.DT_INT32,
    types_pb2.DT_UINT8,
)
INT64, UINT64, STRING, BOOL = (
    types_pb2.DT_INT64,
    types_pb2.DT_UINT64,
    types_pb2.DT_STRING,
    types_pb2.DT_BOOL,
)


def read(document, **inputs):
    """Reads a document's tensors for inputs of these types."""
    infos = {name: meta_graph_pb2.TensorInfo(dtype=dtype) for name, dtype in inputs.items()}
    request = predict_pb2.PredictRequest()
    fill(request, parse(json.dumps(document).encode()), infos)
    return {name: from_proto(proto) for name, proto in request.inputs.items()}


def written(rows, **outputs):
    response = predict_pb2.PredictResponse()
    for name, value in outputs.items():
        response.outputs[name].CopyFrom(to_proto(value, typed=True))
    return json.loads(answer(response, rows))


@pytest.mark.parametrize(
    "dtype, value",
    [
        (FLOAT, [1, 2.5, -3e38]),
        (DOUBLE, [1e300, 2, 0.1]),
        (INT32, [-(2**31), 2**31 - 1]),
        (INT64, [-(2**63), 2**63 - 1]),
        (UINT64, [0, 2**64 - 1]),
        (UINT8, [0, 255]),
        (BOOL, [True, False]),
        (FLOAT, [float("nan"), float("inf"), float("-inf")]),
        (FLOAT, 2.5),
        (INT64, [[[1], [2]], [[3], [4]]]),
        (INT64, [[], []]),
    ],
)
def test_json_values_become_tensors_of_the_same_values(dtype, value):
    array = read({"inputs": value}, x=dtype)["x"]
    kind = to_proto(array).dtype
    assert kind == dtype
    np.testing.assert_array_equal(array, np.array(value, array.dtype))
    if array.ndim:
        rows = read({"instances": value}, x=dtype)["x"]
        np.testing.assert_array_equal(rows, array)


def test_strings_and_bytes():
    raw = b"\xff\x00a"
    coded = {"b64": base64.b64encode(raw).decode()}
    assert read({"inputs": ["é", coded]}, x=STRING)["x"].tolist() == ["é".encode(), raw]
    assert read({"instances": [coded]}, x=STRING)["x"].tolist() == [raw]
    both = read({"instances": [{"x": coded, "n": 1}]}, x=STRING, n=INT64)
    assert both["x"].tolist() == [raw] and both["n"].tolist() == [1]
    strings = np.array([raw, b"b"], object)
    assert written(True, image_bytes=strings)["predictions"][0] == coded
    assert written(False, text=np.array([b"a"], object)) == {"outputs": ["a"]}


@pytest.mark.parametrize(
    "dtype, value, part",
    [
        (INT32, [2**31], "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        (UINT8, [-1], "is not of expected type: uint8"),
        (INT64, [1.0], "JSON Value: 1.0 Type: Number"),
        (INT64, [True], "Type: True is not of expected type: int64"),
        (INT64, [None], "Type: Null"),
        (INT64, ["1"], 'JSON Value: "1" Type: String'),
        (INT64, [{"a": 1}], "Type: Object"),
        (FLOAT, ["a"], "is not of expected type: float"),
        (FLOAT, [2**24 + 1], "Cannot convert JSON value: 16777217 to float without loss"),
        (FLOAT, [1e39], "to float without loss of precision"),
        (BOOL, [1], "expected type: bool"),
        (STRING, [1], "expected type: string"),
        (STRING, [{"b64": "?"}], "Unable to base64 decode"),
        (STRING, [{"b64": "a", "c": 1}], "not formatted correctly for base64 data"),
        (INT64, [1, [2]], "at unexpected level"),
        (INT64, [[1], 2], "at incorrect level"),
        (INT64, [[1], [2, 3]], "at unexpected size: 2"),
    ],
)
def test_values_that_do_not_fit(dtype, value, part):
    with pytest.raises(RequestError) as caught:
        read({"inputs": {"x": value}}, x=dtype)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT and part in caught.value.message


def test_half_precision_inputs_are_not_implemented():
    with pytest.raises(RequestError) as caught:
        read({"inputs": [1]}, x=types_pb2.DT_HALF)
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_long_values_are_not_repeated_whole():
    with pytest.raises(RequestError) as caught:
        parse(json.dumps([1] * 100_000).encode())
    assert len(caught.value.message) < 300


def test_floats_are_short_and_read_back_exactly():
    values = np.float32([0.2, 1 / 3, 1e-30, 16777216, 3.4e38, -0.0])
    numbers = written(False, x=values)["outputs"]
    assert numbers[0] == 0.2 and str(numbers[1]) == "0.333333343"
    np.testing.assert_array_equal(np.float32(numbers), values)
    many = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    np.testing.assert_array_equal(np.float32(written(False, x=many)["outputs"]), many)
    odd = written(False, x=np.float32([np.nan, np.inf, -np.inf]))["outputs"]
    assert np.isnan(odd[0]) and odd[1:] == [np.inf, -np.inf]


def test_rows_and_columns_of_answers():
    a, b = np.array([[1, 2], [3, 4]]), np.float32([0.5, 1.5])
    assert written(False, a=a) == {"outputs": a.tolist()}
    assert written(False, a=a, b=b) == {"outputs": {"a": a.tolist(), "b": [0.5, 1.5]}}
    assert written(True, b=b) == {"predictions": [0.5, 1.5]}
    assert written(True, a=a, b=b) == {
        "predictions": [{"a": [1, 2], "b": 0.5}, {"a": [3, 4], "b": 1.5}]
    }


@pytest.mark.parametrize(
    "outputs, part",
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"a": np.int64(1)}, "Tensor name: a has no shape information"),
        ({"a": np.zeros([0])}, "Tensor name: a has invalid batch size: 0"),
        (
            {"a": np.zeros([1]), "b": np.zeros([2])},
            "Tensor name: b has inconsistent batch size: 2 expecting: 1",
        ),
    ],
)
def test_outputs_that_cannot_be_written_as_rows(outputs, part):
    with pytest.raises(RequestError) as caught:
        written(True, **outputs)
    assert part in caught.value.message
