"""``python -m serving.tools.soak``: tests a server under load while versions are replaced.

Starts a server on a copy of a servable, measures its capacity, and sends 70% of that at set times.
Meanwhile newer versions (copies) and a broken one are published, and another client sends invalid
requests. No valid request may fail, every answer must equal that of the first version, and memory
must not grow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from serving.client import Client, ServingError
from serving.client.protos import predict_pb2
from serving.client.tensors import from_proto
from serving.tools.arrivals import METHOD, Caller, Outcome, schedule
from serving.tools.load import milliseconds, read_mappings, resize, serialize, write_report
from tfdare.commands.parser import Parser, non_negative_int, positive_int
from tfdare.schema import SchemaError

TOLERANCE = 1e-5
_SERVED = re.compile(r"served at (\S+:\d+) \(gRPC\)")
_MIB = 2**20


class SoakError(Exception):
    """The soak could not be run; the message says why."""


@dataclass
class Server:
    """A development server on a folder of versions, in a process of its own.

    Attributes:
        process: subprocess.Popen.
        address: str. ``host:port`` of gRPC.
        output: list of str. Lines that it prints.
    """

    process: subprocess.Popen
    address: str
    output: list[str] = field(default_factory=list)

    def mib(self) -> float:
        """Reads the resident memory of the process, in MiB."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


