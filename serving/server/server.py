"""The running server: gRPC, and REST on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from dataclasses import dataclass, field

import grpc

from serving.server.api import Api
from serving.server.rest import RestServer
from serving.server.service import GrpcServer


@dataclass(frozen=True)
class Listen:
    """Where and how to listen.

    Args:
        host: str. Defaults to ``localhost``.
        port: int. Of gRPC; 0 takes any free one.
        threads: int. gRPC calls that are worked on at the same time. Defaults to 8.
        credentials: grpc.ServerCredentials or None. For TLS on gRPC.
        options: mapping of gRPC channel arguments.
        rest_port: int or None. Of REST; 0 takes any free one; None: no REST.
        rest_threads: int. REST requests that are worked on at the same time. Defaults to 8.
        rest_timeout: float. Seconds that a REST request may take. Defaults to 30.
        metrics_path: str or None. Where Prometheus reads, on the REST port.
        grace: float. Seconds that calls under way have to end, when it stops. Defaults to 10.
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
    """Listens, answers, and stops in order.

    Args:
        api: Api. What answers.
        listen: Listen. Where.

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
        """Port of gRPC."""
        return self._grpc.port

    @property
    def rest_port(self) -> int | None:
        """Port of REST, or None."""
        return None if self._rest is None else self._rest.port

    def start(self) -> None:
        """Answers from now on."""
        asked = self._listen
        self._grpc = GrpcServer(
            self._api,
            f"{asked.host}:{asked.port}",
            asked.threads,
            asked.credentials,
            asked.options,
            asked.grace,
        )
        if asked.rest_port is not None:
            try:
                self._start_rest()
            except BaseException:
                self._grpc.stop()
                raise
        self._grpc.start()

    def stop(self) -> None:
        """Takes no new call, and lets those under way end."""
        rest = None if self._rest is None else self._soon(self._rest.stop())
        try:
            self._grpc.stop()
            if rest is not None:
                rest.result()
        finally:
            self._end_loop()

    def _start_rest(self) -> None:
        asked = self._listen
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest", daemon=True)
        self._thread.start()

        async def started():
            rest = RestServer(
                self._api,
                asked.host,
                asked.rest_port,
                asked.rest_threads,
                asked.rest_timeout,
                asked.metrics_path,
                asked.grace,
            )
            await rest.start()
            return rest

        try:
            self._rest = self._soon(started()).result()
        except BaseException:
            self._end_loop()
            raise

    def _soon(self, coroutine) -> concurrent.futures.Future:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _end_loop(self) -> None:
        if self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
