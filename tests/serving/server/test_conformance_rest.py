"""Every REST path, code and message of the API that a client may rely on.

Runs unchanged against another server that serves a model of the same signatures under the name
``dare``: TFDARE_SERVING_ADDRESS=host:port (gRPC) and TFDARE_SERVING_REST=host:port.
"""

import http.client
import json

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.client.protos import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
from serving.client.tensors import from_proto, to_proto

METRICS = "/monitoring/prometheus/metrics"
INTEGERS = ("DT_INT32", "DT_INT64")


def send(rest, method, path, body=None):
    """Sends one request, its body as it is or as JSON; returns (status, document)."""
    connection = http.client.HTTPConnection(rest, timeout=60)
    try:
        sent = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, sent)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.getheader("Content-Type").startswith("application/json"), text
        return response.status, json.loads(text)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def ask(rest):
    return lambda method, path, body=None: send(rest, method, path, body)


@pytest.fixture(scope="module")
def predict(ask):
    """Returns ``predict(body, which="", method="predict")`` of the model ``dare``."""

    def call(body, which="", method="predict"):
        return ask("POST", f"/v1/models/dare{which}:{method}", body)

    return call


@pytest.fixture(scope="module")
def metadata(ask):
    status, document = ask("GET", "/v1/models/dare/metadata")
    assert status == 200
    return document


@pytest.fixture(scope="module")
def inputs(metadata):
    """Makes a valid request by columns: 2 users, 6 behaviors, 3 candidates."""
    random = np.random.default_rng(1)
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    values = {}
    for name in signatures["serving_default"]["inputs"]:
        if name == "history_length":
            values[name] = [6, 2]
        else:
            width = 6 if name.startswith("history") else 3
            values[name] = random.integers(0, 1000, [2, width]).tolist()
    return values


def rows(inputs):
    return [{name: value[user] for name, value in inputs.items()} for user in range(2)]


def refused(answer, code, *parts):
    status, document = answer
    assert status == code and set(document) == {"error"}, answer
    for part in parts:
        assert part in document["error"], document


# --- predict ---


def test_columns_and_rows_answer_alike(predict, inputs):
    status, columns = predict({"inputs": inputs})
    assert status == 200 and set(columns) == {"outputs"}
    outputs = columns["outputs"]
    assert set(outputs) == {"probability", "behavior_index", "attention_score"}
    assert np.shape(outputs["probability"]) == (2, 3)
    status, by_row = predict({"instances": rows(inputs), "signature_name": "serving_default"})
    assert status == 200 and set(by_row) == {"predictions"}
    for user, prediction in enumerate(by_row["predictions"]):
        assert set(prediction) == set(outputs)
        np.testing.assert_allclose(
            prediction["probability"], outputs["probability"][user], atol=1e-6
        )
        assert prediction["behavior_index"] == outputs["behavior_index"][user]


