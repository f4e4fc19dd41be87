"""Batching of requests by the stock server's rules, alone and in a running server."""

import concurrent.futures
import http.client
import json
import pathlib
import threading
import time

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import serving
from serving.client import Client, ServingError
from serving.client.protos import model_pb2
from serving.server.batching import Batcher, BatchingOptions, read_batching_options
from serving.server.errors import RequestError, StartError
from serving.server.main import main
from serving.server.metrics import Metrics

CONFIG = pathlib.Path(serving.__file__).parent / "config"
Code = grpc.StatusCode


class Runs:
    """A run that doubles its input ``x``, keeps what it was given, and can be held up."""

    def __init__(self, batcher):
        self.batcher, self.seen = batcher, []
        self.started, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()

    def __call__(self, feeds, fetches, timeout):
        self.seen.append((feeds, timeout))
        self.started.release()
        self.go_on.wait(30)
        return [feeds["x"] * 2 for _ in fetches]


@pytest.fixture
def batched():
    """Returns ``batched(**options)``, which gives ``ask(x, ...)`` of a Batcher, and its runs."""
    all_runs = []

    def make(**options):
        runs = Runs(Batcher(BatchingOptions(**options), Metrics()))
        all_runs.append(runs)

        def ask(x, fetches=("y",), timeout=None, owner=None, **others):
            feeds = {"x": np.asarray(x), **others}
            return runs.batcher.run(owner or runs, runs, feeds, fetches, timeout)

        return ask, runs

    yield make
    for runs in all_runs:
        runs.go_on.set()
        runs.batcher.close()


@pytest.fixture
def together(until):
    """Returns answers of requests that are enqueued in this order while the only thread is busy."""

    def ask_all(ask, runs, *requests):
        runs.go_on.clear()
        with concurrent.futures.ThreadPoolExecutor(len(requests) + 1) as pool:
            first = pool.submit(ask, [[0]], ("held",))
            assert runs.started.acquire(timeout=30)
            futures = []
            for request in requests:
                futures.append(pool.submit(ask, **request))
                until(lambda: waiting(runs.batcher) == len(futures) or futures[-1].done())
            runs.go_on.set()
            first.result()
            return [future.exception() or future.result() for future in futures]

    return ask_all


def waiting(batcher):
    """Counts the requests that are in a queue."""
    return sum(len(batch.tasks) for queue in batcher._queues.values() for batch in queue.batches)


def test_requests_are_run_together_and_split_exactly(batched, together):
    ask, runs = batched(threads=1)
    answers = together(ask, runs, {"x": [[1], [2]]}, {"x": [[3]]}, {"x": [[4], [5], [6]]})
    assert [a[0].tolist() for a in answers] == [[[2], [4]], [[6]], [[8], [10], [12]]]
    assert len(runs.seen) == 2 and runs.seen[1][0]["x"].tolist() == [[1], [2], [3], [4], [5], [6]]


def test_only_equal_tensors_of_one_owner_are_run_together(batched, together):
    ask, runs = batched(threads=1)
    other = object()
    answers = together(
        ask,
        runs,
        {"x": [[1]]},
        {"x": [[2]], "fetches": ("y", "z")},
        {"x": [[3]], "w": np.zeros([1])},
        {"x": [[4]], "owner": other},
        {"x": [[5]]},
    )
    assert [a[0].tolist() for a in answers] == [[[2]], [[4]], [[6]], [[8]], [[10]]]
    assert sorted(len(feeds["x"]) for feeds, _ in runs.seen[1:]) == [1, 1, 1, 2]


def test_outputs_come_in_the_order_asked_for():
    batcher = Batcher(BatchingOptions(), Metrics())
    run = lambda feeds, fetches, timeout: [np.full([1], ord(name)) for name in fetches]
    answers = batcher.run(run, run, {"x": np.zeros([1])}, ["z", "a"])
    assert [chr(answer[0]) for answer in answers] == ["z", "a"]
    batcher.close()


def test_padding_is_each_tensors_first_element(batched, together):
    ask, runs = batched(threads=1, pad_variable_length_inputs=True)
    answers = together(ask, runs, {"x": [[7, 8, 9]]}, {"x": [[4], [5]]})
    assert runs.seen[1][0]["x"].tolist() == [[7, 8, 9], [4, 4, 4], [5, 4, 4]]
    assert answers[1][0].tolist() == [[8, 8, 8], [10, 8, 8]]  # as wide as the widest