@contextlib.contextmanager
def serving(base: str, name: str) -> Iterator[Server]:
    """Runs a server that looks for new versions every second, and serves the newest.

    Raises:
        SoakError: the server does not start.
    """
    command = [
        sys.executable,
        "-m",
        "serving.server",
        "--model_base_path",
        base,
        "--model_name",
        name,
        "--port",
        "0",
        "--file_system_poll_wait_seconds",
        "1",
        "--max_num_load_retries",
        "1",
        "--load_retry_interval_micros",
        "100000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None  # it is a pipe
    lines, output = process.stdout, []
    try:
        for line in lines:
            output.append(line.rstrip())
            if match := _SERVED.search(line):
                server = Server(process, match.group(1), output)
                break
        else:
            raise SoakError("The server does not start: " + " ".join(output)[-1000:])
        reader = threading.Thread(
            target=lambda: output.extend(line.rstrip() for line in lines), daemon=True
        )
        reader.start()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def publish(source: str, base: str, version: int, broken: bool = False) -> None:
    """Copies a version to another number, atomically; a broken copy has no variables."""
    aside = os.path.join(base, f".copy-{version}")
    shutil.copytree(source, aside)
    if broken:
        shutil.rmtree(os.path.join(aside, "variables"))
    os.rename(aside, os.path.join(base, str(version)))


class _Background:
    """Runs a thread inside a ``with`` block; :meth:`_run` ends soon after `_stop` is set."""

    def __init__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class Garbage(_Background):
    """A client that sends invalid requests until it is stopped."""

    def __init__(self, address: str, name: str, seed: int = 0):
        super().__init__()
        self.codes: dict[str, int] = {}
        self._random = np.random.default_rng(seed)
        self._address, self._name = address, name

    def _run(self):
        with grpc.insecure_channel(self._address) as channel:
            calls = [channel.unary_unary(path) for path in (METHOD, METHOD + "s")]
            while not self._stop.wait(0.05):
                kind = int(self._random.integers(5))
                try:
                    calls[kind == 4](self._message(kind), timeout=5)
                    code = "OK"
                except grpc.RpcError as error:
                    code = error.code().name
                self.codes[code] = self.codes.get(code, 0) + 1

    def _message(self, kind):
        if kind in (0, 4):
            return self._random.bytes(200)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._name if kind != 1 else "nobody"
        request.model_spec.signature_name = "serving_default" if kind != 2 else "nothing"
        request.inputs["history_length"].tensor_content = self._random.bytes(7)
        return request.SerializeToString()


class Memory(_Background):
    """Samples a server's memory until it is stopped."""

    def __init__(self, server: Server, every: float):
        super().__init__()
        self.seconds: list[float] = []
        self.mib: list[float] = []
        self._server, self._every = server, every

    def _run(self):
        start = time.perf_counter()
        while not self._stop.is_set():
            self.seconds.append(time.perf_counter() - start)
            self.mib.append(self._server.mib())
            self._stop.wait(self._every)

    def slope(self) -> float:
        """Estimates the growth in MiB a minute over the second half; the first is the warm-up.

        It is the median of the slopes between all pairs of samples (Theil and Sen), so that the
        peaks while two versions are loaded do not count as growth.
        """
        half = len(self.mib) // 2
        x, y = np.array(self.seconds[half:]), np.array(self.mib[half:])
        if len(x) < 2:
            return 0.0
        first, second = np.triu_indices(len(x), 1)
        return float(np.median((y[second] - y[first]) / (x[second] - x[first])) * 60)


class Answers:
    """Compares each reply with the first version's answer to the same request."""

    def __init__(self, wanted: Sequence[np.ndarray]):
        self.wanted = wanted
        self.versions: dict[int, int] = {}
        self.wrong = 0
        self._lock = threading.Lock()

    def __call__(self, number: int, reply: bytes) -> None:
        response = predict_pb2.PredictResponse.FromString(reply)
        got = from_proto(response.outputs["probability"])
        wanted = self.wanted[number % len(self.wanted)]
        good = got.shape == wanted.shape and np.abs(got - wanted).max() <= TOLERANCE
        version = response.model_spec.version.value
        with self._lock:
            self.versions[version] = self.versions.get(version, 0) + 1
            self.wrong += not good


def soak(
    server: Server,
    source: str,
    base: str,
    name: str,
    requests: Sequence[bytes],
    wanted: Sequence[np.ndarray],
    seconds: float,
    swaps: int = 3,
    share: float = 0.7,
    probe: float = 5.0,
) -> tuple[dict, Outcome]:
    """Runs the soak test, see the module's docstring.

    Args:
        server: Server. Serves version 1 from ``base`` under ``name``.
        source: str. Folder of the version that is copied.
        base: str. Folder of the model, to which versions are published.
        name: str. The model's name.
        requests: sequence of bytes. Valid PredictRequests.
        wanted: sequence of arrays. The probabilities that answer each request.
        seconds: float. Length of the test.
        swaps: int. Working versions to publish. Defaults to 3.
        share: float. Rate of the calls, as a share of the capacity. Defaults to 0.7.
        probe: float. Seconds for which the capacity is measured. Defaults to 5.

    Returns:
        The report, and the outcome of the calls.
    """
    with Caller(server.address) as caller:
        caller.closed_loop(requests, min(probe, 2.0))
        capacity = caller.closed_loop(requests, probe).qps
        rate = share * capacity
        answers = Answers(wanted)
        events: list[dict[str, Any]] = []
        outcome: list[Outcome] = []
        sender = threading.Thread(
            target=lambda: outcome.append(
                caller.open_loop(requests, schedule(rate, seconds), 30.0, answers)
            )
        )
        with (
            Memory(server, max(0.2, seconds / 300)) as memory,
            Garbage(server.address, name) as garbage,
        ):
            start = time.perf_counter()
            sender.start()
            # Swaps, and the broken version before the last one, evenly spread over the time.
            steps = [False] * (swaps - 1) + [True, False]
            for number, broken in enumerate(steps, start=1):
                pause = start + seconds * number / (len(steps) + 1) - time.perf_counter()
                sender.join(max(pause, 0))
                version = number + 1
                publish(source, base, version, broken)
                events.append(
                    {"second": time.perf_counter() - start, "version": version, "broken": broken}
                )
            sender.join()
    (calls,) = outcome
    working = {"1"} | {str(event["version"]) for event in events if not event["broken"]}
    report: dict[str, Any] = {
        "seconds": seconds,
        "share": share,
        "capacity_qps": capacity,
        "rate": rate,
        "calls": len(calls.due),
        "failed": calls.errors,
        "failed_examples": calls.examples,
        "wrong_answers": answers.wrong,
        "answers_by_version": {str(v): n for v, n in sorted(answers.versions.items())},
        "published": events,
        "garbage": dict(sorted(garbage.codes.items())),
        "milliseconds": milliseconds(calls),
        "memory_mib": {
            "first": memory.mib[0],
            "middle": memory.mib[len(memory.mib) // 2],
            "last": memory.mib[-1],
            "slope_a_minute": memory.slope(),
        },
    }
    report["swapped"] = set(report["answers_by_version"]) == working
    report["good"] = (
        not report["failed"]
        and not answers.wrong
        and report["swapped"]
        and "OK" not in garbage.codes
    )
    return report, calls


def _parser() -> Parser:
    parser = Parser(
        "soak",
        example="python -m serving.tools.soak --servable build/servables/dare/1 "
        "--sequences build/sequences --output build/soak",
        description="Serves copies of a version, sends 70% of the calls that the server can "
        "answer, publishes newer versions and a broken one, and sends invalid requests, too. Exit "
        "code 1 if a valid request failed, an invalid one succeeded, an answer was wrong, a swap "
        "did not happen or memory grew.",
    )
    parser.prog = "python -m serving.tools.soak"
    parser.add_argument(
        "--servable", required=True, help="folder of one exported version, not of a half"
    )
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the test")
    parser.add_argument(
        "--share",
        type=float,
        default=0.7,
        help="rate, as a share of the server's capacity, which is measured at the start",
    )
    parser.add_argument("--swaps", type=non_negative_int, default=3, help="versions to publish")
    parser.add_argument("--behaviors", type=positive_int, help="behaviors of each request")
    parser.add_argument("--candidates", type=positive_int, help="candidates of each request")
    parser.add_argument(
        "--growth", type=float, default=2.0, help="MiB a minute that memory may grow"
    )
    parser.add_argument("--output", default="build/soak", help="folder for report and plot")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the soak test and reports.

    Returns:
        0; 1 if a condition of the test did not hold; 2 if it could not be run.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.swaps < 1 or not options.seconds > 0 or not options.share > 0:
            raise ValueError(
                "--swaps must be at least 1, --seconds and --share positive. "
                f"Received: {options.swaps}, {options.seconds}, {options.share}"
            )
        report, calls = run(options)
    except (SoakError, ServingError, SchemaError, ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    grew = report["memory_mib"]["slope_a_minute"] > options.growth
    write_report(options.output, {"serving_default": calls}, f"{report['rate']:.1f} calls a second")
    with open(os.path.join(options.output, "soak.json"), "w", encoding="utf-8") as file:
        json.dump({**report, "memory_grew": grew}, file, indent=2)
        file.write("\n")
    print(_text(report))
    print(f"\n{options.output}: soak.json, report.json, latency.png")
    return 0 if report["good"] and not grew else 1


def run(options) -> tuple[dict, Outcome]:
    """Runs the soak test with the command line's options, on a server in a temporary folder."""
    requests = [
        resize(request, options.behaviors, options.candidates)
        for request in read_mappings(options.sequences, options.split_name, 64)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        base = os.path.join(scratch, "dare")
        os.makedirs(base)
        publish(options.servable, base, 1)
        with serving(base, "dare") as server:
            print(f"served at {server.address}", file=sys.stderr, flush=True)
            with Client(server.address, "dare", timeout=60) as client:
                messages = serialize(client, "serving_default", requests)
                wanted = [client.rank(request).probability for request in requests]
            return soak(
                server,
                options.servable,
                base,
                "dare",
                messages,
                wanted,
                options.seconds,
                options.swaps,
                options.share,
            )


def _text(report) -> str:
    memory = report["memory_mib"]
    failed = ", ".join(f"{code} {n}" for code, n in report["failed"].items()) or "none"
    by_version = ", ".join(f"{v}: {n:,}" for v, n in report["answers_by_version"].items())
    published = ", ".join(
        f"{e['version']} at {e['second']:.0f} s{' (broken)' if e['broken'] else ''}"
        for e in report["published"]
    )
    return "\n".join(
        [
            f"{report['calls']:,} calls in {report['seconds']:.0f} s at {report['rate']:.1f} a "
            f"second, {report['share']:.0%} of the capacity of {report['capacity_qps']:.1f}",
            f"failed: {failed}; wrong answers: {report['wrong_answers']}",
            f"answers by version: {by_version}; published: {published}",
            "milliseconds since due: "
            + ", ".join(f"{name} {ms:.1f}" for name, ms in report["milliseconds"].items()),
            f"invalid requests answered with: {report['garbage']}",
            f"memory: {memory['first']:.0f} MiB at first, {memory['middle']:.0f} halfway, "
            f"{memory['last']:.0f} at last; {memory['slope_a_minute']:+.2f} MiB a minute "
            "in the second half",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
