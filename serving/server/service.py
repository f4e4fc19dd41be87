"""The gRPC face of the server.

gRPC's own threads carry bytes and nothing else: messages are read, answered and written in a pool
of threads, and health checks have a pool of their own, which no work on the processor holds up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.client.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)
from serving.server.api import EXPIRED, Api
from serving.server.errors import RequestError, shortened

_LOG = logging.getLogger(__name__)
_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"
SERVICES = ("", _PREDICTION, _MODEL)
OPTIONS = {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.so_reuseport": 0,  # a second server on the same port must fail, not share it
    # Python that is held up while a version loads has calls waiting: they are answered late, where
    # gRPC's own limits of 1,000 and 3,000 would cancel them.
    "grpc.server.max_pending_requests": 100_000,
    "grpc.server.max_pending_requests_hard_limit": 100_000,
}
_NOT_SERVED = ("Classify", "Regress", "MultiInference")
_HEALTH_THREADS = 2


class GrpcServer:
    """Answers over gRPC, and tells health checks so.

    Args:
        api: Api. What answers.
        address: str. ``host:port``; port 0 takes any free one.
        threads: int. Calls that are worked on at the same time.
        credentials: grpc.ServerCredentials or None. For TLS; None: in the clear.
        options: mapping of gRPC channel argument to value, beside the server's own.
        grace: float. Seconds that calls under way have to end, when it stops. Defaults to 10.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        api: Api,
        address: str,
        threads: int,
        credentials: grpc.ServerCredentials | None = None,
        options: dict[str, int | str] | None = None,
        grace: float = 10.0,
    ):
        self._grace = grace
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        self._health = health.HealthServicer()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"),
            options=list({**OPTIONS, **(options or {})}.items()),
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    _PREDICTION,
                    {
                        "Predict": self._served(
                            predict_pb2.PredictRequest,
                            lambda request, started, deadline: api.predict(
                                request, started, deadline
                            ),
                        ),
                        "GetModelMetadata": self._served(
                            get_model_metadata_pb2.GetModelMetadataRequest,
                            lambda request, *_: api.metadata(request),
                        ),
                        **{name: _unary(_not_served(name)) for name in _NOT_SERVED},
                    },
                ),
                grpc.method_handlers_generic_handler(
                    _MODEL,
                    {
                        "GetModelStatus": self._served(
                            get_model_status_pb2.GetModelStatusRequest,
                            lambda request, *_: api.status(request),
                        ),
                        "HandleReloadConfigRequest": self._served(
                            model_management_pb2.ReloadConfigRequest,
                            lambda request, *_: api.reload(request),
                        ),
                    },
                ),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}: {error}") from error
        if self.port == 0:
            raise OSError(f"Cannot listen on {address}")

    def start(self) -> None:
        """Answers from now on, and says so to health checks."""
        self._server.start()
        for name in SERVICES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Takes no new call, and lets those under way end."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._grace).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _served(self, kind: type, answer: Callable) -> grpc.RpcMethodHandler:
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            started, left = time.monotonic(), context.time_remaining()
            deadline = None if left is None else started + left
            code, result = _answered(kind, answer, data, started, deadline)
            if code is not grpc.StatusCode.OK:
                context.abort(code, result)
            return result

        call.experimental_thread_pool = self._pool  # gRPC's only way to give a call its own pool
        return _unary(call)


def _unary(call: Callable) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(call)  # without serializers: bytes in, bytes out


def _not_served(name: str) -> Callable:
    def call(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} is not implemented by this development server. Use Predict.",
        )

    return call


def _answered(kind, answer, data, started, deadline) -> tuple[grpc.StatusCode, bytes | str]:
    """Code and answer, or code and message; nothing that is raised reaches the server itself."""
    try:
        if deadline is not None and time.monotonic() >= deadline:
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, EXPIRED)
        try:
            request = kind.FromString(data)
        except Exception as error:  # DecodeError, of whatever implementation of protobuf
            raise RequestError(
                grpc.StatusCode.INTERNAL, f"The request is no {kind.DESCRIPTOR.name}: {error}"
            ) from error
        return grpc.StatusCode.OK, answer(request, started, deadline).SerializeToString()
    except RequestError as error:
        return error.code, shortened(error.message)
    except Exception as error:  # a fault of this server: answered, logged, survived
        _LOG.exception("%s failed", kind.DESCRIPTOR.name)
        return grpc.StatusCode.INTERNAL, shortened(f"{type(error).__name__}: {error}")
