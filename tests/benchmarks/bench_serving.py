"""The development server beside the bare session: time of a call, and calls a second.

DARE over row ids of 100,000 items, 16 + 16 columns, K = 20; one user, C = 100 candidates, N = 1,000
and 10,000 behaviors; search, score, and both (rank). A call through gRPC on this machine and the
same run of a session in this process take turns. Then calls come at set times, at half of what the
server answers a second at most, and latency runs from the time they were due.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np

from serving.client import Client, SearchResult, score_inputs
from serving.tools.arrivals import Caller, schedule
from serving.tools.load import write_report
from serving.tools.soak import serving
from tfdare.export import export_model
from tfdare.models import DARE
from tfdare.schema import Feature, Schema
from tfdare.sequences.requests import search_inputs
from tfdare.session import SavedModelSession

BEHAVIORS, CANDIDATES = (1_000, 10_000), 100
ITEMS, CATEGORIES = 100_000, 1_000
NAMES = {"search": "search", "score": "score", "rank": "serving_default"}
TURNS, SECONDS = 60, 5.0
REPORTS = os.path.join("build", "load")


def requests_of(session: SavedModelSession, behaviors: int) -> dict[str, dict[str, np.ndarray]]:
    """Draws the inputs of each signature for one user with a full history."""
    rng = np.random.default_rng(behaviors)
    inputs = {"history_length": np.array([behaviors], np.int32)}
    for name, size in (("item", ITEMS), ("category", CATEGORIES)):
        inputs[f"history_{name}"] = rng.integers(2, size, (1, behaviors))
        inputs[f"target_{name}"] = rng.integers(2, size, (1, CANDIDATES))
    inputs = search_inputs(inputs)
    rows = as_rows(inputs)
    outputs = session.run("search", rows)
    result = SearchResult(outputs["behavior_index"], outputs["attention_score"], 1)
    score = as_rows(score_inputs(inputs, result.behavior_index, result.attention_score))
    return {"search": rows, "score": score, "serving_default": rows}


def as_rows(inputs):
    """Casts ids to int32, which a servable over row ids takes."""
    return {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in inputs.items()}


def measure() -> dict[str, float]:
    """Measures milliseconds and calls a second, by call and length."""
    schema = Schema(
        (Feature("item", ITEMS), Feature("category", CATEGORIES)), window=max(BEHAVIORS)
    )
    figures, outcomes = {}, {}
    with tempfile.TemporaryDirectory() as base:
        path = export_model(DARE(schema, auxiliary_weight=0), base, None)
        session = SavedModelSession(path)
        with (
            serving(os.path.join(base, "dare"), "dare") as server,
            Client(server.address, "dare", timeout=60, id_dtype=np.int32) as client,
            Caller(server.address) as caller,
        ):
            for behaviors in BEHAVIORS:
                inputs = requests_of(session, behaviors)
                for name, signature in NAMES.items():
                    size = f"{name}_{behaviors}x{CANDIDATES}"
                    arrays = inputs[signature]
                    sent = [client.call(signature, arrays).request.SerializeToString()]
                    bare, served = in_turns(
                        lambda: session.run(signature, arrays),
                        lambda: caller.call(sent[0]),
                    )
                    capacity = caller.closed_loop(sent, SECONDS).qps
                    due = schedule(capacity / 2, SECONDS)
                    outcomes[size] = outcome = caller.open_loop(sent, due)
                    if not outcome.good.all():
                        raise RuntimeError(f"{size}: calls failed: {outcome.errors}")
                    p50, p99 = outcome.percentiles(50, 99)
                    figures |= {
                        f"session_ms_p50@{size}": bare,
                        f"served_ms_p50@{size}": served,
                        f"server_cost_ms_p50@{size}": served - bare,
                        f"serve_qps@{size}": capacity,
                        f"serve_ms_p50_half_load@{size}": p50,
                        f"serve_ms_p99_half_load@{size}": p99,
                    }
                    print(
                        f"  {size}: session {bare:.2f} ms, served {served:.2f} ms; "
                        f"{capacity:.0f} a second at most; at half of it p50 {p50:.2f}, "
                        f"p99 {p99:.2f} ms",
                        file=sys.stderr,
                    )
        session.close()
    write_report(REPORTS, outcomes, "at half of the capacity")
    return figures


def in_turns(*calls) -> list[float]:
    """Measures the median milliseconds of each call, in turns."""
    times = [[] for _ in calls]
    for turn in range(TURNS + 5):
        for call, taken in zip(calls, times):
            started = time.perf_counter()
            call()
            if turn >= 5:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) * 1e3 for taken in times]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
