"""``serving.tools.load``: schedules of calls, their latencies, and the report."""

import json
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest

from serving.tools.arrivals import METHOD, Caller, schedule
from serving.tools.load import main, read_mappings, resize


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_schedules_have_the_rate_asked_for(arrivals):
    due = schedule(200, 50, arrivals)
    assert len(due) == 10_000 and (np.diff(due) >= 0).all()
    assert due[-1] == pytest.approx(50, rel=0.05)
    spread = np.diff(due).std() * 200  # 1 for an exponential, 0 for even
    assert spread == pytest.approx(1 if arrivals == "poisson" else 0, abs=0.05)


@pytest.mark.parametrize("how", [(0, 1), (1, 0), (1, 1, "bursts")])
def test_wrong_schedules_are_refused(how):
    with pytest.raises(ValueError, match="Received"):
        schedule(*how)


class Stalling(grpc.GenericRpcHandler):
    """Answers at once, but for one second that begins with the tenth call."""

    def __init__(self):
        self.count, self.free_at, self.lock = 0, 0.0, threading.Lock()

    def service(self, details):
        known = details.method == METHOD
        return grpc.unary_unary_rpc_method_handler(self.answer) if known else None

    def answer(self, request, context):
        with self.lock:
            self.count += 1
            if self.count == 10:
                self.free_at = time.monotonic() + 1.0
            if request == b"bad":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        time.sleep(max(self.free_at - time.monotonic(), 0))
        return b"done"


@pytest.fixture
def stalling():
    server = grpc.server(futures.ThreadPoolExecutor(100))
    server.add_generic_rpc_handlers((Stalling(),))
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait()


def test_a_stall_counts_for_every_call_that_was_due_meanwhile(stalling):
    due = np.arange(80) / 40
    replies = {}
    with Caller(stalling) as caller:
        outcome = caller.open_loop([b"good"], due, answered=replies.__setitem__)
    assert outcome.good.all() and outcome.errors == {}
    assert replies == dict.fromkeys(range(80), b"done")
    began = outcome.due[9]
    inside = (outcome.due > began + 0.1) & (outcome.due < began + 0.7)
    # Each waited until the stall was over: a closed loop would have seen one slow call.
    np.testing.assert_allclose(
        outcome.latency[inside], began + 1.0 - outcome.due[inside], atol=0.25
    )
    assert inside.sum() > 15
    p50, p99 = outcome.percentiles(50, 99)
    assert p99 > 700 and p50 < p99


def test_errors_are_counted_by_code_and_not_among_the_latencies(stalling):
    with Caller(stalling) as caller:
        outcome = caller.open_loop([b"good", b"bad", b"good"], np.arange(9) / 100)
        closed = caller.closed_loop([b"bad"], 0.2, at_once=2)
    assert outcome.errors == {"INVALID_ARGUMENT": 3}
    assert outcome.good.tolist() == [True, False, True] * 3
    assert closed.qps == 0 and np.isnan(closed.percentiles(50)).all()
    with Caller("localhost:1") as caller:
        outcome = caller.open_loop([b"x"], np.zeros(2), timeout=2)
    assert set(outcome.errors) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"} and not outcome.good.any()


def test_requests_of_any_size(sequences):
    request = read_mappings(str(sequences), "test", 2)[0]
    resized = resize(request, 70, 9)
    assert resized["history_item"].shape == (1, 70) and resized["target_category"].shape == (1, 9)
    length = int(request["history_length"][0])
    again = resized["history_item"][0]
    np.testing.assert_array_equal(again[length:], again[: 70 - length])
    assert resized["history_length"].tolist() == [70]
    assert resize(request, None, None).keys() == request.keys()


def test_a_report_of_a_running_server(own_server, sequences, tmp_path, capsys):
    code = main(
        [
            "--address",
            own_server.address,
            "--sequences",
            str(sequences),
            "--rate",
            "30",
            "--seconds",
            "0.5",
            "--candidates",
            "4",
            "--output",
            str(tmp_path / "load"),
        ]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].split()[:3] == ["calls", "asked/s", "got/s"]
    assert [line.split()[0] for line in lines[1:4]] == ["search", "score", "serving_default"]
    assert all(line.endswith("none") for line in lines[1:4])
    report = json.loads((tmp_path / "load" / "report.json").read_text())
    assert report["title"] == "30 calls a second"
    for run in report["runs"].values():
        assert run["calls"] == 15 and run["errors"] == {}
        assert 0 < run["milliseconds"]["p50"] <= run["milliseconds"]["p99"]
    assert (tmp_path / "load" / "latency.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "arguments,match",
    [
        (["--rate", "0"], "must be positive"),
        (["--address", "localhost:1", "--timeout", "1", "--signatures", "score"], "UNAVAILABLE"),
        (["--split_name", "holdout"], "`split` must be one of"),
    ],
)
def test_requests_that_cannot_be_sent_are_refused(sequences, tmp_path, capsys, arguments, match):
    code = main(["--sequences", str(sequences), "--output", str(tmp_path / "x"), *arguments])
    said = capsys.readouterr().err
    assert code == 2 and match in said and said.startswith("python -m serving.tools.load: ")
    assert not (tmp_path / "x").exists()
