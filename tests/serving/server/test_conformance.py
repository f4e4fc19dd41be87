"""Every call, code and message of the API that a client may rely on.

Runs unchanged against another server that serves a model of the same signatures under the name
``dare``: TFDARE_SERVING_ADDRESS=host:port. Features are read from the server's own signature.
"""

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (  # after serving.client.protos: needs no TensorFlow then
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from serving.client.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from serving.client.tensors import from_proto, to_proto

Code = grpc.StatusCode
FLOAT, INT32, INT64 = 1, 3, 9


@pytest.fixture(scope="module")
def channel(address):
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="module")
def service(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def signatures(service):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "dare"
    response = service.GetModelMetadata(request)
    assert response.model_spec.name == "dare" and response.model_spec.version.value >= 1
    signature_map = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signature_map)
    return signature_map.signature_def


@pytest.fixture
def predict_request(signatures):
    """Makes a valid request for ``serving_default``: 2 users, 6 behaviors, 3 candidates."""
    random = np.random.default_rng(1)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dare"
    for name in signatures["serving_default"].inputs:
        if name == "history_length":
            value = np.array([6, 2], np.int32)
        else:
            value = random.integers(0, 1000, [2, 6 if name.startswith("history") else 3])
        request.inputs[name].CopyFrom(to_proto(value))
    return request


def refused(call, request, code, *parts, timeout=30):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=timeout)
    assert caught.value.code() is code, caught.value
    for part in parts:
        assert part in caught.value.details()


def some_input(request, prefix="history_"):
    return sorted(n for n in request.inputs if n.startswith(prefix) and n != "history_length")[0]


# --- Predict ---


def test_predict_answers_every_output_and_the_resolved_model_spec(
    service, predict_request, signatures
):
    response = service.Predict(predict_request)
    spec = response.model_spec
    assert (spec.name, spec.signature_name) == ("dare", "serving_default")
    assert spec.WhichOneof("version_choice") == "version" and spec.version.value >= 1
    assert set(response.outputs) == {"probability", "behavior_index", "attention_score"}
    outputs = {name: from_proto(proto) for name, proto in response.outputs.items()}
    k = outputs["behavior_index"].shape[2]
    assert outputs["probability"].shape == (2, 3) and outputs["probability"].dtype == np.float32
    assert outputs["behavior_index"].shape == (2, 3, k)
    assert outputs["behavior_index"].dtype == np.int32
    assert outputs["attention_score"].shape == (2, 3, k)
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert (outputs["attention_score"][outputs["behavior_index"] < 0] == 0).all()


def test_signatures_are_the_contract(signatures):
    default, search, score = (signatures[n] for n in ("serving_default", "search", "score"))
    names = {n.removeprefix("target_") for n in default.inputs if n.startswith("target_")}
    whole = {f"history_{n}": (INT64, 2) for n in names}
    targets = {f"target_{n}": (INT64, 2) for n in names}
    whole |= {**targets, "history_length": (INT32, 1)}
    scored = {f"behavior_{n}": (INT64, 3) for n in names} | targets
    scored |= {"behavior_position": (INT32, 3), "attention_score": (FLOAT, 3)}
    mean_score = {"mean_score": (FLOAT, 3)} if "mean_score" in score.inputs else {}
    scored |= mean_score
    kept = {"behavior_index": (INT32, 3), "attention_score": (FLOAT, 3)}
    search_outputs = {**kept, **mean_score}
    answer = {"probability": (FLOAT, 2)}

    def shape(infos):
        return {name: (info.dtype, len(info.tensor_shape.dim)) for name, info in infos.items()}

    assert shape(default.inputs) == shape(search.inputs) == whole
    assert shape(score.inputs) == scored
    assert set(default.outputs) == set(answer) | set(kept)
    assert (set(search.outputs), set(score.outputs)) == (set(search_outputs), set(answer))
    for signature, outputs in ((search, search_outputs), (score, answer)):
        assert {n: info.dtype for n, info in signature.outputs.items()} == {
            n: dtype for n, (dtype, _) in outputs.items()
        }
        assert signature.method_name == "tensorflow/serving/predict"


