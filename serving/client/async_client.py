"""The client for coroutines: :class:`serving.client.Client` on ``grpc.aio``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
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

_Result = TypeVar("_Result")


class AsyncClient(Plans):
    """Ranks candidates with a served model; every method is a coroutine.

    Arguments, methods and results are those of :class:`serving.client.Client`. It can be used only
    in the event loop in which it is created; cancelling a call cancels it at the server, too.

    Example:
        async with AsyncClient("localhost:8500") as client:
            results = await asyncio.gather(client.rank(first), client.rank(second))
    """

    def _connect(self) -> None:
        self._channels = {address: self._channel(address) for address in self.addresses}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; the client cannot be used afterwards."""
        for channel in self._channels.values():
            await channel.close()

    async def search(
        self,
        requests: Arrays,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> SearchResult:
        """Searches each history for the K behaviors that matter most to each candidate."""
        return await self._run_plan(self.search_plan(requests, version, label), timeout)

    async def score(
        self,
        requests: Arrays,
        search_result: SearchResult,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ScoreResult:
        """Scores the candidates by the behaviors that :meth:`search` returned for them."""
        return await self._run_plan(
            self.score_plan(requests, search_result, version, label), timeout
        )

    async def rank(
        self,
        requests: Arrays,
        split: bool = False,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> RankResult:
        """Ranks the candidates: click probabilities, and the behaviors they are based on."""
        return await self._run_plan(self.rank_plan(requests, split, version, label), timeout)

    async def predict(
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
        return await self._send(call, self.deadline(timeout))

    async def versions(
        self, model: str | None = None, timeout: float | None = None
    ) -> dict[int, str]:
        """Returns every version that the server knows, and its state, such as "AVAILABLE"."""
        stub = model_service_pb2_grpc.ModelServiceStub(self._channels[self.address])
        response = await self._send_with_retries(
            stub.GetModelStatus, self.status_request(model), self.address, self.deadline(timeout)
        )
        return version_states(response)

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(address, self.credentials, options=CHANNEL_OPTIONS)

    async def _run_plan(self, plan: Plan[_Result], timeout: float | None) -> _Result:
        deadline = self.deadline(timeout)
        try:
            calls = next(plan)
            while True:
                try:
                    answers = await self._send_all(calls, deadline)
                except ServingError as error:
                    calls = plan.throw(error)
                else:
                    calls = plan.send(answers)
        except StopIteration as end:
            return end.value

    async def _send_all(self, calls: Sequence[Call], deadline: float) -> list[Prediction]:
        return await asyncio.gather(*(self._send(call, deadline) for call in calls))

    async def _send(self, call: Call, deadline: float) -> Prediction:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channels[call.address])
        return prediction(
            await self._send_with_retries(stub.Predict, call.request, call.address, deadline)
        )

    async def _send_with_retries(self, method, request, address: str, deadline: float):
        attempt = 0
        while True:
            try:
                left = max(deadline - time.monotonic(), 0.001)
                if self.hedge_after is None or self.hedge_after >= left:
                    return await method(request, timeout=left)
                return await _hedged(method, request, left, self.hedge_after)
            except grpc.RpcError as error:
                pause, left = self.retry_pause(attempt), deadline - time.monotonic()
                if not self.should_retry(error.code(), attempt, pause, left):
                    raise ServingError(error.code(), error.details() or "", address) from error
                attempt += 1
                await asyncio.sleep(pause)


async def _hedged(method, request, timeout: float, after: float):
    """Sends a call, and once more after `after` seconds without a reply; returns the first reply.

    The other call is cancelled. An error is raised only if no other call is under way.
    """

    async def ask(left: float):
        return await method(request, timeout=left)

    calls = {asyncio.ensure_future(ask(timeout))}
    try:
        done, _ = await asyncio.wait(calls, timeout=after)
        if not done:
            calls.add(asyncio.ensure_future(ask(timeout - after)))
        waiting = set(calls)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                if call.exception() is None or not waiting:
                    return call.result()
    finally:
        for call in calls:
            call.cancel()
