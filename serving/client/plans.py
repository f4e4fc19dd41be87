"""Calls and plans, which the clients share; the clients themselves send calls over gRPC.

A call is one ``Predict`` request and the address that it goes to. A plan is a generator that makes
up a method of the client: it yields calls, which may be sent at the same time, receives their
predictions, and returns the result. :mod:`serving.client.client` and
:mod:`serving.client.async_client` run plans.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
from numpy.typing import DTypeLike

from serving.client.protos import get_model_status_pb2, model_pb2, predict_pb2
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError
from serving.client.tensors import from_proto, to_proto
from tfdare.sequences.requests import (
    TARGET,
    Arrays,
    checked,
    score_inputs,
    search_inputs,
    split_candidates,
)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the default of 4 MB holds few users' scores
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # servers that share a name are called in turn: "dns:///search.default.svc:8500"
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Call:
    """A ``Predict`` request, and the address that it goes to."""

    address: str
    request: predict_pb2.PredictRequest

    def with_version(self, version: int) -> Call:
        """Returns the same call, to another version."""
        request = predict_pb2.PredictRequest()
        request.CopyFrom(self.request)
        request.model_spec.version.value = version
        return Call(self.address, request)


Plan = Generator[Sequence[Call], Sequence[Prediction], _Result]


class Plans:
    """Settings of a client and its plans, for the clients to inherit.

    The arguments are described at :class:`serving.client.Client`.
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
        hedge_after: float | None = None,
        max_candidates: int | None = None,
        id_dtype: DTypeLike = np.int64,
        credentials: grpc.ChannelCredentials | None = None,
        same_version: bool = True,
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
        self.same_version = same_version
        self._connect()

    def _connect(self) -> None:
        raise NotImplementedError

    @property
    def addresses(self) -> set[str]:
        """Addresses of the servers that the client calls."""
        return {self.address, self.search_address}

    def deadline(self, timeout: float | None) -> float:
        """Returns the ``time.monotonic()`` at which a call that begins now is given up."""
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def retry_pause(self, attempt: int) -> float:
        """Returns the seconds to wait after failed attempt ``attempt``: doubling, with jitter."""
        return random.uniform(0.5, 1.0) * min(0.1 * 2**attempt, 2.0)

    def should_retry(self, code: grpc.StatusCode, attempt: int, pause: float, left: float) -> bool:
        """Returns whether a call whose attempt ``attempt`` (from 0) failed is sent again.

        That is so only where the server cannot be reached or its queue is full (UNAVAILABLE): any
        other error would recur.
        """
        unavailable = code is grpc.StatusCode.UNAVAILABLE
        return unavailable and attempt < self.retries and pause < left

    def call(
        self,
        signature: str,
        inputs: Arrays,
        *,
        output_filter: Iterable[str] = (),
        version: int | None = None,
        label: str | None = None,
        model: str | None = None,
        address: str | None = None,
    ) -> Call:
        """Builds a call of any signature; arrays are sent unchanged."""
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
        """Builds a request for the states of a model's versions."""
        spec = model_pb2.ModelSpec(name=model or self.model)
        return get_model_status_pb2.GetModelStatusRequest(model_spec=spec)

    def search_plan(
        self, requests: Arrays, version: int | None, label: str | None = None
    ) -> Plan[SearchResult]:
        """Plans ``search``."""
        inputs = search_inputs(requests)
        outputs, newest = yield from self._predict_all(
            "search", inputs, version, label, self.search_model, self.search_address
        )
        return SearchResult(
            outputs["behavior_index"],
            outputs["attention_score"],
            newest,
            outputs.get("mean_score"),
        )

    def score_plan(
        self,
        requests: Arrays,
        search_result: SearchResult,
        version: int | None,
        label: str | None = None,
    ) -> Plan[ScoreResult]:
        """Plans ``score`` of the behaviors that search returned."""
        inputs = score_inputs(
            requests,
            search_result.behavior_index,
            search_result.attention_score,
            search_result.mean_score,
        )
        outputs, newest = yield from self._predict_all("score", inputs, version, label)
        return ScoreResult(outputs["probability"], newest)

    def rank_plan(
        self, requests: Arrays, split: bool, version: int | None, label: str | None = None
    ) -> Plan[RankResult]:
        """Plans ``rank``: in one call, or, with `split`, as search and then score."""
        if not split:
            inputs = checked(requests)
            outputs, newest = yield from self._predict_all(
                "serving_default", inputs, version, label
            )
            return RankResult(
                outputs["probability"],
                outputs.get("behavior_index"),
                outputs.get("attention_score"),
                newest,
            )
        same = (self.search_address, self.search_model) == (self.address, self.model)
        if not same and not self.same_version:
            kept = yield from self.search_plan(requests, None)
            scored = yield from self.score_plan(requests, kept, version, label)
            return _ranked(kept, scored)
        wanted = version
        for last in (False, True):
            kept = yield from self.search_plan(requests, wanted, label if wanted is None else None)
            try:
                scored = yield from self.score_plan(requests, kept, kept.version)
                break
            except ServingError as error:
                if last or version is not None or error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
            # One of the two has switched to a version that the other does not have.
            if not same:
                wanted = (yield from self.score_plan(requests, kept, None, label)).version
        return _ranked(kept, scored)

    def _predict_all(
        self,
        signature: str,
        inputs: Arrays,
        version: int | None,
        label: str | None,
        model: str | None = None,
        address: str | None = None,
    ) -> Plan[tuple[dict[str, np.ndarray], int]]:
        """Plans a signature for all candidates; returns the outputs and their common version."""
        parts = split_candidates(inputs, self.max_candidates)
        calls = [
            self.call(
                signature,
                self._with_id_dtype(part),
                version=version,
                label=label,
                model=model,
                address=address,
            )
            for part in parts
        ]
        answers = list((yield calls))
        newest = max(answer.version for answer in answers)
        behind = [i for i, answer in enumerate(answers) if answer.version != newest]
        if behind:  # the server switched to a newer version between the parts
            for i, answer in zip(behind, (yield [calls[i].with_version(newest) for i in behind])):
                answers[i] = answer
        outputs = {}
        for name in answers[0].outputs:
            pieces = [
                answer.outputs[name][:, : _candidates(part)]  # a server that batches may pad
                for answer, part in zip(answers, parts)
            ]
            outputs[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        return outputs, newest

    def _with_id_dtype(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return {
            name: value.astype(self.id_dtype, copy=False) if value.dtype == np.int64 else value
            for name, value in inputs.items()
        }


def prediction(response: predict_pb2.PredictResponse) -> Prediction:
    """Reads a reply, its outputs as arrays."""
    return Prediction(
        {name: from_proto(proto) for name, proto in response.outputs.items()},
        response.model_spec.name,
        response.model_spec.version.value,
    )


def version_states(response: get_model_status_pb2.GetModelStatusResponse) -> dict[int, str]:
    """Reads a reply as a mapping of version to the name of its state."""
    name = get_model_status_pb2.ModelVersionStatus.State.Name
    return {status.version: name(status.state) for status in response.model_version_status}


def _ranked(kept: SearchResult, scored: ScoreResult) -> RankResult:
    return RankResult(
        scored.probability,
        kept.behavior_index,
        kept.attention_score,
        scored.version,
        kept.mean_score,
    )


def _candidates(inputs: Arrays) -> int:
    return next(value.shape[1] for name, value in inputs.items() if name.startswith(TARGET))
