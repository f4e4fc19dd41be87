"""The client for coroutines: as :mod:`serving.client`, on ``grpc.aio``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np

from serving.client.plans import CHANNEL_OPTIONS, Call, Plan, Plans, prediction, version_states
from serving.client.protos import model_service_pb2_grpc, prediction_service_pb2_grpc
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError


class AsyncClient(Plans):
    """Ranks candidates with a served model; every method is a coroutine.

    Takes what :class:`serving.client.Client` takes, and gives back the same. To be made and used
    inside one event loop; a call that is cancelled is cancelled at the server, too.

    Example:
        async with AsyncClient("localhost:8500") as client:
            first, second = await asyncio.gather(client.rank(one), client.rank(two))
    """

    def __init__(self, address: str, model: str = "dare", **settings):
        super().__init__(address, model, **settings)
        self._channels = {name: self._channel(name) for name in self.addresses}

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
        requests: Mapping[str, np.ndarray],
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> SearchResult:
        """The K behaviors of each history that matter most to each candidate."""
        return await self._carried_out(self.search_plan(requests, version, label), timeout)

    async def score(
        self,
        requests: Mapping[str, np.ndarray],
        found: SearchResult,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ScoreResult:
        """Click probabilities of the candidates, given what search found for them."""
        return await self._carried_out(self.score_plan(requests, found, version, label), timeout)

    async def rank(
        self,
        requests: Mapping[str, np.ndarray],
        split: bool = False,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout: float | None = None,
    ) -> RankResult:
        """Click probabilities of the candidates, and the behaviors they rest on."""
        return await self._carried_out(self.rank_plan(requests, split, version, label), timeout)

    async def predict(
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
        call = self.call(
            signature,
            inputs,
            output_filter=output_filter,
            version=version,
            label=label,
            model=model,
            address=address,
        )
        return await self._made(call, self.until(timeout))

    async def versions(
        self, model: str | None = None, timeout: float | None = None
    ) -> dict[int, str]:
        """Every version that the server knows, and its state, such as "AVAILABLE"."""
        stub = model_service_pb2_grpc.ModelServiceStub(self._channels[self.address])
        response = await self._sent_until(
            stub.GetModelStatus, self.status_request(model), self.address, self.until(timeout)
        )
        return version_states(response)

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(address, self.credentials, options=CHANNEL_OPTIONS)

    async def _carried_out(self, plan: Plan, timeout: float | None):
        until = self.until(timeout)
        try:
            calls = next(plan)
            while True:
                try:
                    answers = await self._all(calls, until)
                except ServingError as error:
                    calls = plan.throw(error)
                else:
                    calls = plan.send(answers)
        except StopIteration as end:
            return end.value

    async def _all(self, calls: Sequence[Call], until: float) -> list[Prediction]:
        return await asyncio.gather(*(self._made(call, until) for call in calls))

    async def _made(self, call: Call, until: float) -> Prediction:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channels[call.address])
        return prediction(await self._sent_until(stub.Predict, call.request, call.address, until))

    async def _sent_until(self, method, request, address: str, until: float):
        attempt = 0
        while True:
            try:
                left = max(until - time.monotonic(), 0.001)
                if self.hedge_after is None or self.hedge_after >= left:
                    return await method(request, timeout=left)
                return await _hedged(method, request, left, self.hedge_after)
            except grpc.RpcError as error:
                pause, left = self.pause(attempt), until - time.monotonic()
                if not self.again(error.code(), attempt, pause, left):
                    raise ServingError(error.code(), error.details() or "", address) from error
                attempt += 1
                await asyncio.sleep(pause)


async def _hedged(method, request, timeout: float, after: float):
    """The first answer of up to two calls, the second sent after a pause; the other is given up.

    An error counts only where no other call is under way.
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
