"""The client for coroutines, and what both clients share: parts, retries, labels."""

import asyncio
import concurrent.futures
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from serving.client import AsyncClient, Client, ServingError
from serving.client.protos import predict_pb2
from tfdare.sequences.requests import split_candidates

Code = grpc.StatusCode


def run(address, use, **settings):
    """Runs ``use(client)`` with an AsyncClient, inside an event loop."""

    async def go():
        async with AsyncClient(address, timeout=60, **settings) as client:
            return await use(client)

    return asyncio.run(go())


def equal(first, second):
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-6)
    np.testing.assert_array_equal(first.behavior_index, second.behavior_index)
    np.testing.assert_allclose(first.attention_score, second.attention_score, atol=1e-6)
    assert first.version == second.version


def test_both_clients_give_the_same_answers(own_server, client, requests_of):
    requests = [requests_of(2, 25, 4, seed) for seed in range(6)]

    async def use(other):
        whole = await asyncio.gather(*(other.rank(request) for request in requests))
        split = await asyncio.gather(*(other.rank(request, split=True) for request in requests))
        search_results = await other.search(requests[0])
        scored = await other.score(requests[0], search_results)
        kept = await other.predict("search", requests[0], output_filter=["behavior_index"])
        return whole, split, scored, kept, await other.versions()

    whole, split, scored, kept, versions = run(own_server.address, use)
    for request, whole_answer, split_answer in zip(requests, whole, split):
        expected = client.rank(request)
        equal(whole_answer, expected)
        equal(split_answer, expected)
    np.testing.assert_allclose(scored.probability, whole[0].probability, atol=1e-6)
    assert set(kept.outputs) == {"behavior_index"} and versions == {1: "AVAILABLE"}


def test_errors_and_deadlines(own_server, requests_of):
    async def use(other):
        with pytest.raises(ServingError, match="NOT_FOUND from .*Specific") as caught:
            await other.rank(requests_of(), version=99)
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            await other.rank(requests_of(2, 2000, 2000), timeout=0.01)
        return (await other.rank(requests_of())).probability.shape

    assert run(own_server.address, use) == (3, 5)


def test_no_server_is_an_error():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    async def use(other):
        started = time.monotonic()
        with pytest.raises(ServingError) as caught:
            await other.versions(timeout=5)
        assert caught.value.code is Code.UNAVAILABLE
        return time.monotonic() - started

    assert 0.1 < run(address, use, retries=2) < 5


# --- long lists of candidates ---


@pytest.mark.parametrize("split", [False, True])
def test_long_lists_go_in_parts(own_server, client, requests_of, split):
    requests = requests_of(users=2, width=30, candidates=23)
    expected = client.rank(requests, split=split)
    with Client(own_server.address, timeout=60, max_candidates=5) as other:
        equal(other.rank(requests, split=split), expected)
    equal(
        run(own_server.address, lambda o: o.rank(requests, split=split), max_candidates=5), expected
    )


def test_parts_by_hand():
    inputs = {
        "history_item": np.zeros([1, 2]),
        "target_item": np.arange(5)[None],
        "attention_score": np.zeros([1, 5, 3]),
        "mean_score": np.zeros([1, 5, 2]),
        "context_hour": np.zeros([1]),
    }
    parts = split_candidates(inputs, 2)
    assert [part["target_item"].tolist() for part in parts] == [[[0, 1]], [[2, 3]], [[4]]]
    assert [part["attention_score"].shape for part in parts] == [(1, 2, 3), (1, 2, 3), (1, 1, 3)]
    assert [part["mean_score"].shape for part in parts] == [(1, 2, 2), (1, 2, 2), (1, 1, 2)]
    assert all(part["history_item"] is inputs["history_item"] for part in parts)
    assert split_candidates(inputs, 5) == split_candidates(inputs, None) == [inputs]