def test_without_padding_shapes_must_agree(batched, together):
    ask, runs = batched(threads=1)
    for error in together(ask, runs, {"x": [[7, 8]]}, {"x": [[4]]}):
        assert error.code is Code.FAILED_PRECONDITION and "padding is turned off" in error.message


def test_an_empty_tensor_cannot_be_padded(batched, together):
    ask, runs = batched(threads=1, pad_variable_length_inputs=True)
    answers = together(ask, runs, {"x": [[7, 8]]}, {"x": np.zeros([1, 0], int)})
    assert all(error.code is Code.INVALID_ARGUMENT for error in answers)


def test_a_batch_is_filled_up_to_an_allowed_size_with_the_last_ones_first_row(batched, together):
    ask, runs = batched(threads=1, max_batch_size=8, allowed_batch_sizes=(4, 8))
    answers = together(ask, runs, {"x": [[1], [2], [3]]}, {"x": [[4], [5]]})
    assert runs.seen[0][0]["x"].tolist() == [[0]] * 4
    assert runs.seen[1][0]["x"].ravel().tolist() == [1, 2, 3, 4, 5, 4, 4, 4]
    assert [a[0].ravel().tolist() for a in answers] == [[2, 4, 6], [8, 10]]


def test_a_full_queue_refuses(batched, together):
    ask, runs = batched(threads=1, max_batch_size=2, max_enqueued_batches=2)
    two = {"x": [[1], [2]]}
    *answers, last = together(ask, runs, two, two, two)
    assert last.code is Code.UNAVAILABLE
    assert last.message == "The batch scheduling queue to which this task was submitted is full"
    assert all(answer[0].tolist() == [[2], [4]] for answer in answers)


def test_requests_that_cannot_be_batched(batched):
    ask, _ = batched(max_batch_size=2)
    for x, others, message in (
        ([[1]] * 3, {}, "Task size 3 is larger than maximum input batch size 2"),
        (5, {}, "Batching Run() input tensors must have at least one dimension"),
        (
            [[1]],
            {"w": np.zeros(2)},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ):
        with pytest.raises(RequestError) as caught:
            ask(x, **others)
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)


def test_a_batch_has_the_longest_time_of_its_requests(batched, together):
    ask, runs = batched(threads=1)
    together(ask, runs, {"x": [[1]], "timeout": 50.0}, {"x": [[2]], "timeout": 70.0})
    assert 60 < runs.seen[1][1] <= 70
    (error,) = together(ask, runs, {"x": [[1]], "timeout": 0.0})
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.message == "Run() timeout exceeded while waiting in batching queue"


def test_a_batch_waits_for_more_until_it_is_full(batched):
    ask, runs = batched(threads=2, max_batch_size=3, timeout=30.0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(ask, [[value]]) for value in range(3)]
        assert sorted(future.result(20)[0].item() for future in futures) == [0, 2, 4]
    assert len(runs.seen) == 1


