"""What the clients send, and what they make of the answers; how it travels is not decided here.

A plan is a generator: it yields calls that may be made at the same time, is sent their answers,
and returns the result. :mod:`serving.client.client` and
:mod:`serving.client.async_client` carry plans out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np

from serving.client.protos import get_model_status_pb2, model_pb2, predict_pb2
from serving.client.requests import TARGET, checked, score_inputs, search_inputs, split_candidates
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError
from serving.client.tensors import from_proto, to_proto

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # gRPC's own limit of 4 MB is a few users' scores
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # a name that stands for several servers is asked in turn: "dns:///search.default.svc:8500"
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Call:
    """One ``Predict`` to make, and whom to ask."""

    address: str
    request: predict_pb2.PredictRequest

    def at(self, version: int) -> Call:
        """The same of another version."""
        request = predict_pb2.PredictRequest()
        request.CopyFrom(self.request)
        request.model_spec.version.value = version
        return Call(self.address, request)


Plan = Generator[Sequence[Call], Sequence[Prediction], _Result]


class Plans:
    """Settings of a client, and its plans. See :class:`serving.client.Client`."""

    def __init__(
        self,
        address: str,
        model: str = "dare",
        *,
        search_address: str | None = None,
        search_model: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        hedge_after: float | None = None,
        max_candidates: int | None = None,
        id_dtype: type = np.int64,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        if not timeout > 0 or retries < 0:
            raise ValueError(
                "`timeout` must be positive and `retries` not negative. "
                f"Received: timeout={timeout}, retries={retries}"
            )
        for name, value in (("hedge_after", hedge_after), ("max_candidates", max_candidates)):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive or None. Received: {value}")
        self.address = address
        self.model = model
        self.search_address = search_address or address
        self.search_model = search_model or model
        self.timeout = timeout
        self.retries = retries
        self.hedge_after = hedge_after
        self.max_candidates = max_candidates
        self.id_dtype = np.dtype(id_dtype)
        self.credentials = credentials

    @property
    def addresses(self) -> set[str]:
        """Everyone whom the client asks."""
        return {self.address, self.search_address}

    def until(self, timeout: float | None) -> float:
        """``time.monotonic()`` when a call that begins now is given up."""
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def pause(self, attempt: int) -> float:
        """Seconds before a call is sent again after ``attempt`` failures: doubling, with jitter."""
        return random.uniform(0.5, 1.0) * min(0.1 * 2**attempt, 2.0)

    def again(self, code: grpc.StatusCode, attempt: int, pause: float, left: float) -> bool:
        """Whether a call that failed for the time ``attempt`` (from 0) is sent again.

        Only where the server cannot be reached or is full (UNAVAILABLE): what else it answers, it
        would answer again.
        """
        unreachable = code is grpc.StatusCode.UNAVAILABLE
        return unreachable and attempt < self.retries and pause < left

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        output_filter: Iterable[str] = (),
        version: int | None = None,
        label: str | None = None,
        model: str | None = None,
        address: str | None = None,
    ) -> Call:
        """A call of any signature, the arrays as they are."""
        if version is not None and label is not None:
            raise ValueError(f"Give a version or a label. Received: {version} and {label!r}")
        address = address or self.address
        if address not in self.addresses:
            raise ValueError(
                f"`address` must be one of {sorted(self.addresses)}. Received: {address!r}"
            )
        request = predict_pb2.PredictRequest(output_filter=output_filter)
        request.model_spec.name = model or self.model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(to_proto(value))
        return Call(address, request)

    def status_request(self, model: str | None) -> get_model_status_pb2.GetModelStatusRequest:
        """A request for the states of a model's versions."""
        spec = model_pb2.ModelSpec(name=model or self.model)
        return get_model_status_pb2.GetModelStatusRequest(model_spec=spec)

    def search_plan(self, requests, version, label=None) -> Plan[SearchResult]:
        """Of ``search``."""
        inputs = search_inputs(requests)
        outputs, newest = yield from self._asked(
            "search", inputs, version, label, self.search_model, self.search_address
        )
        return SearchResult(outputs["behavior_index"], outputs["attention_score"], newest)

    def score_plan(self, requests, found, version, label=None) -> Plan[ScoreResult]:
        """Of ``score``, given what search found."""
        inputs = score_inputs(requests, found.behavior_index, found.attention_score)
        outputs, newest = yield from self._asked("score", inputs, version, label)
        return ScoreResult(outputs["probability"], newest)

    def rank_plan(self, requests, split, version, label=None) -> Plan[RankResult]:
        """Of both: in one call, or in two."""
        if not split:
            inputs = checked(requests)
            outputs, newest = yield from self._asked("serving_default", inputs, version, label)
            return RankResult(
                outputs["probability"],
                outputs.get("behavior_index"),
                outputs.get("attention_score"),
                newest,
            )
        same = (self.search_address, self.search_model) == (self.address, self.model)
        wanted = version
        for last in (False, True):
            found = yield from self.search_plan(requests, wanted, label if wanted is None else None)
            try:
                scored = yield from self.score_plan(requests, found, found.version)
                break
            except ServingError as error:
                if last or version is not None or error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
            # One of the two has gone over to a version that the other does not have.
            if not same:
                wanted = (yield from self.score_plan(requests, found, None, label)).version
        return RankResult(
            scored.probability, found.behavior_index, found.attention_score, scored.version
        )

    def _asked(self, signature, inputs, version, label, model=None, address=None):
        """Outputs of all candidates, and the one version that they are of."""
        parts = split_candidates(inputs, self.max_candidates)
        calls = [
            self.call(
                signature,
                self._sent(part),
                version=version,
                label=label,
                model=model,
                address=address,
            )
            for part in parts
        ]
        answers = list((yield calls))
        newest = max(answer.version for answer in answers)
        behind = [place for place, one in enumerate(answers) if one.version != newest]
        if behind:  # the server went over to a newer version between the parts
            for place, answer in zip(behind, (yield [calls[p].at(newest) for p in behind])):
                answers[place] = answer
        outputs = {}
        for name in answers[0].outputs:
            pieces = [
                answer.outputs[name][:, : _candidates(part)]  # a server that batches adds some
                for answer, part in zip(answers, parts)
            ]
            outputs[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        return outputs, newest

    def _sent(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: value.astype(self.id_dtype, copy=False) if value.dtype == np.int64 else value
            for name, value in inputs.items()
        }


def prediction(response: predict_pb2.PredictResponse) -> Prediction:
    """A reply with its outputs as arrays."""
    return Prediction(
        {name: from_proto(proto) for name, proto in response.outputs.items()},
        response.model_spec.name,
        response.model_spec.version.value,
    )


def version_states(response: get_model_status_pb2.GetModelStatusResponse) -> dict[int, str]:
    """Version to the name of its state."""
    name = get_model_status_pb2.ModelVersionStatus.State.Name
    return {status.version: name(status.state) for status in response.model_version_status}


def _candidates(inputs: Mapping[str, np.ndarray]) -> int:
    return next(value.shape[1] for name, value in inputs.items() if name.startswith(TARGET))