def test_output_filter_keeps_only_the_named_outputs(service, predict_request):
    whole = service.Predict(predict_request)
    predict_request.output_filter.append("probability")
    response = service.Predict(predict_request)
    assert set(response.outputs) == {"probability"}
    np.testing.assert_allclose(
        from_proto(response.outputs["probability"]),
        from_proto(whole.outputs["probability"]),
        atol=1e-6,
    )


def test_explicit_version_and_signature(service, predict_request):
    version = service.Predict(predict_request).model_spec.version.value
    predict_request.model_spec.version.value = version
    predict_request.model_spec.signature_name = "search"
    response = service.Predict(predict_request)
    assert response.model_spec.version.value == version
    assert response.model_spec.signature_name == "search"
    assert {"behavior_index", "attention_score"} <= set(response.outputs)
    assert set(response.outputs) <= {"behavior_index", "attention_score", "mean_score"}


def test_typed_values_and_packed_bytes_mean_the_same(service, predict_request):
    packed = service.Predict(predict_request)
    for name in list(predict_request.inputs):
        typed = to_proto(from_proto(predict_request.inputs[name]), typed=True)
        predict_request.inputs[name].CopyFrom(typed)
    assert service.Predict(predict_request).outputs == packed.outputs


def test_missing_model_spec(service):
    refused(
        service.Predict, predict_pb2.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec"
    )


def test_no_model_name(service, predict_request):
    predict_request.model_spec.name = ""
    predict_request.model_spec.signature_name = "search"
    refused(
        service.Predict, predict_request, Code.INVALID_ARGUMENT, "ModelSpec has no name specified."
    )


def test_unknown_model(service, predict_request):
    predict_request.model_spec.name = "nobody"
    refused(
        service.Predict,
        predict_request,
        Code.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


def test_unknown_version(service, predict_request):
    predict_request.model_spec.version.value = 987654
    refused(
        service.Predict,
        predict_request,
        Code.NOT_FOUND,
        "Servable not found for request: Specific(dare, 987654)",
    )


def test_unknown_label(service, predict_request):
    predict_request.model_spec.version_label = "nowhere"
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "Unrecognized servable version label: nowhere",
    )


def test_unknown_signature(service, predict_request):
    predict_request.model_spec.signature_name = "x"
    refused(
        service.Predict,
        predict_request,
        Code.FAILED_PRECONDITION,
        'Serving signature key "x" not found.',
    )


def test_missing_input(service, predict_request):
    count = len(predict_request.inputs)
    del predict_request.inputs["history_length"]
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        f"input size does not match signature: {count - 1}!={count} len({{",
        "Sent extra: {}. Missing but required: {history_length}.",
    )


def test_extra_input(service, predict_request):
    predict_request.inputs["surprise"].CopyFrom(to_proto(np.int64([1])))
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "input size does not match signature",
        "Sent extra: {surprise}. Missing but required: {}.",
    )


def test_misnamed_input(service, predict_request):
    predict_request.inputs["surprise"].CopyFrom(predict_request.inputs["history_length"])
    del predict_request.inputs["history_length"]
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "input tensor alias not found in signature: surprise",
        "history_length",
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_wrong_dtype(service, predict_request, dtype):
    name = some_input(predict_request)
    predict_request.inputs[name].CopyFrom(
        to_proto(from_proto(predict_request.inputs[name]).astype(dtype))
    )
    type_name = {np.float32: "float", np.int32: "int32"}[dtype]
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        f"to be int64 but {type_name} is provided",
    )


def test_string_for_a_number(service, predict_request):
    predict_request.inputs[some_input(predict_request)].CopyFrom(
        to_proto(np.array([[b"a"]], object))
    )
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "to be int64 but string is provided",
    )