def test_errors_of_a_run_reach_its_requests_and_the_thread_survives():
    batcher = Batcher(BatchingOptions(threads=1), Metrics())
    arguments = {"x": np.zeros([1])}, ["y"]

    def fails(feeds, fetches, timeout):
        raise RequestError(Code.ABORTED, "broken")

    def divides(feeds, fetches, timeout):
        return 1 // 0

    for run, code, message in (
        (fails, Code.ABORTED, "broken"),
        (divides, Code.INTERNAL, "ZeroDivisionError"),
        (lambda *_: [np.zeros([5])], Code.FAILED_PRECONDITION, "0th dimension does not equal"),
        (lambda *_: [np.float32(5)], Code.FAILED_PRECONDITION, "has 0 dimensions"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            batcher.run(run, run, *arguments)
        assert caught.value.code is code
    sound = lambda *_: [np.ones([1])]
    assert batcher.run(sound, sound, *arguments)[0].tolist() == [1]
    batcher.close()


# --- the parameters file ---


def test_the_shipped_batching_file_is_read():
    options = read_batching_options(str(CONFIG / "batching.config"))
    assert options.pad_variable_length_inputs and options.timeout > 0
    assert options.allowed_batch_sizes[-1] == options.max_batch_size == 32


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        ("max_batch_size { value: 4 } allowed_batch_sizes: 8 allowed_batch_sizes: 4", "rising"),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "must be non-negative; was -1"),
        ("max_batch_size: 8", "is no BatchingParameters"),
        ("surprise: 8", 'no field named "surprise"'),
        ("enable_large_batch_splitting { value: true }", "does not split large batches"),
    ],
)
def test_parameters_that_cannot_be_used(text, message, tmp_path, model_base, capsys):
    file = tmp_path / "batching.config"
    file.write_text(text)
    flags = ["--model_base_path", str(model_base), "--port", "0", "--enable_batching"]
    assert main([*flags, "--batching_parameters_file", str(file)]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(StartError):
        read_batching_options(str(file))


# --- a server that batches ---


@pytest.fixture(scope="module")
def batching_server(model_base, start_server):
    flags = [
        "--model_base_path",
        model_base,
        "--port",
        0,
        "--rest_api_port",
        0,
        "--monitoring_config_file",
        CONFIG / "monitoring.config",
        "--enable_batching",
        "--batching_parameters_file",
        CONFIG / "batching.config",
    ]
    with start_server(*flags, "--grpc_max_threads", 32) as server:
        yield server


def test_answers_are_those_of_each_alone(batching_server, client, requests_of):
    kinds = [
        requests_of(1, width, candidates, seed)
        for seed, (width, candidates) in enumerate([(5, 3), (12, 7), (30, 2), (12, 3)])
    ]
    alone = [client.rank(kind) for kind in kinds]
    with (
        Client(batching_server.address, timeout=60) as batching,
        concurrent.futures.ThreadPoolExecutor(24) as pool,
    ):
        for n, got in enumerate(pool.map(lambda n: batching.rank(kinds[n % 4]), range(240))):
            expected = alone[n % 4]
            assert got.probability.shape == expected.probability.shape  # cut to what was asked
            np.testing.assert_allclose(got.probability, expected.probability, atol=1e-6)
            np.testing.assert_array_equal(got.behavior_index, expected.behavior_index)
        for kind, expected in zip(kinds, alone):
            split = batching.rank(kind, split=True)
            np.testing.assert_allclose(split.probability, expected.probability, atol=1e-6)
    sizes = metric(batching_server, "processed_batch_size")
    assert 0 < sizes["count"] < 240 + 8 and sizes["sum"] > sizes["count"]


def test_a_request_larger_than_a_batch(batching_server, requests_of):
    with Client(batching_server.address, timeout=60) as client:
        with pytest.raises(ServingError, match="Task size 33 is larger than maximum") as caught:
            client.rank(requests_of(users=33))
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_rest_codes_of_a_full_queue_and_a_timeout(models, requests_of, until):
    from serving.server.api import Api
    from serving.server.config import ModelConfig
    from serving.server.loading import Loader
    from serving.server.manager import Manager
    from serving.server.server import Listen, Server

    metrics = Metrics()
    batcher = Batcher(BatchingOptions(max_batch_size=1, max_enqueued_batches=1, threads=1), metrics)
    manager = Manager(Loader(metrics, batcher=batcher))
    manager.configure([ModelConfig("dare", str(models / "dare"))])
    server = Server(Api(manager, metrics), Listen(rest_port=0, rest_timeout=0.5))
    server.start()
    inputs = {name: value.tolist() for name, value in requests_of(1).items()}
    body = json.dumps({"inputs": inputs})

    def ask():
        connection = http.client.HTTPConnection("localhost", server.rest_port, timeout=60)
        connection.request("POST", "/v1/models/dare:predict", body)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    try:
        with manager.borrow(model_pb2.ModelSpec(name="dare")) as servable:
            free, running, held = servable.run_alone, threading.Event(), threading.Event()

            def run_alone(*arguments):
                running.set()
                held.wait(30)
                return free(*arguments)

            servable.run_alone = run_alone
            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                first = pool.submit(ask)
                assert running.wait(30)
                second = pool.submit(ask)
                until(lambda: waiting(batcher) == 1)
                status, document = ask()  # there is no place for a third
                assert status == 503 and "task was submitted is full" in document["error"]
                time.sleep(0.6)
                held.set()
                assert first.result()[0] in (200, 504)
                status, document = second.result()
                assert status == 429
                assert document["error"] == "Run() timeout exceeded while waiting in batching queue"
    finally:
        server.stop()
        manager.close()
        batcher.close()


def metric(server, name):
    """Reads the sum and count of a batching histogram."""
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    connection.request("GET", "/monitoring/prometheus/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    name = f":tensorflow:serving:batching_session:{name}"
    (family,) = [family for family in text_string_to_metric_families(page) if family.name == name]
    return {
        kind: sum(s.value for s in family.samples if s.name == f"{name}_{kind}")
        for kind in ("sum", "count")
    }
