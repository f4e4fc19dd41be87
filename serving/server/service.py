"""The gRPC face of the server: what each call answers, and the server that listens."""

from __future__ import annotations

import functools
import logging
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from serving.server.errors import RequestError, invalid, shortened
from serving.server.manager import Manager
from serving.server.predict import predict, resolved

_LOG = logging.getLogger(__name__)
SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share it
)


def _answers(method):
    """Turns what ``method`` raises into the call's status; nothing reaches the server itself."""

    @functools.wraps(method)
    def call(self, request, context):
        try:
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return method(self, request, context)
        except RequestError as error:
            code, message = error.code, error.message
        except Exception as error:  # a fault of this server: answered, logged, survived
            _LOG.exception("%s failed", method.__name__)
            code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
        context.abort(code, shortened(message))

    return call


def _not_served(name: str):
    def call(self, request, context):
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} is not implemented by this development server. Use Predict.",
        )

    call.__name__ = name
    return call


def _require_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """``Predict`` and ``GetModelMetadata``.

    Args:
        manager: Manager. The models that are served.
    """

    def __init__(self, manager: Manager):
        self._manager = manager

    @_answers
    def Predict(self, request, context):
        _require_spec(request)
        servable = self._manager.resolve(request.model_spec)
        return predict(servable, request, context.time_remaining())

    @_answers
    def GetModelMetadata(self, request, context):
        _require_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        servable = self._manager.resolve(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=resolved(servable))
        response.metadata["signature_def"].Pack(signatures)
        return response

    Classify = _not_served("Classify")
    Regress = _not_served("Regress")
    MultiInference = _not_served("MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """``GetModelStatus``.

    Args:
        manager: Manager. The models that are served.
    """

    def __init__(self, manager: Manager):
        self._manager = manager

    @_answers
    def GetModelStatus(self, request, context):
        _require_spec(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        for servable in self._manager.status(request.model_spec):
            status = response.model_version_status.add(version=servable.version)
            status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            status.status.SetInParent()
        return response

    HandleReloadConfigRequest = _not_served("HandleReloadConfigRequest")


class Server:
    """Listens, answers, and stops in order.

    Args:
        manager: Manager. The models that are served.
        address: str. ``host:port``; port 0 takes any free one.
        threads: int. Calls that are worked on at the same time. Defaults to 8.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, manager: Manager, address: str, threads: int = 8):
        self._health = health.HealthServicer()
        pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="serve")
        self._server = grpc.server(pool, options=OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(manager), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(manager), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}: {error}") from error
        if self.port == 0:
            raise OSError(f"Cannot listen on {address}")

    def start(self) -> None:
        """Answers from now on, and says so to health checks."""
        self._server.start()
        for name in SERVICES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new call, and lets those under way end within ``grace`` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