def test_wrong_rank(service, predict_request):
    name = some_input(predict_request)
    predict_request.inputs[name].CopyFrom(to_proto(from_proto(predict_request.inputs[name])[0]))
    refused(service.Predict, predict_request, Code.INVALID_ARGUMENT)


def test_wrong_batch(service, predict_request):
    name = some_input(predict_request, "target_")
    value = from_proto(predict_request.inputs[name])
    predict_request.inputs[name].CopyFrom(to_proto(np.concatenate([value, value])))
    refused(service.Predict, predict_request, Code.INVALID_ARGUMENT)


def test_candidates_that_do_not_fit_fail_inside_the_run(service, predict_request):
    name = sorted(n for n in predict_request.inputs if n.startswith("target_"))[-1]
    if sum(n.startswith("target_") for n in predict_request.inputs) < 2:
        pytest.skip("one feature only")
    value = from_proto(predict_request.inputs[name])
    predict_request.inputs[name].CopyFrom(to_proto(value[:, :2]))
    refused(service.Predict, predict_request, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("damage", ["short bytes", "too many values", "negative size"])
def test_tensor_that_does_not_parse(service, predict_request, damage):
    name = some_input(predict_request)
    tensor = predict_request.inputs[name]
    if damage == "short bytes":
        tensor.tensor_content = tensor.tensor_content[:-3]
    elif damage == "too many values":
        tensor.CopyFrom(to_proto(from_proto(tensor), typed=True))
        tensor.int64_val.extend([1] * 50)
    else:
        tensor.tensor_shape.dim[0].size = -2
    refused(
        service.Predict, predict_request, Code.INVALID_ARGUMENT, f"tensor parsing error: {name}"
    )


def test_unknown_output(service, predict_request):
    predict_request.output_filter.append("nothing")
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: nothing",
    )


def test_output_named_twice(service, predict_request):
    predict_request.output_filter.extend(["probability", "probability"])
    refused(
        service.Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "duplicate output tensor alias: probability",
    )


def test_deadline(service, predict_request):
    for name in list(predict_request.inputs):
        if name != "history_length":
            predict_request.inputs[name].CopyFrom(to_proto(np.ones([2, 2000], np.int64)))
    refused(service.Predict, predict_request, Code.DEADLINE_EXCEEDED, timeout=0.005)


# --- GetModelMetadata ---


def metadata_request(*fields, name="dare"):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return request


def test_metadata_needs_a_model_spec(service):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    refused(service.GetModelMetadata, request, Code.INVALID_ARGUMENT, "Missing ModelSpec")


def test_metadata_needs_a_field(service):
    refused(
        service.GetModelMetadata,
        metadata_request(),
        Code.INVALID_ARGUMENT,
        "GetModelMetadataRequest must specify at least one metadata_field",
    )


def test_metadata_of_another_field(service):
    refused(
        service.GetModelMetadata,
        metadata_request("weights"),
        Code.INVALID_ARGUMENT,
        "Metadata field weights is not supported",
    )


