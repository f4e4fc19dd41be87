"""Search through the SavedModel's session: one user, N behaviors, C candidates.

A run goes where ``Session.run`` ends, as in the development server: what that does in Python,
0.3 ms a call, is the same for all that is compared.

In turns, in one process: the exported ``search``; the straight way (gather, one product,
``tf.math.top_k``), the same signature of the same model whose search is not taken apart; the
straight way on a copy of the history for every candidate; and a bound, the product and one pass
over its scores, nothing else. All over row ids of a million items. Writes ``build/search.png``.
"""

from __future__ import annotations

import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

import numpy as np

from serving.server.servable import Servable
from tests.harness import StraightSearch
from tfdare.compat import tf
from tfdare.export.signatures import ServingModule
from tfdare.layers import TopKSearch
from tfdare.models import DARE
from tfdare.schema import Feature, Schema

SIZES = ((200, 3), (1_000, 100), (2_000, 200), (10_000, 500), (50_000, 500))
COPIED = (2_000, 200)
MOST_K, VARIED = (5, 20, 50, 100), (10_000, 500)
DIMS = (32, 16, 8)
ITEMS, CATEGORIES, COLUMNS, TOP_K = 1_000_000, 10_000, 16, 20
SECONDS, TURN = 4.0, 0.25
PLOT = pathlib.Path("build") / "search.png"


class Bound(tf.Module):
    """The product of C queries and N keys, and one pass over the scores."""

    def __init__(self, columns: int):
        super().__init__()

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, columns], name="query"),
                tf.TensorSpec([None, columns], name="key"),
            ],
        )
        def function(query, key):
            return {"highest": tf.reduce_max(tf.matmul(query, key, transpose_b=True), axis=1)}

        self.signatures_by_name = {"search": function.get_concrete_function()}


class Search:
    """The signature ``search`` of a SavedModel."""

    def __init__(self, path: str):
        servable = Servable("search", 1, path)
        definition = servable.signatures["search"]
        self._servable = servable
        self._inputs = {name: info.name for name, info in definition.inputs.items()}
        self._outputs = {name: info.name for name, info in definition.outputs.items()}

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {self._inputs[name]: array for name, array in inputs.items()}
        return dict(zip(self._outputs, self._servable.run(feeds, list(self._outputs.values()))))


def session_of(module: tf.Module, name: str, base: str) -> Search:
    """The module through a SavedModel."""
    path = os.path.join(base, name)
    tf.saved_model.save(module, path, signatures=module.signatures_by_name)
    return Search(path)


def servable(
    base: str, window: int, straight: bool = False, columns: int = COLUMNS, top_k: int = TOP_K
):
    """An exported DARE whose attention tables have `columns`."""
    schema = Schema(
        (Feature("item", ITEMS, columns, 1), Feature("category", CATEGORIES, columns, 1)),
        window=window,
    ).with_dims(columns, 1)
    tf.keras.utils.set_random_seed(0)  # the same tables everywhere
    search = StraightSearch(top_k) if straight else TopKSearch(top_k)
    model = DARE(schema, search=search, evidence=[], auxiliary_weight=0)
    name = f"{'straight' if straight else 'search'}-{window}-{columns}-{top_k}"
    return session_of(ServingModule(model, None), name, base)


def request(behaviors: int, candidates: int) -> dict[str, np.ndarray]:
    """One user's full history and candidates, row ids drawn evenly."""
    rng = np.random.default_rng(behaviors)
    inputs = {"history_length": np.array([behaviors], np.int32)}
    for name, size in (("item", ITEMS), ("category", CATEGORIES)):
        inputs[f"history_{name}"] = rng.integers(2, size, (1, behaviors), dtype=np.int32)
        inputs[f"target_{name}"] = rng.integers(2, size, (1, candidates), dtype=np.int32)
    return inputs