def test_parts_are_of_one_version(own_server, requests_of):
    """Sends a part again if an older version answered it."""
    requests, versions = requests_of(candidates=9), []

    class Swapping(Client):
        def _send(self, call, until):
            answer = super()._send(call, until)
            version = call.request.model_spec.version.value
            versions.append(version)
            if version == 0 and call.request.inputs["target_item"].tensor_shape.dim[1].size == 3:
                return type(answer)(answer.outputs, answer.model, 0)  # as if from before
            return answer

    with Swapping(own_server.address, timeout=60, max_candidates=6) as other:
        result = other.rank(requests)
    assert result.version == 1 and sorted(versions) == [0, 0, 1]
    assert result.probability.shape == (3, 9)


# --- a second try ---


class Slow:
    """A server that holds up every odd Predict, and passes the others on to ``address``."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self.count, self.go_on, self._lock = 0, threading.Event(), threading.Lock()
        pool = concurrent.futures.ThreadPoolExecutor(8)
        self.server = grpc.server(pool)
        self.server.add_generic_rpc_handlers((self,))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self.server.start()

    def service(self, details):
        passed = self._channel.unary_unary(details.method)

        def call(request, context):
            with self._lock:
                self.count += 1
                odd = self.count % 2
            if odd:
                self.go_on.wait(30)
            return passed(request, timeout=30)

        return grpc.unary_unary_rpc_method_handler(call)

    def close(self):
        self.go_on.set()
        self.server.stop(5).wait()
        self._channel.close()


@pytest.fixture
def slow(own_server):
    server = Slow(own_server.address)
    yield server
    server.close()


def test_a_slow_call_is_sent_twice(slow, client, requests_of):
    requests = requests_of()
    expected = client.rank(requests)
    with Client(slow.address, timeout=60, hedge_after=0.05) as other:
        equal(other.rank(requests), expected)
        assert slow.count == 2
        equal(run(slow.address, lambda o: o.rank(requests), hedge_after=0.05), expected)
        assert slow.count == 4
    slow.go_on.set()
    with Client(slow.address, timeout=60, hedge_after=30) as other:  # an answer that comes in time
        equal(other.rank(requests), expected)
        with pytest.raises(ServingError, match="NOT_FOUND"):
            other.rank(requests, version=99)
        assert slow.count == 6


def test_without_retries_a_slow_call_times_out(slow, requests_of):
    with Client(slow.address, retries=0) as other:
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            other.rank(requests_of(), timeout=0.5)


class Full:
    """A server whose queue is full for the first calls."""

    def __init__(self, codes):
        self.codes, self.count = list(codes), 0
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        def call(request, context):
            self.count += 1
            if self.codes:
                context.abort(self.codes.pop(0), "not now")
            return predict_pb2.PredictResponse().SerializeToString()

        return grpc.unary_unary_rpc_method_handler(call)


@pytest.mark.parametrize(
    "codes, retries, attempts, raised",
    [
        ([Code.UNAVAILABLE] * 2, 3, 3, None),
        ([Code.UNAVAILABLE] * 3, 1, 2, Code.UNAVAILABLE),
        ([Code.RESOURCE_EXHAUSTED], 3, 1, Code.RESOURCE_EXHAUSTED),
        ([Code.INVALID_ARGUMENT], 3, 1, Code.INVALID_ARGUMENT),
    ],
)
@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_only_unavailable_calls_are_sent_again(kind, codes, retries, attempts, raised):
    full = Full(codes)
    try:
        if kind == "thread":
            with Client(full.address, retries=retries) as client:
                call = lambda: client.predict("x", {"a": np.zeros(1)})
                answer = outcome(call)
        else:
            answer = outcome(
                lambda: run(
                    full.address, lambda o: o.predict("x", {"a": np.zeros(1)}), retries=retries
                )
            )
        assert (answer, full.count) == (raised, attempts)
    finally:
        full.server.stop(0).wait()


def outcome(call):
    try:
        call()
    except ServingError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"timeout": 0}, "must be positive"),
        ({"retries": -1}, "must be positive"),
        ({"hedge_after": 0}, "`hedge_after` must be positive"),
        ({"max_candidates": 0}, "`max_candidates` must be positive"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Client("localhost:1", **settings)
