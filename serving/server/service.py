"""The gRPC face of the server.

The event loop carries bytes and nothing else: messages are read, answered and written in a pool
of threads, so that work on the processor holds up neither other calls nor health checks.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from concurrent import futures
from typing import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.protos import (
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
    # A loop that is held up while a version loads has calls waiting: they are answered late, where
    # gRPC's own limits of 1,000 and 3,000 would cancel them.
    "grpc.server.max_pending_requests": 100_000,
    "grpc.server.max_pending_requests_hard_limit": 100_000,
}
_NOT_SERVED = ("Classify", "Regress", "MultiInference")


class GrpcServer:
    """Answers over gRPC, and tells health checks so. Lives on the running event loop.

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
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=list({**OPTIONS, **(options or {})}.items()))
        self._server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(_PREDICTION, {
                "Predict": self._served(
                    predict_pb2.PredictRequest,
                    lambda request, started, deadline: api.predict(request, started, deadline),
                ),
                "GetModelMetadata": self._served(
                    get_model_metadata_pb2.GetModelMetadataRequest,
                    lambda request, *_: api.metadata(request),
                ),
                **{name: _unary(_not_served(name)) for name in _NOT_SERVED},
            }),
            grpc.method_handlers_generic_handler(_MODEL, {
                "GetModelStatus": self._served(
                    get_model_status_pb2.GetModelStatusRequest,
                    lambda request, *_: api.status(request),
                ),
                "HandleReloadConfigRequest": self._served(
                    model_management_pb2.ReloadConfigRequest,
                    lambda request, *_: api.reload(request),
                ),
            }),
        ))
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

    async def start(self) -> None:
        """Answers from now on, and says so to health checks."""
        await self._server.start()
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Takes no new call, and lets those under way end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _served(self, kind: type, answer: Callable) -> grpc.RpcMethodHandler:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            started, left = time.monotonic(), context.time_remaining()
            deadline = None if left is None else started + left
            work = functools.partial(_answered, kind, answer, data, started, deadline)
            loop = asyncio.get_running_loop()
            code, result = await loop.run_in_executor(self._pool, work)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, result)
            return result

        return _unary(call)


def _unary(call: Callable) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(call)  # without serializers: bytes in, bytes out


def _not_served(name: str) -> Callable:
    async def call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(
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