def copied(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as one row for each candidate, each with its own copy of the history."""
    candidates = inputs["target_item"].shape[1]
    return {
        name: array.reshape(candidates, 1)
        if name.startswith("target_")
        else np.repeat(array, candidates, axis=0)
        for name, array in inputs.items()
    }


def in_turns(calls, seconds: float = SECONDS, turn: float = 0.0) -> dict[str, float]:
    """Median milliseconds of each call, in turns whose order is drawn anew each time: what ran
    before leaves caches and threads as it will.

    Where one of them fills all caches and takes many times as long, a turn is calls for that many
    seconds of which the first does not count: each in the state in which it leaves the machine
    itself, and both for as long.
    """
    times = {name: [] for name in calls}
    for call in [*calls.values(), *calls.values()]:
        call()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(times.values()))) < 7:
        for name in random.sample(list(calls), len(calls)):
            if turn:
                calls[name]()
            end = time.perf_counter() + turn
            while True:
                started = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - started)
                if time.perf_counter() >= end:
                    break
    return {name: statistics.median(found) * 1e3 for name, found in times.items()}


def measure() -> dict[str, float]:
    """Milliseconds and ratios, by size."""
    figures, sizes = {}, {}
    with tempfile.TemporaryDirectory() as base:
        bound = session_of(Bound(2 * COLUMNS + 1), "bound", base)
        for behaviors, candidates in SIZES:
            search, straight = (servable(base, behaviors, straight=way) for way in (False, True))
            one = request(behaviors, candidates)
            rng = np.random.default_rng(0)
            query, key = (
                rng.normal(size=(n, 2 * COLUMNS + 1)).astype(np.float32)
                for n in (candidates, behaviors)
            )
            same(search(one), straight(one))
            calls = {
                "search": lambda: search(one),
                "straight": lambda: straight(one),
                "bound": lambda: bound({"query": query, "key": key}),
            }
            size = f"{behaviors}x{candidates}"
            found = sizes[size] = in_turns(calls)
            figures[f"search_ms@{size}"] = found["search"]
            figures[f"search_over_straight@{size}"] = found["straight"] / found["search"]
            if (behaviors, candidates) == COPIED:
                rows = copied(one)
                beside = in_turns(
                    {"search": calls["search"], "copy": lambda: straight(rows)}, 2 * SECONDS, TURN
                )
                figures[f"search_over_copy@{size}"] = beside["copy"] / beside["search"]
                told(f"{size} beside a copy for each candidate", beside)
            figures[f"search_over_bound@{size}"] = found["search"] / found["bound"]
            told(size, found)
        one = request(*VARIED)
        by_k = in_turns(
            {
                f"{way}{k}": lambda session=servable(base, VARIED[0], way == "straight", top_k=k): (
                    session(one)
                )
                for k in MOST_K
                for way in ("search", "straight")
            },
            2 * SECONDS,
        )
        told("by K", by_k)
        by_dim = in_turns(
            {
                dim: lambda session=servable(base, VARIED[0], columns=dim): session(one)
                for dim in DIMS
            }
        )
        told("by columns", by_dim)
    size = "x".join(map(str, VARIED))
    for k in MOST_K:
        ratio = by_k[f"straight{k}"] / by_k[f"search{k}"]
        figures[f"search_over_straight@{size}_k{k}"] = ratio
    for dim in DIMS[1:]:  # of the time with 32 columns a feature
        figures[f"search_saved@{size}_ka{dim}"] = 1 - by_dim[dim] / by_dim[DIMS[0]]
    plot(sizes, by_k, by_dim)
    return figures


def same(one, other) -> None:
    """Refuses to time what does not find the same.

    Raises:
        AssertionError: the scores found differ.
    """
    np.testing.assert_allclose(one["attention_score"], other["attention_score"], atol=1e-5)


def told(what, found) -> None:
    """A line of progress."""
    print(
        f"  {what}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in found.items()),
        file=sys.stderr,
    )


def plot(sizes, by_k, by_dim) -> None:
    """``build/search.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    place = np.arange(len(sizes))
    for shift, (name, label, color) in enumerate(
        (
            ("straight", "straight way", "tab:gray"),
            ("search", "exported search", "tab:blue"),
            ("bound", "product and one pass", "tab:green"),
        )
    ):
        axes[0].bar(
            place + 0.27 * (shift - 1),
            [found[name] for found in sizes.values()],
            0.25,
            label=label,
            color=color,
        )
    axes[0].set_yscale("log")
    axes[0].set_xticks(
        place, [f"{int(n):,} x {c}" for n, c in (s.split("x") for s in sizes)], rotation=20
    )
    axes[0].set(title=f"behaviors x candidates, K = {TOP_K}", ylabel="milliseconds a request")
    of = f"{VARIED[0]:,} x {VARIED[1]}"
    for way, label, color in (
        ("straight", "straight way", "tab:gray"),
        ("search", "exported search", "tab:blue"),
    ):
        axes[1].plot(
            MOST_K, [by_k[f"{way}{k}"] for k in MOST_K], marker="o", color=color, label=label
        )
    axes[1].set(title=f"{of}, by K", xlabel="K", ylim=(0, None))
    axes[2].plot(
        DIMS, [by_dim[dim] for dim in DIMS], marker="o", color="tab:blue", label="exported search"
    )
    axes[2].set(
        title=f"{of}, by attention columns",
        xlabel="columns a feature",
        ylim=(0, 1.2 * max(by_dim.values())),
    )
    axes[2].set_xticks(DIMS)
    for axis in axes:
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    for key, value in sorted(measure().items()):
        print(f"{key:<36} {value:10.3f}")
