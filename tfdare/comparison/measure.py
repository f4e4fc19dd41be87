"""The cost of serving a trained model: its size, and the time of its search."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.layers.embedding import HISTORY, TARGET
from tfdare.sequences import Sequences

BEHAVIORS, CANDIDATES = 10_000, 100
TURNS = 15


@dataclass(frozen=True)
class Measurement:
    """The cost of serving one model.

    Attributes:
        parameters: int. All weights, moving averages included.
        search_bytes: int. Size of the tables that a search server must hold: those of the
            attention side; for a model of one stage all tables.
        search_ms: float. Median time of search for one user's history and candidates.
        whole_call: bool. Whether the whole model was timed, because it has no search.
    """

    parameters: int
    search_bytes: int
    search_ms: float
    whole_call: bool


def measure_costs(
    models: Mapping,
    sequences: Sequences,
    behaviors: int = BEHAVIORS,
    candidates: int = CANDIDATES,
    turns: int = TURNS,
) -> dict:
    """Times models alternately in one process, so that conditions are the same for all.

    Args:
        models: mapping of any key to RequestModel.
        sequences: Sequences. Real behaviors and targets are taken from the test split.
        behaviors: int. Length of the history.
        candidates: int. Number of targets.
        turns: int. Timed calls of each model.

    Returns:
        Measurement by key.
    """
    requests = make_request(sequences, behaviors, candidates)
    calls: dict[Any, Callable] = {}
    seconds: dict[Any, list[float]] = {key: [] for key in models}
    for key, model in models.items():
        step = tf.function(_step(model), autograph=False)
        calls[key] = step.get_concrete_function(requests)
        _timed(calls[key], requests)  # warm-up
    for _ in range(turns):
        for key in models:
            seconds[key].append(_timed(calls[key], requests))
    return {
        key: Measurement(
            int(model.count_params()),
            search_bytes(model),
            1e3 * statistics.median(seconds[key]),
            not model.searches,
        )
        for key, model in models.items()
    }


def make_request(sequences: Sequences, behaviors: int, candidates: int) -> dict[str, tf.Tensor]:
    """Joins behaviors and targets of several users of the test split into one request."""
    parts: dict[str, list] = {}
    have = {"history": 0, "target": 0}
    wanted = {"history": behaviors, "target": candidates}
    while any(have[kind] < wanted[kind] for kind in wanted):
        before = dict(have)
        for requests, _, _ in read_requests(sequences, "test", 64):
            arrays = {name: value.numpy() for name, value in requests.items()}
            for kind in have:
                length = arrays[f"{kind}_length"]
                real = np.arange(_columns(arrays, kind))[np.newaxis] < length[:, np.newaxis]
                for name in _names(arrays, kind):
                    parts.setdefault(name, []).append(arrays[name][real])
                have[kind] += int(length.sum())
            for name in arrays:
                if name.startswith("context_"):
                    parts.setdefault(name, [arrays[name][:1]])
            if all(have[kind] >= wanted[kind] for kind in wanted):
                break
        if any(have[kind] == before[kind] < wanted[kind] for kind in wanted):
            raise ValueError(f"The test split of {sequences.path!r} holds no behaviors or targets")
    request = {}
    for name, arrays_of_users in parts.items():
        kind = name.split("_", 1)[0]
        joined = np.concatenate(arrays_of_users)
        request[name] = joined if kind == "context" else joined[np.newaxis, : wanted[kind]]
    request["history_length"] = np.array([behaviors], np.int32)
    request["target_length"] = np.array([candidates], np.int32)
    return {name: tf.constant(value) for name, value in request.items()}


def search_bytes(model) -> int:
    """Counts the bytes of the tables that a search server must hold."""
    embedding = model.embedding
    tables = {}
    for side in ("attention",) if model.searches else ("attention", "representation"):
        tables_of_side = [
            embedding.table_of(side, name, role)
            for name in embedding.schema.names
            for role in (HISTORY, TARGET)
        ]
        for name in ("position", "time_gap"):
            tables_of_side.append(getattr(embedding, f"{side}_{name}_table"))
        tables.update({id(table): table for table in tables_of_side if table is not None})
    return sum(math.prod(table.shape) * tf.as_dtype(table.dtype).size for table in tables.values())


def _step(model):
    if model.searches:
        return lambda requests: model.search(requests)["behavior_index"]
    return lambda requests: model(requests, training=False)


def _timed(call, requests) -> float:
    started = time.perf_counter()
    call(requests).numpy()
    return time.perf_counter() - started


def _names(arrays, kind):
    return [n for n in arrays if n.startswith(f"{kind}_") and n != f"{kind}_length"]


def _columns(arrays, kind):
    return arrays[_names(arrays, kind)[0]].shape[1]
