"""The client against a running server: answers, extreme shapes, threads, retries."""

import concurrent.futures
import inspect
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from serving.client import AsyncClient, Client, ServingError, one_request, stack
from serving.client.protos import predict_pb2

K = 4


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_sound(result, requests):
    shape = requests["target_item"].shape
    assert result.probability.shape == shape and result.probability.dtype == np.float32
    assert result.behavior_index.shape == (*shape, K) == result.attention_score.shape
    assert np.isfinite(result.probability).all() and np.isfinite(result.attention_score).all()
    assert ((result.probability >= 0) & (result.probability <= 1)).all()
    length = requests["history_length"][:, None, None]
    assert ((result.behavior_index >= -1) & (result.behavior_index < length)).all()
    kept = (result.behavior_index >= 0).sum(-1)
    assert (kept == np.minimum(length[..., 0], K)).all()
    assert (result.attention_score[result.behavior_index < 0] == 0).all()


def test_split_equals_whole(client, requests_of):
    requests = requests_of(users=7, width=50, candidates=9)
    whole, split = client.rank(requests), client.rank(requests, split=True)
    assert_sound(whole, requests)
    np.testing.assert_allclose(whole.probability, split.probability, atol=1e-6)
    np.testing.assert_array_equal(whole.behavior_index, split.behavior_index)
    np.testing.assert_allclose(whole.attention_score, split.attention_score, atol=1e-6)
    assert whole.version == split.version == client.search(requests).version
    assert whole.probability.std() > 0.01


def test_score_depends_on_the_results_of_search(client, requests_of):
    requests = requests_of(users=2, width=30, candidates=3)
    requests["history_length"][:] = 30
    results = client.search(requests)
    scored = client.score(requests, results)
    swapped = type(results)(
        results.behavior_index[..., ::-1], results.attention_score[..., ::-1], results.version
    )
    np.testing.assert_allclose(
        client.score(requests, swapped).probability, scored.probability, atol=1e-6
    )
    other = type(results)(
        (results.behavior_index + 1) % 30, results.attention_score, results.version
    )
    assert np.abs(client.score(requests, other).probability - scored.probability).max() > 1e-4


def test_fewer_behaviors_than_k(client, requests_of):
    requests = requests_of(users=3, width=2, candidates=4)
    requests["history_length"][:] = [2, 1, 0]
    assert_sound(client.rank(requests), requests)
    assert_sound(client.rank(requests, split=True), requests)


def test_empty_history(client, ids):
    items, categories, _ = ids
    target = {"item": items[:3], "category": categories[:3]}
    empty = one_request({"item": [], "category": []}, target)
    assert empty["history_item"].shape == (1, 1) and empty["history_length"].tolist() == [0]
    for split in (False, True):
        result = client.rank(empty, split=split)
        assert_sound(result, empty)
        assert (result.behavior_index == -1).all()
    # What stands in the unused column does not matter.
    filled = {**empty, "history_item": items[None, :1]}
    np.testing.assert_array_equal(client.rank(filled).probability, result.probability)


def test_ids_never_seen(client):
    unseen = one_request(
        {"item": [-5, 2**62, 0], "category": [-1, 10**15, 0]},
        {"item": [-(2**63), 2**63 - 1], "category": [123456, -1]},
    )
    result = client.rank(unseen)
    assert_sound(result, unseen)
    assert result.probability[0, 0] == result.probability[0, 1]  # all out of vocabulary


def test_padding_and_neighbors_change_nothing(client, requests_of):
    requests = [requests_of(1, width, 3, seed=width) for width in (3, 12, 40)]
    together = client.rank(stack(requests))
    for row, request in enumerate(requests):
        alone = client.rank(request)
        np.testing.assert_allclose(alone.probability[0], together.probability[row], atol=1e-6)
        np.testing.assert_array_equal(alone.behavior_index[0], together.behavior_index[row])


def test_answer_of_more_than_4_mb(client, requests_of):
    requests = requests_of(users=2, width=6, candidates=120_000)
    result = client.rank(requests)
    assert_sound(result, requests)
    assert result.behavior_index.nbytes + result.attention_score.nbytes > 4 << 20