def test_metadata_of_an_unknown_model(service):
    refused(
        service.GetModelMetadata,
        metadata_request("signature_def", name="nobody"),
        Code.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


# --- ModelService ---


@pytest.fixture(scope="module")
def model_service(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def status_request(name="dare", version=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    return request


def test_status_lists_what_is_available(model_service, service, predict_request):
    answer = model_service.GetModelStatus(status_request()).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    versions = [status.version for status in answer if status.state == available]
    assert service.Predict(predict_request).model_spec.version.value == max(versions)
    assert all(status.status.error_code == 0 for status in answer)
    (version_status,) = model_service.GetModelStatus(
        status_request(version=versions[0])
    ).model_version_status
    assert (version_status.version, version_status.state) == (versions[0], available)


def test_status_of_unknown_models_and_versions(model_service):
    refused(
        model_service.GetModelStatus,
        get_model_status_pb2.GetModelStatusRequest(),
        Code.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )
    refused(
        model_service.GetModelStatus,
        status_request("nobody"),
        Code.NOT_FOUND,
        "Could not find any versions of model nobody",
    )
    refused(
        model_service.GetModelStatus,
        status_request(version=987654),
        Code.NOT_FOUND,
        "Could not find version 987654 of model dare",
    )


def reload_request(*names):
    request = model_management_pb2.ReloadConfigRequest()
    for name in names:
        request.config.model_config_list.config.add(
            name=name, base_path=f"/models/{name}", model_platform="tensorflow"
        )
    return request


def test_refused_configurations_change_nothing(model_service):
    refused(
        model_service.HandleReloadConfigRequest,
        reload_request(),
        Code.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest.",
        "Only ModelConfigList is currently supported",
    )
    refused(
        model_service.HandleReloadConfigRequest,
        reload_request("dare", "dare"),
        Code.INVALID_ARGUMENT,
        "Illegal to list model dare multiple times in config list",
    )
    answer = model_service.GetModelStatus(status_request()).model_version_status
    assert any(
        version_status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
        for version_status in answer
    )


def test_methods_and_services_that_are_not_there(channel):
    for method in ("PredictionService/Nothing", "Nothing/Predict"):
        call = channel.unary_unary(f"/tensorflow.serving.{method}")
        refused(call, b"", Code.UNIMPLEMENTED)


# --- what only the development server answers so ---


@pytest.fixture(scope="module")
def own(own_server):
    with grpc.insecure_channel(own_server.address) as channel:
        yield channel


def test_calls_that_are_not_served_say_so(own):
    service = prediction_service_pb2_grpc.PredictionServiceStub(own)
    for call, request in (
        (service.Classify, classification_pb2.ClassificationRequest()),
        (service.Regress, regression_pb2.RegressionRequest()),
        (service.MultiInference, inference_pb2.MultiInferenceRequest()),
    ):
        refused(call, request, Code.UNIMPLEMENTED, "is not implemented", "development server")


def test_configurations_that_this_server_refuses(own):
    call = model_service_pb2_grpc.ModelServiceStub(own).HandleReloadConfigRequest
    for change, part in (
        ({"model_platform": ""}, "Illegal setting neither ModelServerConfig::model_type"),
        ({"model_platform": "other"}, "Model dare requests unsupported platform other"),
        ({"base_path": ""}, "needs a name and a base_path"),
    ):
        request = reload_request("dare")
        for name, value in change.items():
            setattr(request.config.model_config_list.config[0], name, value)
        refused(call, request, Code.INVALID_ARGUMENT, part)


def test_malformed_bytes_are_refused(own):
    call = own.unary_unary("/tensorflow.serving.PredictionService/Predict")
    refused(call, b"\xff\xff\xff", Code.INTERNAL, "The request is no PredictRequest")


def test_health(own):
    stub = health_pb2_grpc.HealthStub(own)
    for name in ("", "tensorflow.serving.PredictionService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    refused(stub.Check, health_pb2.HealthCheckRequest(service="other"), Code.NOT_FOUND)


def test_shapes_are_named_in_the_message(own, predict_request):
    name = some_input(predict_request)
    predict_request.inputs[name].CopyFrom(to_proto(from_proto(predict_request.inputs[name])[0]))
    refused(
        prediction_service_pb2_grpc.PredictionServiceStub(own).Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        f"input {name} of signature",
        "[?,?]",
        "[6]",
    )


def test_a_shape_that_asks_for_memory_is_refused(own, predict_request):
    name = some_input(predict_request)
    predict_request.inputs[name].Clear()
    predict_request.inputs[name].dtype = INT64
    for _ in range(2):
        predict_request.inputs[name].tensor_shape.dim.add(size=1 << 40)
    predict_request.inputs[name].int64_val.append(1)
    refused(
        prediction_service_pb2_grpc.PredictionServiceStub(own).Predict,
        predict_request,
        Code.INVALID_ARGUMENT,
        "tensor parsing error",
    )
