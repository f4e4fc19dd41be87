"""The REST API of the server: predict, status and metadata as JSON, and the metrics.

Paths, codes and errors are those of ``http_rest_api_util.cc`` and ``http_server.cc`` of
https://github.com/tensorflow/serving.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import time
import urllib.parse
from concurrent import futures

import grpc
from aiohttp import web
from google.protobuf import json_format

from serving.client.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)
from serving.server import json_tensors
from serving.server.api import METADATA_FIELD, Api
from serving.server.errors import RequestError, invalid, shortened
from serving.server.predict import require_signature_inputs

_LOG = logging.getLogger(__name__)
_NAME = r"(?P<name>[^/:]+)"
_WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL_PATH = re.compile(
    rf"/v1/models/{_NAME}{_WHICH}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_MODEL_PATH = re.compile(rf"/v1/models(?:/{_NAME})?{_WHICH}(?P<metadata>/metadata)?", re.IGNORECASE)
_MAX_BODY = 2**31 - 1
_Code = grpc.StatusCode
_STATUS = {
    _Code.OK: 200,
    _Code.CANCELLED: 499,
    _Code.INVALID_ARGUMENT: 400,
    _Code.FAILED_PRECONDITION: 400,
    _Code.OUT_OF_RANGE: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.ABORTED: 409,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.UNIMPLEMENTED: 501,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
}  # all other codes: 500


class RestServer:
    """Answers over HTTP. Runs on the current event loop; requests are processed in threads.

    Args:
        api: Api. Answers the calls.
        host: str.
        port: int. 0 takes any free one.
        threads: int. Requests that are processed at the same time.
        timeout: float. Seconds that a request may take. Defaults to 30.
        metrics_path: str or None. Path of the metrics for Prometheus; None: no metrics.
        grace: float. Seconds that requests under way have to end when it stops. Defaults to 10.
    """

    def __init__(
        self,
        api: Api,
        host: str,
        port: int,
        threads: int,
        timeout: float = 30.0,
        metrics_path: str | None = None,
        grace: float = 10.0,
    ):
        self._api, self._host, self.port = api, host, port
        self._timeout, self._metrics_path = timeout, metrics_path
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rest")
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace)

    async def start(self) -> None:
        """Starts to listen and to answer.

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port, reuse_port=False)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stops accepting requests, and lets those under way end."""
        await self._runner.cleanup()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        path = request.rel_url.raw_path
        loop = asyncio.get_running_loop()
        if self._metrics_path is not None and path == self._metrics_path:
            page = await loop.run_in_executor(self._pool, self._api.metrics.page)
            return web.Response(text=page, content_type="text/plain")
        if not path.lower().startswith("/v1/"):
            return _response(404, {"error": f"Not found: {path}"})
        body = await request.read()
        work = functools.partial(self._answered, request.method, path, body, started)
        status, text = await loop.run_in_executor(self._pool, work)
        return _response(status, text)

    def _answered(self, method: str, path: str, body: bytes, started: float):
        try:
            return 200, self._answer(method, path, body, started)
        except RequestError as error:
            return _STATUS.get(error.code, 500), {"error": shortened(error.message)}
        except Exception as error:  # a fault of this server: answered and logged
            _LOG.exception("%s %s failed", method, path)
            return 500, {"error": shortened(f"{type(error).__name__}: {error}")}

    def _answer(self, method: str, path: str, body: bytes, started: float) -> bytes | str:
        if method == "POST" and (match := _CALL_PATH.fullmatch(path)):
            if match["method"].lower() != "predict":
                raise RequestError(
                    _Code.UNIMPLEMENTED,
                    f"{match['method']} is not implemented by this development server. "
                    "Use predict.",
                )
            return self._predict(_spec(match), body, started)
        if method == "GET" and (match := _MODEL_PATH.fullmatch(path)):
            if not match["name"]:
                raise invalid("Missing model name in request.")
            return self._metadata(match) if match["metadata"] else self._status(match)
        raise invalid(f"Malformed request: {method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, started: float) -> bytes:
        def answer():
            document = json_tensors.parse(body)
            spec.signature_name = document.get("signature_name", "")
            request = predict_pb2.PredictRequest(model_spec=spec)
            with self._api.manager.borrow(spec) as servable:
                inputs = require_signature_inputs(servable, spec.signature_name)
                rows = json_tensors.fill(request, document, inputs)
                response = self._api.run(servable, request, started + self._timeout, "predict")
            return json_tensors.answer(response, rows)

        return self._api.counted(spec.name, started, answer, "predict", "REST")

    def _status(self, match: re.Match) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=_spec(match))
        return json_format.MessageToJson(
            self._api.status(request),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )

    def _metadata(self, match: re.Match) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=_spec(match), metadata_field=[METADATA_FIELD]
        )
        response = self._api.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[METADATA_FIELD].Unpack(signatures)

        def listed(message):
            return json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )

        return json.dumps(
            {
                "model_spec": listed(response.model_spec),
                "metadata": {METADATA_FIELD: listed(signatures)},
            }
        )


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
    if match["version"]:
        if int(match["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _response(status: int, content: bytes | str | dict) -> web.Response:
    if isinstance(content, dict):
        content = json.dumps(content)
    body = content if isinstance(content, bytes) else content.encode()
    return web.Response(status=status, body=body, content_type="application/json")
