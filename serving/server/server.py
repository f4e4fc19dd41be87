"""The running server: gRPC, and REST on an event loop in a separate thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from serving.server.api import Api
from serving.server.rest import RestServer
from serving.server.service import GrpcServer

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Listen:
    """Address, threads and limits of a server.

    Args:
        host: str. Defaults to ``localhost``.
        port: int. Of gRPC; 0 takes any free one.
        threads: int. gRPC calls that are processed at the same time. Defaults to 8.
        credentials: grpc.ServerCredentials or None. For TLS on gRPC.
        options: mapping of gRPC channel arguments.
        rest_port: int or None. Of REST; 0 takes any free one; None: no REST.
        rest_threads: int. REST requests that are processed at the same time. Defaults to 8.
        rest_timeout: float. Seconds that a REST request may take. Defaults to 30.
        metrics_path: str or None. Path of the metrics for Prometheus, on the REST port.
        grace: float. Seconds that calls under way have to end when it stops. Defaults to 10.
    """

    host: str = "localhost"
    port: int = 0
    threads: int = 8
    credentials: grpc.ServerCredentials | None = None
    options: dict[str, int | str] = field(default_factory=dict)
    rest_port: int | None = None
    rest_threads: int = 8
    rest_timeout: float = 30.0
    metrics_path: str | None = None
    grace: float = 10.0


class Server:
    """Serves gRPC and REST, and lets calls under way end when it stops.

    Args:
        api: Api. Answers the calls.
        listen: Listen. Address, threads and limits.

    Raises:
        OSError: (from :meth:`start`) an address cannot be listened on.
    """

    def __init__(self, api: Api, listen: Listen = Listen()):
        self._api, self._listen = api, listen
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Port of gRPC, after :meth:`start`."""
        assert self._grpc is not None
        return self._grpc.port

    @property
    def rest_port(self) -> int | None:
        """Port of REST, or None."""
        return None if self._rest is None else self._rest.port

    def start(self) -> None:
        """Starts to listen and to answer."""
        listen = self._listen
        self._grpc = GrpcServer(
            self._api,
            f"{listen.host}:{listen.port}",
            listen.threads,
            listen.credentials,
            listen.options,
            listen.grace,
        )
        if listen.rest_port is not None:
            try:
                self._start_rest(listen.rest_port)
            except BaseException:
                self._grpc.stop()
                raise
        self._grpc.start()

    def stop(self) -> None:
        """Stops accepting calls, and lets those under way end."""
        assert self._grpc is not None
        rest = None if self._rest is None else self._submit(self._rest.stop())
        try:
            self._grpc.stop()
            if rest is not None:
                rest.result()
        finally:
            self._end_loop()

    def _start_rest(self, port: int) -> None:
        listen = self._listen
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest", daemon=True)
        self._thread.start()

        async def started() -> RestServer:
            rest = RestServer(
                self._api,
                listen.host,
                port,
                listen.rest_threads,
                listen.rest_timeout,
                listen.metrics_path,
                listen.grace,
            )
            await rest.start()
            return rest

        try:
            self._rest = self._submit(started()).result()
        except BaseException:
            self._end_loop()
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, _Value]) -> concurrent.futures.Future[_Value]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _end_loop(self) -> None:
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
