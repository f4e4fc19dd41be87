"""The gRPC API of the server.

Calls are parsed, answered and serialized in a pool of threads. Health checks have a pool of their
own, so that they are not held up by calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

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
    # While a version loads, calls wait: they are answered late, where gRPC's own limits of 1,000
    # and 3,000 waiting calls would cancel them.
    "grpc.server.max_pending_requests": 100_000,
    "grpc.server.max_pending_requests_hard_limit": 100_000,
}
_NOT_SERVED = ("Classify", "Regress", "MultiInference")
_HEALTH_THREADS = 2


class GrpcServer:
    """Answers over gRPC, health checks included.

    Args:
        api: Api. Answers the calls.
        address: str. ``host:port``; port 0 takes any free one.
        threads: int. Calls that are processed at the same time.
        credentials: grpc.ServerCredentials or None. For TLS; None: no encryption.
        options: mapping of gRPC channel argument to value, added to ``OPTIONS``.
        grace: float. Seconds that calls under way have to end when it stops. Defaults to 10.

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
                        "Predict": self._handler(
                            predict_pb2.PredictRequest,
                            lambda request, started, deadline: api.predict(
                                request, started, deadline
                            ),
                        ),
                        "GetModelMetadata": self._handler(
                            get_model_metadata_pb2.GetModelMetadataRequest,
                            lambda request, *_: api.metadata(request),
                        ),
                        **{name: _unary(_not_served(name)) for name in _NOT_SERVED},
                    },
                ),
                grpc.method_handlers_generic_handler(
                    _MODEL,
                    {
                        "GetModelStatus": self._handler(
                            get_model_status_pb2.GetModelStatusRequest,
                            lambda request, *_: api.status(request),
                        ),
                        "HandleReloadConfigRequest": self._handler(
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
        """Starts to answer; health checks report SERVING from now on."""
        self._server.start()
        for name in SERVICES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Stops accepting calls, and lets those under way end."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._grace).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _handler(self, kind: type, answer: Callable) -> grpc.RpcMethodHandler:
        return _unary(_PooledCall(kind, answer, self._pool))


class _PooledCall:
    """A call that gRPC runs in `pool` instead of the server's default threads.

    gRPC takes the pool from a call's attribute ``experimental_thread_pool``; there is no other way.

    Args:
        kind: type. The request's message class.
        answer: callable of (request, time at which it arrived, deadline). Returns the reply.
        pool: futures.ThreadPoolExecutor.
    """

    def __init__(self, kind: Any, answer: Callable, pool: futures.ThreadPoolExecutor):
        self._kind, self._answer, self.experimental_thread_pool = kind, answer, pool

    def __call__(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        started, left = time.monotonic(), context.time_remaining()
        deadline = None if left is None else started + left
        try:
            return self._reply(data, started, deadline)
        except RequestError as error:
            context.abort(error.code, shortened(error.message))  # raises
            raise

    def _reply(self, data: bytes, started: float, deadline: float | None) -> bytes:
        """Reads the request, answers it, and writes the reply; raises nothing but RequestError."""
        try:
            if deadline is not None and time.monotonic() >= deadline:
                raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, EXPIRED)
            try:
                request = self._kind.FromString(data)
            except Exception as error:  # DecodeError, whose class differs between protobuf's kinds
                raise RequestError(
                    grpc.StatusCode.INTERNAL,
                    f"The request is no {self._kind.DESCRIPTOR.name}: {error}",
                ) from error
            return self._answer(request, started, deadline).SerializeToString()
        except RequestError:
            raise
        except Exception as error:  # a fault of this server: answered and logged
            _LOG.exception("%s failed", self._kind.DESCRIPTOR.name)
            raise RequestError(
                grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
            ) from error


def _unary(call: Callable) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(call)  # without serializers: bytes in, bytes out


def _not_served(name: str) -> Callable:
    def call(data: bytes, context: grpc.ServicerContext) -> None:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} is not implemented by this development server. Use Predict.",
        )

    return call
