"""Open-loop load: calls are sent at set times, whether or not earlier ones were answered.

A closed loop sends the next call when the last one is answered: when the server stalls, it stops
sending, and the stall counts once. Here latency is measured from the time a call was *due*, so that
a stall counts for every call that was due during it. A closed loop serves to measure capacity.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.client.plans import CHANNEL_OPTIONS

METHOD = "/tensorflow.serving.PredictionService/Predict"
ARRIVALS = ("poisson", "constant")
OK = grpc.StatusCode.OK.name


@dataclass(frozen=True)
class Outcome:
    """Status and latency of the calls of one run.

    Attributes:
        due: float64 ``[calls]``. Seconds from the start at which each was due.
        late: float64 ``[calls]``. Seconds after that at which it was sent.
        latency: float64 ``[calls]``. Seconds from due to its end.
        code: list of str. Status of each, such as ``"OK"``.
        seconds: float. From the first due to the last end.
        examples: dict. For each status of a failed call, the message of the first.
    """

    due: np.ndarray
    late: np.ndarray
    latency: np.ndarray
    code: list[str]
    seconds: float
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> np.ndarray:
        """Which calls were answered: bool ``[calls]``."""
        return np.array([code == OK for code in self.code], bool)

    @property
    def errors(self) -> dict[str, int]:
        """Calls that failed, by status."""
        names, counts = np.unique([c for c in self.code if c != OK], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist()))

    def percentiles(self, *of: float) -> list[float]:
        """Computes percentiles `of` the latency of answered calls, in milliseconds."""
        answered = self.latency[self.good]
        if not answered.size:
            return [float("nan")] * len(of)
        return (np.percentile(answered, of) * 1e3).tolist()

    @property
    def qps(self) -> float:
        """Calls answered a second."""
        return float(self.good.sum() / self.seconds) if self.seconds else 0.0


def schedule(rate: float, seconds: float, arrivals: str = "poisson", seed: int = 0) -> np.ndarray:
    """Draws the times at which calls are due.

    Args:
        rate: float. Calls a second.
        seconds: float. Length of the run.
        arrivals: str. ``"poisson"``, like calls of independent users, or ``"constant"``.
        seed: int. Seed of the random pauses.

    Returns:
        float64 ``[calls]``, seconds from the start, rising.

    Raises:
        ValueError: `rate` or `seconds` is not positive, or there is no such kind of arrivals.
    """
    if not rate > 0 or not seconds > 0:
        raise ValueError(f"`rate` and `seconds` must be positive. Received: {rate}, {seconds}")
    if arrivals not in ARRIVALS:
        raise ValueError(f"`arrivals` must be one of {ARRIVALS}. Received: {arrivals!r}")
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


class Caller:
    """A connection that sends serialized requests.

    Args:
        address: str. ``host:port``.
    """

    def __init__(self, address: str):
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._call = self._channel.unary_unary(METHOD)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *error) -> None:
        self._channel.close()

    def call(self, request: bytes, timeout: float = 10.0) -> bytes:
        """Sends one call and returns the reply.

        Raises:
            grpc.RpcError: the call failed.
        """
        return self._call(request, timeout=timeout)

    def open_loop(
        self,
        requests: Sequence[bytes],
        due: np.ndarray,
        timeout: float = 10.0,
        answered: Callable[[int, bytes], None] | None = None,
    ) -> Outcome:
        """Sends each call when it is due, cycling through the requests.

        Args:
            requests: sequence of bytes. PredictRequests.
            due: float64 ``[calls]``. See :func:`schedule`.
            timeout: float. Seconds that a call may take.
            answered: function of a call's number and its reply, or None. Called for each reply.
        """
        count, left = len(due), threading.Semaphore(0)
        sent, ended, codes = np.zeros(count), np.zeros(count), [""] * count
        examples: dict[str, str] = {}
        start = time.perf_counter()

        def done(number, future):
            ended[number] = time.perf_counter() - start
            codes[number] = future.code().name
            try:
                if codes[number] != OK:
                    examples.setdefault(codes[number], future.details() or "")
                elif answered is not None:
                    answered(number, future.result())
            finally:
                left.release()

        for number, when in enumerate(due):
            pause = start + when - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            sent[number] = time.perf_counter() - start
            future = self._call.future(requests[number % len(requests)], timeout=timeout)
            future.add_done_callback(lambda future, number=number: done(number, future))
        for _ in range(count):
            left.acquire()
        return Outcome(due, sent - due, ended - due, codes, float(ended.max() - due[0]), examples)

    def closed_loop(
        self, requests: Sequence[bytes], seconds: float, at_once: int = 8, timeout: float = 10.0
    ) -> Outcome:
        """Keeps `at_once` calls under way; the outcome's ``qps`` is the server's capacity."""
        sent: list[float] = []
        ended: list[float] = []
        codes: list[str] = []
        lock, start = threading.Lock(), time.perf_counter()

        def worker(number):
            while (begun := time.perf_counter() - start) < seconds:
                try:
                    _, call = self._call.with_call(
                        requests[number % len(requests)], timeout=timeout
                    )
                    code = call.code().name
                except grpc.RpcError as error:
                    code = error.code().name
                with lock:
                    sent.append(begun)
                    ended.append(time.perf_counter() - start)
                    codes.append(code)
                number += at_once

        threads = [threading.Thread(target=worker, args=(n,)) for n in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        due, end = np.array(sent), np.array(ended)
        return Outcome(due, np.zeros(len(due)), end - due, codes, float(end.max()))
