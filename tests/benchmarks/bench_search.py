"""Search through the SavedModel's session: one user, N behaviors, C candidates.

All calls go through the session of the development server, which leaves out what ``Session.run``
does in Python, 0.3 ms a call.

In turns, in one process: the exported ``search``; the straight way (gather, one product,
``tf.math.top_k``), the same signature of the same model whose search runs in one piece; the
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
    """Saves the module as a SavedModel and loads its ``search``."""
    path = os.path.join(base, name)
    tf.saved_model.save(module, path, signatures=module.signatures_by_name)
    return Search(path)


def servable(
    base: str, window: int, straight: bool = False, columns: int = COLUMNS, top_k: int = TOP_K
):
    """Exports a DARE whose attention tables have `columns`."""
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
    """Draws one user's full history and candidates, row ids uniformly."""
    rng = np.random.default_rng(behaviors)
    inputs = {"history_length": np.array([behaviors], np.int32)}
    for name, size in (("item", ITEMS), ("category", CATEGORIES)):
        inputs[f"history_{name}"] = rng.integers(2, size, (1, behaviors), dtype=np.int32)
        inputs[f"target_{name}"] = rng.integers(2, size, (1, candidates), dtype=np.int32)
    return inputs


def copied(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies a request into a row for each candidate, each with its own copy of the history."""
    candidates = inputs["target_item"].shape[1]
    return {
        name: array.reshape(candidates, 1)
        if name.startswith("target_")
        else np.repeat(array, candidates, axis=0)
        for name, array in inputs.items()
    }


def in_turns(calls, seconds: float = SECONDS, turn: float = 0.0) -> dict[str, float]:
    """Measures the median milliseconds of each call, in turns of a new random order each time.

    The order matters, because a call changes the state of caches and threads for the next one.
    Where one call fills all caches and takes many times as long, `turn` seconds of the same call
    make a turn, of which the first call does not count.
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
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def measure() -> dict[str, float]:
    """Measures milliseconds and ratios, by size."""
    figures, sizes = {}, {}
    with tempfile.TemporaryDirectory() as base:
        bound = session_of(Bound(2 * COLUMNS + 1), "bound", base)
        for behaviors, candidates in SIZES:
            search, straight = (servable(base, behaviors, straight=way) for way in (False, True))
            inputs = request(behaviors, candidates)
            rng = np.random.default_rng(0)
            query, key = (
                rng.normal(size=(n, 2 * COLUMNS + 1)).astype(np.float32)
                for n in (candidates, behaviors)
            )
            check_same(search(inputs), straight(inputs))
            calls = {
                "search": lambda: search(inputs),
                "straight": lambda: straight(inputs),
                "bound": lambda: bound({"query": query, "key": key}),
            }
            size = f"{behaviors}x{candidates}"
            times = sizes[size] = in_turns(calls)
            figures[f"search_ms@{size}"] = times["search"]
            figures[f"search_over_straight@{size}"] = times["straight"] / times["search"]
            if (behaviors, candidates) == COPIED:
                rows = copied(inputs)
                beside = in_turns(
                    {"search": calls["search"], "copy": lambda: straight(rows)}, 2 * SECONDS, TURN
                )
                figures[f"search_over_copy@{size}"] = beside["copy"] / beside["search"]
                print_times(f"{size} beside a copy for each candidate", beside)
            figures[f"search_over_bound@{size}"] = times["search"] / times["bound"]
            print_times(size, times)
        inputs = request(*VARIED)
        by_k = in_turns(
            {
                f"{way}{k}": lambda session=servable(base, VARIED[0], way == "straight", top_k=k): (
                    session(inputs)
                )
                for k in MOST_K
                for way in ("search", "straight")
            },
            2 * SECONDS,
        )
        print_times("by K", by_k)
        by_dim = in_turns(
            {
                dim: lambda session=servable(base, VARIED[0], columns=dim): session(inputs)
                for dim in DIMS
            }
        )
        print_times("by columns", by_dim)
    size = "x".join(map(str, VARIED))
    for k in MOST_K:
        ratio = by_k[f"straight{k}"] / by_k[f"search{k}"]
        figures[f"search_over_straight@{size}_k{k}"] = ratio
    for dim in DIMS[1:]:  # of the time with 32 columns a feature
        figures[f"search_saved@{size}_ka{dim}"] = 1 - by_dim[dim] / by_dim[DIMS[0]]
    plot(sizes, by_k, by_dim)
    return figures


def check_same(search, straight) -> None:
    """Checks that both ways return the same scores.

    Raises:
        AssertionError: the scores differ.
    """
    np.testing.assert_allclose(search["attention_score"], straight["attention_score"], atol=1e-5)


def print_times(title, times) -> None:
    """Prints a line of progress."""
    print(
        f"  {title}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items()),
        file=sys.stderr,
    )


def plot(sizes, by_k, by_dim) -> None:
    """Writes ``build/search.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    x = np.arange(len(sizes))
    for shift, (name, label, color) in enumerate(
        (
            ("straight", "straight way", "tab:gray"),
            ("search", "exported search", "tab:blue"),
            ("bound", "product and one pass", "tab:green"),
        )
    ):
        axes[0].bar(
            x + 0.27 * (shift - 1),
            [times[name] for times in sizes.values()],
            0.25,
            label=label,
            color=color,
        )
    axes[0].set_yscale("log")
    axes[0].set_xticks(
        x, [f"{int(n):,} x {c}" for n, c in (s.split("x") for s in sizes)], rotation=20
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