def test_rest_and_grpc_answer_alike(predict, inputs, address, metadata):
    _, document = predict({"inputs": inputs})
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dare"
    for name, value in inputs.items():
        kind = signature["inputs"][name]["dtype"]
        request.inputs[name].CopyFrom(
            to_proto(np.array(value, {"DT_INT32": np.int32, "DT_INT64": np.int64}[kind]))
        )
    with grpc.insecure_channel(address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    for name, proto in response.outputs.items():
        value = from_proto(proto)
        by_rest = np.array(document["outputs"][name])
        if value.dtype == np.float32:  # every float is written so that it is read back exactly
            np.testing.assert_allclose(by_rest.astype(np.float32), value, atol=1e-6)
        else:
            np.testing.assert_array_equal(by_rest, value)


def test_a_single_output_is_not_wrapped_in_its_name(predict, inputs, metadata):
    signature = metadata["metadata"]["signature_def"]["signature_def"]["score"]
    values = {}
    for name, info in signature["inputs"].items():
        rank = len(info["tensor_shape"]["dim"])
        value = np.ones([2, 3, 4][:rank], int)
        values[name] = (value if info["dtype"] in INTEGERS else value * 0.5).tolist()
    status, columns = predict({"inputs": values, "signature_name": "score"})
    assert status == 200 and np.shape(columns["outputs"]) == (2, 3)
    status, by_row = predict({"instances": rows(values), "signature_name": "score"})
    assert status == 200 and np.shape(by_row["predictions"]) == (2, 3)
    np.testing.assert_allclose(by_row["predictions"], columns["outputs"], atol=1e-6)


def test_a_version_that_is_named(predict, inputs, metadata):
    version = metadata["model_spec"]["version"]
    assert predict({"inputs": inputs}, f"/versions/{version}")[0] == 200
    refused(
        predict({"inputs": inputs}, "/versions/987654"),
        404,
        "Servable not found for request: Specific(dare, 987654)",
    )
    refused(
        predict({"inputs": inputs}, "/labels/nowhere"),
        400,
        "Unrecognized servable version label: nowhere",
    )


def test_an_unknown_model(ask, inputs):
    refused(
        ask("POST", "/v1/models/nobody:predict", {"inputs": inputs}),
        404,
        "Servable not found for request: Latest(nobody)",
    )


def test_an_unknown_signature(predict, inputs):
    refused(
        predict({"inputs": inputs, "signature_name": "x"}),
        400,
        'Serving signature name: "x" not found in signature def',
    )
    refused(
        predict({"inputs": inputs, "signature_name": 1}),
        400,
        "'signature_name' key must be a string value.",
    )


@pytest.mark.parametrize(
    "body, parts",
    [
        ("", ["JSON Parse error: The document is empty"]),
        ("{", ["JSON Parse error: "]),
        ("nonsense", ["JSON Parse error: "]),
        ("[1]", ["Is not object"]),
        ({}, ["Missing 'inputs' or 'instances' key"]),
        ({"inputs": [1], "instances": [1]}, ["expecting only one of 'inputs' or 'instances'"]),
        ({"instances": 1}, ["Excepting 'instances' to be an list/array"]),
        ({"instances": []}, ["No values in 'instances' array"]),
        ({"instances": [1]}, ["instances is a plain list, but expecting list of objects"]),
        ({"inputs": [1]}, ["inputs is a plain value/list, but expecting an object"]),
        ({"instances": [{"surprise": 1}]}, ["Failed to process element: 0"]),
    ],
)
def test_bodies_that_cannot_be_read(predict, body, parts):
    refused(predict(body), 400, *parts)


def test_inputs_that_do_not_fit(predict, inputs):
    without = {name: value for name, value in inputs.items() if name != "history_length"}
    refused(predict({"inputs": without}), 400, "Missing named input: history_length")
    refused(
        predict({"instances": rows(without)}),
        400,
        "Failed to process element: 0",
        "must only have keys: ",
        "history_length",
    )
    name = next(name for name in inputs if name.startswith("target_"))
    for value, part in (
        ([["a", "b", "c"]] * 2, "is not of expected type: int64"),
        ([[1.5, 2.5, 3.5]] * 2, "is not of expected type: int64"),
        ([[True] * 3] * 2, "is not of expected type: int64"),
        ([[2**63] * 3] * 2, "is not of expected type: int64"),
        ([[1, 2, 3], [1, 2]], "Encountered list at unexpected size: 2"),
        ([[1, 2, 3], 4], "at incorrect level"),
    ):
        refused(predict({"inputs": {**inputs, name: value}}), 400, part)
    mixed = [rows(inputs)[0], 5]
    refused(predict({"instances": mixed}), 400, "Expecting object but got list at item 1")


def test_a_wrong_shape(predict, inputs):
    name = next(name for name in inputs if name.startswith("target_"))
    refused(predict({"inputs": {**inputs, name: [1, 2, 3]}}), 400)


# --- status and metadata ---


def test_status(ask, metadata):
    status, document = ask("GET", "/v1/models/dare")
    assert status == 200
    version = metadata["model_spec"]["version"]
    available = {"error_code": "OK", "error_message": ""}
    assert {"version": version, "state": "AVAILABLE", "status": available} in (
        document["model_version_status"]
    )
    assert ask("GET", f"/v1/models/dare/versions/{version}")[0] == 200
    refused(
        ask("GET", "/v1/models/dare/versions/987654"),
        404,
        "Could not find version 987654 of model dare",
    )
    refused(ask("GET", "/v1/models/nobody"), 404, "Could not find any versions of model nobody")
    refused(ask("GET", "/v1/models"), 400, "Missing model name in request.")


def test_metadata_is_that_of_grpc(metadata, address):
    assert metadata["model_spec"]["name"] == "dare"
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "dare"
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.GetModelMetadata(request)
    by_grpc = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(by_grpc)
    by_rest = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(by_rest) == set(by_grpc.signature_def)
    assert by_rest["search"]["method_name"] == "tensorflow/serving/predict"
    assert set(by_rest["search"]["inputs"]) == set(by_grpc.signature_def["search"].inputs)
    assert int(metadata["model_spec"]["version"]) == response.model_spec.version.value


def test_metadata_of_an_unknown_model(ask):
    refused(
        ask("GET", "/v1/models/nobody/metadata"),
        404,
        "Servable not found for request: Latest(nobody)",
    )


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/v1/models/dare:predict"),
        ("POST", "/v1/models/dare"),
        ("GET", "/v1/nothing"),
        ("PUT", "/v1/models/dare:predict"),
        ("POST", "/v1/models/dare/versions/x:predict"),
        ("POST", "/v1/models/dare:explain"),
    ],
)
def test_malformed_requests(ask, method, path):
    refused(ask(method, path, "{}"), 400, f"Malformed request: {method} {path}")


# --- metrics ---


def test_metrics_have_the_stock_names(rest, predict, inputs):
    predict({"inputs": inputs})
    predict({})
    connection = http.client.HTTPConnection(rest, timeout=60)
    connection.request("GET", METRICS)
    response = connection.getresponse()
    page = response.read().decode()
    connection.close()
    if response.status != 200:
        pytest.skip("the server has no monitoring_config_file")
    families = {family.name: family for family in text_string_to_metric_families(page)}
    for kind, name, labels in (
        ("counter", "serving:request_count", {"model_name": "dare", "status": "OK"}),
        ("counter", "serving:request_count", {"model_name": "dare", "status": "INVALID_ARGUMENT"}),
        (
            "histogram",
            "serving:request_latency",
            {"model_name": "dare", "API": "predict", "entrypoint": "REST"},
        ),
        ("histogram", "serving:runtime_latency", {"model_name": "dare", "API": "predict"}),
        ("counter", "cc:saved_model:load_attempt_count", {"status": "success"}),
        ("counter", "cc:saved_model:load_latency", {}),
    ):
        family = families[f":tensorflow:{name}"]
        assert family.type == kind
        assert any(
            labels.items() <= sample.labels.items() and sample.value > 0
            for sample in family.samples
        ), (name, labels)
    assert "_total" not in page and "_created" not in page


# --- what only the development server answers so ---


def test_classify_and_regress_are_not_served(own_server):
    for method in ("classify", "regress"):
        refused(
            send(own_server.rest, "POST", f"/v1/models/dare:{method}", {"examples": [{}]}),
            501,
            f"{method} is not implemented",
            "development server",
        )


def test_other_paths_are_not_found(own_server):
    refused(send(own_server.rest, "GET", "/"), 404, "Not found: /")
    refused(send(own_server.rest, "GET", "/metrics"), 404)
