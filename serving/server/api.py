"""The calls that the server answers, the same over gRPC and REST."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from serving.client.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)
from serving.server.config import models_of
from serving.server.errors import RequestError, invalid, shortened
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.predict import predict, resolved
from serving.server.servable import Servable
from serving.server.watcher import Watcher

_Answer = TypeVar("_Answer")
METADATA_FIELD = "signature_def"
EXPIRED = "Deadline Exceeded"


class Api:
    """The calls of ``PredictionService`` and ``ModelService``, from any thread.

    Args:
        manager: Manager. The models that are served.
        metrics: Metrics or None. Counts the requests. Defaults to new ones.
        watcher: Watcher or None. Woken when the models change.

    Raises:
        RequestError: (from every call) the request cannot be answered; carries code and message.
    """

    def __init__(
        self, manager: Manager, metrics: Metrics | None = None, watcher: Watcher | None = None
    ):
        self.manager, self.metrics, self._watcher = manager, metrics or Metrics(), watcher

    def predict(
        self,
        request: predict_pb2.PredictRequest,
        started: float,
        deadline: float | None = None,
    ) -> predict_pb2.PredictResponse:
        """Runs a signature.

        Args:
            request: PredictRequest.
            started: float. ``time.monotonic()`` when the call came.
            deadline: float or None. ``time.monotonic()`` when the caller gives up.
        """

        def answer():
            _require_spec(request)
            with self.manager.borrow(request.model_spec) as servable:
                return self.run(servable, request, deadline)

        return self.counted(request.model_spec.name, started, answer)

    def run(
        self,
        servable: Servable,
        request: predict_pb2.PredictRequest,
        deadline: float | None,
        api: str = "Predict",
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of a version that the caller has borrowed from the manager."""
        timeout = None if deadline is None else deadline - time.monotonic()
        if timeout is not None and timeout <= 0:
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, EXPIRED)

        def timed(*arguments):
            started = time.monotonic()
            values = servable.run(*arguments)
            self.metrics.runtime_latency(servable.name, api, time.monotonic() - started)
            return values

        return predict(servable, request, timeout, timed)

    def counted(
        self,
        model: str,
        started: float,
        answer: Callable[[], _Answer],
        api: str = "Predict",
        entrypoint: str = "GRPC",
    ) -> _Answer:
        """Returns ``answer()`` and counts the request by its outcome.

        Names of models that are not served are counted as "": callers choose them, and each new
        name would take memory for ever.
        """
        name = model if self.manager.knows(model) else ""
        code = grpc.StatusCode.INTERNAL
        try:
            answered = answer()
            code = grpc.StatusCode.OK
        except RequestError as error:
            code = error.code
            raise
        finally:
            self.metrics.request(name, code.name)
        self.metrics.request_latency(name, api, entrypoint, time.monotonic() - started)
        return answered

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version."""
        _require_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != METADATA_FIELD:
                raise invalid(f"Metadata field {name} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.manager.borrow(request.model_spec) as servable:
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            spec = resolved(servable)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        response.metadata[METADATA_FIELD].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of every version of a model, and why it failed to load if it did."""
        _require_spec(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.manager.status(request.model_spec):
            status = response.model_version_status.add(version=version.version, state=version.state)
            status.status.error_code = version.code.value[0]
            status.status.error_message = shortened(version.message)
        return response

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Applies a new, complete configuration.

        New models are loaded before it answers. New versions of models that are already served are
        not waited for, as in the stock server.
        """
        self.manager.configure(models_of(request.config))
        if self._watcher is not None:
            self._watcher.wake()
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _require_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