def test_concurrent_clients(own_server, requests_of):
    address = own_server.address
    requests = [requests_of(2, 25, 4, seed=seed) for seed in range(8)]
    with Client(address, timeout=60) as first_client:
        expected = [first_client.rank(request).probability for request in requests]

    def work(worker):
        with Client(address, timeout=60) as client:
            for step in range(12):
                n = (worker + step) % len(requests)
                got = client.rank(requests[n], split=step % 3 == 0).probability
                np.testing.assert_allclose(got, expected[n], atol=1e-6)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_one_client_in_many_threads(client, requests_of):
    requests = requests_of(2, 25, 4)
    expected = client.rank(requests).probability
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: client.rank(requests).probability, range(40)):
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_garbage_does_not_hurt_good_requests(own_server, requests_of):
    address = own_server.address
    requests = requests_of(2, 25, 4)
    stop = threading.Event()

    def throw_garbage():
        random = np.random.default_rng(0)
        with grpc.insecure_channel(address) as channel:
            raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            unknown = channel.unary_unary("/tensorflow.serving.PredictionService/Nothing")
            codes = set()
            while not stop.is_set():
                broken = predict_pb2.PredictRequest()
                broken.model_spec.name = "dare"
                broken.inputs["history_item"].dtype = int(random.integers(0, 200))
                for call, data in (
                    (raw, random.bytes(300)),
                    (raw, broken.SerializeToString()),
                    (unknown, b""),
                ):
                    try:
                        call(data, timeout=5)
                    except grpc.RpcError as error:
                        codes.add(error.code())
        return codes

    with Client(address, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        expected = client.rank(requests).probability
        thrown = [pool.submit(throw_garbage) for _ in range(2)]
        try:
            for _ in range(40):
                np.testing.assert_allclose(client.rank(requests).probability, expected, atol=1e-6)
        finally:
            stop.set()
        for codes in thrown:
            assert grpc.StatusCode.INVALID_ARGUMENT in codes.result()
            assert grpc.StatusCode.UNIMPLEMENTED in codes.result()
            assert grpc.StatusCode.UNAVAILABLE not in codes.result()


def test_deadline_of_a_call(client, requests_of):
    requests = requests_of(users=2, width=2000, candidates=2000)
    started = time.monotonic()
    with pytest.raises(ServingError) as caught:
        client.rank(requests, timeout=0.01)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5
    small = requests_of()
    assert_sound(client.rank(small), small)


def test_errors_carry_code_and_message(client, own_server, requests_of):
    with pytest.raises(ServingError, match="NOT_FOUND from .*Specific") as caught:
        client.rank(requests_of(), version=99)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.message == "Servable not found for request: Specific(dare, 99)"
    assert caught.value.address == own_server.address
    with pytest.raises(ServingError, match="Unrecognized servable version label: old"):
        client.predict("search", requests_of(), label="old")
    assert "AVAILABLE" in client.versions().values()


def test_ids_in_the_dtype_that_a_model_over_row_ids_takes(own_server, requests_of):
    with Client(own_server.address, id_dtype=np.int32) as client:
        with pytest.raises(ServingError, match="to be int64 but int32 is provided"):
            client.rank(requests_of())


def test_no_server_is_an_error():
    address = f"localhost:{unused_port()}"
    with Client(address, timeout=5, retries=2) as client:
        started = time.monotonic()
        with pytest.raises(ServingError) as caught:
            client.versions()
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert 0.1 < time.monotonic() - started < 5
    with Client(address, timeout=0.3, retries=1000) as client:
        started = time.monotonic()
        with pytest.raises(ServingError):
            client.versions()
        assert time.monotonic() - started < 2


def test_search_and_score_may_be_two_servers(own_server, requests_of):
    address = own_server.address
    other = address.replace("localhost", "127.0.0.1")
    requests = requests_of()
    with Client(address, search_address=other, search_model="dare", timeout=60) as client:
        split = client.rank(requests, split=True)
        np.testing.assert_allclose(split.probability, client.rank(requests).probability, atol=1e-6)
        with pytest.raises(ValueError, match="`address` must be one of"):
            client.predict("search", requests, address="elsewhere:1")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"history_length": np.array([4])}, "between 0 and the history's width 3"),
        ({"history_length": np.array([-1])}, "between 0 and the history's width 3"),
        ({"history_length": np.array([[3]])}, r"must have shape \[U\]"),
        ({"history_item": np.zeros([1, 3])}, "must hold integers"),
        ({"history_item": np.zeros([2, 3], int)}, r"must have shape \[1, N\]"),
        ({"target_item": np.zeros([2], int)}, r"must have shape \[1, C\]"),
        ({"target_shop": np.zeros([1, 2], int)}, "Requests must hold"),
    ],
)
def test_requests_that_cannot_be_sent(change, message):
    request = one_request({"item": [1, 2, 3]}, {"item": [4]})
    with Client("localhost:1") as client, pytest.raises(ValueError, match=message):
        client.search({**request, **change})


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_the_signature_names_every_option(client):
    options = inspect.signature(client).parameters
    assert list(options) == [
        "address",
        "model",
        "search_address",
        "search_model",
        "timeout",
        "retries",
        "hedge_after",
        "max_candidates",
        "id_dtype",
        "credentials",
        "same_version",
    ]
    with pytest.raises(TypeError, match="retry"):
        client("localhost:1", retry=3)
    with pytest.raises(ValueError, match="`hedge_after` must be positive or None. Received: 0"):
        client("localhost:1", hedge_after=0)
