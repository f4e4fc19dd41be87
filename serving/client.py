"""A gRPC client of an exported model: numpy in, numpy out, without TensorFlow."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Iterable, Mapping

import grpc
import numpy as np

from serving.protos import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from serving.requests import checked, one_request, score_inputs, search_inputs, stack
from serving.tensors import from_proto, to_proto

__all__ = [
    "Client",
    "Prediction",
    "RankResult",
    "ScoreResult",
    "SearchResult",
    "ServingError",
    "one_request",
    "score_inputs",
    "stack",
]

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # gRPC's own limit of 4 MB is a few users' scores
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class ServingError(Exception):
    """A call that the server, or the way to it, answered with an error.

    Attributes:
        code: grpc.StatusCode. For instance ``grpc.StatusCode.NOT_FOUND``.
        message: str. The server's own words.
        address: str. Who was asked.
    """

    def __init__(self, code: grpc.StatusCode, message: str, address: str):
        super().__init__(f"{code.name} from {address}: {message}")
        self.code = code
        self.message = message
        self.address = address


@dataclass(frozen=True)
class Prediction:
    """Outputs of one signature, and which version answered.

    Attributes:
        outputs: mapping of output name to array.
        model: str. The model that answered.
        version: int. Its version.
    """

    outputs: Mapping[str, np.ndarray]
    model: str
    version: int


@dataclass(frozen=True)
class SearchResult:
    """What search found.

    Attributes:
        behavior_index: int32 ``[U, C, K]``. Index into the history, -1 for none.
        attention_score: float32 ``[U, C, K]``. 0 where there is none.
        version: int. The version that answered.
    """

    behavior_index: np.ndarray
    attention_score: np.ndarray
    version: int


@dataclass(frozen=True)
class ScoreResult:
    """Click probabilities.

    Attributes:
        probability: float32 ``[U, C]``.
        version: int. The version that answered.
    """

    probability: np.ndarray
    version: int


@dataclass(frozen=True)
class RankResult:
    """Click probabilities, and the behaviors that they rest on.

    Attributes:
        probability: float32 ``[U, C]``.
        behavior_index: int32 ``[U, C, K]`` or None. Index into the history, -1 for none; None
            where the model does not search.
        attention_score: float32 ``[U, C, K]`` or None. 0 where there is none.
        version: int. The version that answered (of score, where there were two calls).
    """

    probability: np.ndarray
    behavior_index: np.ndarray | None
    attention_score: np.ndarray | None
    version: int


class Client:
    """Ranks candidates with a served model, in one call or as search and score.

    Safe to share between threads. Every method takes requests as a mapping of arrays:
    ``history_<feature>`` int64 ``[U, N]``, ``history_length`` int32 ``[U]``, ``target_<feature>``
    int64 ``[U, C]``, all with raw ids, and ``history_time_gap`` and ``context_<name>`` where the
    model takes them (see :mod:`serving.requests`). :func:`one_request` makes one from a user's
    lists.

    Args:
        address: str. ``host:port`` of the model server.
        model: str. Name of the model. Defaults to "dare".
        search_address: str or None. Server of the search half, where it is another one.
        search_model: str or None. Name of the search half, where it is exported apart.
        timeout: float. Seconds that a call may take, retries included. Defaults to 10.
        retries: int. Times a call is sent again while the server cannot be reached (UNAVAILABLE),
            after a random pause that doubles. Defaults to 5.
        id_dtype: dtype. Of the ids as the signatures take them: int64 for raw ids, int32 where
            the model was exported over row ids. Defaults to int64.

    Raises:
        ServingError: (from every call) the call failed; carries the code and the message.

    Example:
        with Client("localhost:8500") as client:
            request = one_request({"item": [11, 12]}, {"item": [13, 14]})
            probability = client.rank(request).probability[0]
    """

    def __init__(
        self,
        address: str,
        model: str = "dare",
        *,
        search_address: str | None = None,
        search_model: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        id_dtype: type = np.int64,
    ):
        if not timeout > 0 or retries < 0:
            raise ValueError(
                "`timeout` must be positive and `retries` not negative. "
                f"Received: timeout={timeout}, retries={retries}"
            )
        self.address = address
        self.model = model
        self.search_address = search_address or address
        self.search_model = search_model or model
        self.timeout = timeout
        self.retries = retries
        self.id_dtype = np.dtype(id_dtype)
        self._channels = {
            name: grpc.insecure_channel(name, options=_OPTIONS)
            for name in {self.address, self.search_address}
        }

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the client cannot be used afterwards."""
        for channel in self._channels.values():
            channel.close()

    def search(
        self,
        requests: Mapping[str, np.ndarray],
        version: int | None = None,
        *,
        timeout: float | None = None,
    ) -> SearchResult:
        """The K behaviors of each history that matter most to each candidate."""
        answer = self.predict(
            "search", self._sent(search_inputs(requests)), version=version, timeout=timeout,
            model=self.search_model, address=self.search_address,
        )
        return SearchResult(
            answer.outputs["behavior_index"], answer.outputs["attention_score"], answer.version
        )

    def score(
        self,
        requests: Mapping[str, np.ndarray],
        found: SearchResult,
        version: int | None = None,
        *,
        timeout: float | None = None,
    ) -> ScoreResult:
        """Click probabilities of the candidates, given what search found for them."""
        inputs = score_inputs(requests, found.behavior_index, found.attention_score)
        answer = self.predict("score", self._sent(inputs), version=version, timeout=timeout)
        return ScoreResult(answer.outputs["probability"], answer.version)

    def rank(
        self,
        requests: Mapping[str, np.ndarray],
        split: bool = False,
        version: int | None = None,
        *,
        timeout: float | None = None,
    ) -> RankResult:
        """Click probabilities of the candidates, and the behaviors they rest on.

        Args:
            requests: mapping of name to array.
            split: bool. Two calls, search then score, instead of ``serving_default``. Where one
                model answers both, score asks for the version that search had. Defaults to False.
            version: int or None. Version to ask for. Defaults to the newest.
            timeout: float or None. Seconds for the whole, instead of the client's.
        """
        timeout = self.timeout if timeout is None else timeout
        if not split:
            answer = self.predict(
                "serving_default", self._sent(checked(requests)), version=version, timeout=timeout
            )
            outputs = answer.outputs
            return RankResult(
                outputs["probability"],
                outputs.get("behavior_index"),
                outputs.get("attention_score"),
                answer.version,
            )
        until = time.monotonic() + timeout
        same = (self.search_address, self.search_model) == (self.address, self.model)
        for last in (False, True):
            found = self.search(requests, version, timeout=_left(until))
            wanted = found.version if same else version
            try:
                scored = self.score(requests, found, wanted, timeout=_left(until))
                break
            except ServingError as error:
                replaced = same and version is None and error.code is grpc.StatusCode.NOT_FOUND
                if last or not replaced:  # else the server went over to a newer version meanwhile
                    raise
        return RankResult(
            scored.probability, found.behavior_index, found.attention_score, scored.version
        )

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        output_filter: Iterable[str] = (),
        version: int | None = None,
        label: str | None = None,
        model: str | None = None,
        address: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Any signature of any model, the arrays sent as they are."""
        if version is not None and label is not None:
            raise ValueError(f"Give a version or a label. Received: {version} and {label!r}")
        request = predict_pb2.PredictRequest(output_filter=output_filter)
        request.model_spec.name = model or self.model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(to_proto(value))
        address = address or self.address
        if address not in self._channels:
            raise ValueError(
                f"`address` must be one of {sorted(self._channels)}. Received: {address!r}"
            )
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channels[address])
        response = self._call(stub.Predict, request, address, timeout)
        return Prediction(
            {name: from_proto(proto) for name, proto in response.outputs.items()},
            response.model_spec.name,
            response.model_spec.version.value,
        )

    def versions(self, model: str | None = None, timeout: float | None = None) -> dict[int, str]:
        """Every version that the server knows, and its state, such as "AVAILABLE"."""
        spec = model_pb2.ModelSpec(name=model or self.model)
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        stub = model_service_pb2_grpc.ModelServiceStub(self._channels[self.address])
        response = self._call(stub.GetModelStatus, request, self.address, timeout)
        name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {status.version: name(status.state) for status in response.model_version_status}

    def _sent(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: value.astype(self.id_dtype, copy=False) if value.dtype == np.int64 else value
            for name, value in inputs.items()
        }

    def _call(self, method, request, address: str, timeout: float | None):
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        attempt = 0
        while True:
            try:
                return method(request, timeout=_left(until))
            except grpc.RpcError as error:
                left = until - time.monotonic()
                pause = random.uniform(0.5, 1.0) * min(0.1 * 2**attempt, 2.0)
                attempt += 1
                unreachable = error.code() is grpc.StatusCode.UNAVAILABLE
                if not unreachable or attempt > self.retries or pause >= left:
                    raise ServingError(error.code(), error.details() or "", address) from error
                time.sleep(pause)


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)
