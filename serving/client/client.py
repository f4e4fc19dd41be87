"""A gRPC client of an exported model: numpy in, numpy out, without TensorFlow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import TypeVar

import grpc

from serving.client.plans import (
    CHANNEL_OPTIONS,
    Call,
    Plan,
    Plans,
    prediction,
    version_states,
)
from serving.client.protos import model_service_pb2_grpc, prediction_service_pb2_grpc
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError
from tfdare.sequences.requests import Arrays

_AT_ONCE = 8
_Result = TypeVar("_Result")


class Client(Plans):
    """Ranks candidates with a served model, in one call or as search and score.

    Safe to share between threads; connections are kept and shared. Every method takes requests as
    a mapping of arrays: ``history_<feature>`` int64 ``[U, N]``, ``history_length`` int32 ``[U]``,
    ``target_<feature>`` int64 ``[U, C]``, all with raw ids, and ``history_time_gap`` and
    ``context_<name>`` where the model takes them (see :mod:`tfdare.sequences.requests`).
    :func:`serving.client.one_request` builds one from a user's lists.
    :class:`serving.client.AsyncClient` is the same for coroutines.

    Args:
        address: str. ``host:port`` of the model server, or ``dns:///host:port`` for all servers
            behind a name, called in turn.
        model: str. Name of the model, or of the score half. Defaults to "dare".
        search_address: str or None. Server of the search half. Defaults to `address`.
        search_model: str or None. Name of the search half, if it is exported separately, such as
            "dare_search" for a `model` "dare_score". Defaults to `model`.
        timeout: float. Seconds that a call may take, retries included. Defaults to 10.
        retries: int. Times a call is sent again while the server cannot be reached or its queue
            is full (UNAVAILABLE), after a random pause that doubles. Every call only reads, so
            sending it again changes nothing. Defaults to 5.
        hedge_after: float or None. Seconds without an answer after which a call is sent a second
            time; the first answer counts. Helps where a server is slow now and then, not where it
            is overloaded. Defaults to None: never.
        max_candidates: int or None. Candidates in one call at most; longer lists are sent in
            parts at the same time. Defaults to None: no limit.
        id_dtype: dtype. Of the ids as the signatures take them: int64 for raw ids, int32 where
            the model was exported over row ids. Defaults to int64.
        credentials: grpc.ChannelCredentials or None. For TLS, such as
            ``grpc.ssl_channel_credentials(ca)``, with the client's key and certificate for mutual
            TLS. Defaults to None: no encryption.
        same_version: bool. Whether search and score, served apart, must answer with the same
            version. False for a model whose attention is given and renewed by itself: the newest
            search, with the version of score that is asked for. Defaults to True.

    Raises:
        ServingError: (from every call) the call failed; carries the code and the message.

    Example:
        with Client("localhost:8500") as client:
            request = one_request({"item": [11, 12]}, {"item": [13, 14]})
            probability = client.rank(request).probability[0]
    """

    def _connect(self) -> None:
        self._channels = {address: self._channel(address) for address in self.addresses}
        self._pool = futures.ThreadPoolExecutor(_AT_ONCE, "client")  # its threads start when needed

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the client cannot be used afterwards."""
        for channel in self._channels.values():
            channel.close()
        self._pool.shutdown()

    def search(
        self,
        requests: Arrays,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> SearchResult:
        """Searches each history for the K behaviors that matter most to each candidate."""
        return self._run_plan(self.search_plan(requests, version, label), timeout)

    def score(
        self,
        requests: Arrays,
        search_result: SearchResult,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ScoreResult:
        """Scores the candidates by the behaviors that :meth:`search` returned for them."""
        return self._run_plan(self.score_plan(requests, search_result, version, label), timeout)

    def rank(
        self,
        requests: Arrays,
        split: bool = False,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> RankResult:
        """Ranks the candidates: click probabilities, and the behaviors they are based on.

        Args:
            requests: mapping of name to array.
            split: bool. Two calls, search then score, instead of ``serving_default``. Score is
                asked for the version that answered search; if it lacks that version, as during a
                roll-out, both are called again with the newest that it has. Defaults to False.
            version: int or None. Version to ask for. Defaults to the newest.
            label: str or None. Label of the version to ask for, instead of its number.
            timeout: float or None. Seconds for all calls together. Defaults to the client's.
        """
        return self._run_plan(self.rank_plan(requests, split, version, label), timeout)

    def predict(
        self,
        signature: str,
        inputs: Arrays,
        *,
        output_filter: Iterable[str] = (),
        version: int | None = None,
        label: str | None = None,
        model: str | None = None,
        address: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Calls any signature of any model; arrays are sent unchanged."""
        call = self.call(
            signature,
            inputs,
            output_filter=output_filter,
            version=version,
            label=label,
            model=model,
            address=address,
        )
        return self._send(call, self.deadline(timeout))

    def versions(self, model: str | None = None, timeout: float | None = None) -> dict[int, str]:
        """Returns every version that the server knows, and its state, such as "AVAILABLE"."""
        stub = model_service_pb2_grpc.ModelServiceStub(self._channels[self.address])
        request = self.status_request(model)
        return version_states(
            self._send_with_retries(
                stub.GetModelStatus, request, self.address, self.deadline(timeout)
            )
        )

    def _channel(self, address: str) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        return grpc.secure_channel(address, self.credentials, options=CHANNEL_OPTIONS)

    def _run_plan(self, plan: Plan[_Result], timeout: float | None) -> _Result:
        deadline = self.deadline(timeout)
        try:
            calls = next(plan)
            while True:
                try:
                    answers = self._send_all(calls, deadline)
                except ServingError as error:
                    calls = plan.throw(error)
                else:
                    calls = plan.send(answers)
        except StopIteration as end:
            return end.value

    def _send_all(self, calls: Sequence[Call], deadline: float) -> list[Prediction]:
        if len(calls) == 1:
            return [self._send(calls[0], deadline)]
        return list(self._pool.map(lambda call: self._send(call, deadline), calls))

    def _send(self, call: Call, deadline: float) -> Prediction:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channels[call.address])
        return prediction(
            self._send_with_retries(stub.Predict, call.request, call.address, deadline)
        )

    def _send_with_retries(self, method, request, address: str, deadline: float):
        attempt = 0
        while True:
            try:
                left = max(deadline - time.monotonic(), 0.001)
                if self.hedge_after is None or self.hedge_after >= left:
                    return method(request, timeout=left)
                return _hedged(method, request, left, self.hedge_after)
            except grpc.RpcError as error:
                pause, left = self.retry_pause(attempt), deadline - time.monotonic()
                if not self.should_retry(error.code(), attempt, pause, left):
                    raise ServingError(error.code(), error.details() or "", address) from error
                attempt += 1
                time.sleep(pause)


def _hedged(method, request, timeout: float, after: float):
    """Sends a call, and once more after `after` seconds without a reply; returns the first reply.

    The other call is cancelled. An error is raised only if no other call is under way.
    """
    until, done = time.monotonic() + timeout, threading.Semaphore(0)
    calls = [method.future(request, timeout=timeout)]
    calls[0].add_done_callback(lambda _: done.release())
    if not done.acquire(timeout=after):
        calls.append(method.future(request, timeout=max(until - time.monotonic(), 0.001)))
        calls[1].add_done_callback(lambda _: done.release())
        done.acquire()
    if all(call.code() is not grpc.StatusCode.OK for call in calls if call.done()):
        if not all(call.done() for call in calls):
            done.acquire()
    ended = [call for call in calls if call.done()]
    best = next((call for call in ended if call.code() is grpc.StatusCode.OK), ended[0])
    for call in calls:
        if call is not best:
            call.cancel()
    return best.result()
