"""Training steps on a vocabulary of Taobao's size, through ``model.fit``.

2,049 examples a step (683 requests x 3 candidates) of 200 behaviors, 16 + 16 columns, auxiliary
loss on; ids drawn uniformly, which gives a batch the most distinct rows it can have. In turns: DARE
with SparseAdam on requests, with RowwiseAdagrad, with Keras's own Adam, on one row per example,
over a tenth of the items; TWIN; DARE as published, without the facts about matches, and that one in
plain TensorFlow (:mod:`tests.benchmarks.plain_step`); the memory bound (:func:`memory_bound`).
"""

from __future__ import annotations

import random
import statistics
import sys
import time

import numpy as np

from tests.benchmarks.plain_step import PlainStep
from tfdare.compat import tf
from tfdare.losses import CandidateCrossentropy
from tfdare.models import build_model
from tfdare.optimizers import RowwiseAdagrad, SparseAdam
from tfdare.schema import Feature, Schema

ITEMS, CATEGORIES = 4_068_791, 9_408
REQUESTS, CANDIDATES, WINDOW, COLUMNS = 683, 3, 200, 16
ROUNDS, WARM_STEPS = 6, 2


class StepTimes(tf.keras.callbacks.Callback):
    """Seconds from the end of one step to the end of the next."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self):
        return list(np.diff(self.ends))[WARM_STEPS:]


def batches(
    requests: int, candidates: int, items: int, window: int = WINDOW, count: int = 6
) -> tf.data.Dataset:
    """Draws random requests once and repeats them."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(count):
        inputs = {
            "history_length": np.full(requests, window, np.int32),
            "target_length": np.full(requests, candidates, np.int32),
        }
        for name, size in (("item", items), ("category", CATEGORIES)):
            draw = lambda *shape, high=size: rng.integers(2, high, shape, dtype=np.int32)
            inputs[f"history_{name}"] = draw(requests, window)
            inputs[f"target_{name}"] = draw(requests, candidates)
        label = (rng.random((requests, candidates)) < 1 / 3).astype(np.float32)
        parts.append((inputs, label, np.ones_like(label)))
    stacked = tf.nest.map_structure(lambda *arrays: np.stack(arrays), *parts)
    return tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(2)


def variant(
    optimizer,
    requests: int,
    candidates: int,
    items: int = ITEMS,
    model: str = "DARE-learned",
    window: int = WINDOW,
):
    """Returns a compiled model and its data."""
    schema = Schema((Feature("item", items), Feature("category", CATEGORIES)), window=window)
    network = build_model(model, schema)
    network.compile(optimizer=optimizer, loss=CandidateCrossentropy(), jit_compile=False)
    return network, batches(requests, candidates, items, window)


def searched(network, data, count: int = 6) -> tf.data.Dataset:
    """Searches `count` batches once and repeats what search returned, as training reads it."""
    search = tf.function(network.search)
    batches = [(search(inputs), label, weight) for inputs, label, weight in data.take(count)]
    for results, _, _ in batches:
        del results["behavior_index"]
    stacked = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *batches)
    return tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(2)


def memory_bound(side_by_side: bool = False):
    """Returns a function that moves, once, the bytes that a step must move, and nothing else.

    Forward: the rows of all behaviors and targets are gathered. Backward: as many bytes of gradient
    are written. Update: the distinct rows and both their moments are gathered and written back.

    Args:
        side_by_side: bool. Whether the bytes have the cheapest layout, the columns of attention
            and representation in one table and both moments in another, instead of two tables with
            two moments each, with which the stages can be served apart.
    """
    rng = np.random.default_rng(0)
    shape = REQUESTS * (WINDOW + CANDIDATES)
    tables = []
    for size in (ITEMS, CATEGORIES):
        ids = rng.integers(2, size, shape, dtype=np.int32)
        ids, distinct = tf.constant(ids), tf.constant(np.unique(ids))
        widths = [(2 * COLUMNS, [4 * COLUMNS])] if side_by_side else [(COLUMNS, [COLUMNS] * 2)] * 2
        for columns, of_moments in widths:
            rows = tf.Variable(tf.random.uniform([size, columns]))
            moments = [tf.Variable(tf.zeros([size, width])) for width in of_moments]
            tables.append((rows, moments, ids, distinct))

    @tf.function(autograph=False)
    def move():
        for rows, moments, ids, distinct in tables:
            gradient = tf.gather(rows, ids) * 1.0001
            with tf.control_dependencies([gradient]):
                for table in (rows, *moments):
                    table.scatter_update(tf.IndexedSlices(tf.gather(table, distinct), distinct))

    return move


def measure() -> dict[str, float]:
    """Measures examples a second, and the ratios of training."""
    rows = REQUESTS * CANDIDATES
    adam = tf.keras.optimizers.Adam(0.01)
    variants = {
        "requests": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES), 14),
        "published": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES, model="DARE-paper"), 14),
        "twin": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES, model="TWIN"), 14),
        "rowwise": (variant(RowwiseAdagrad(0.1), REQUESTS, CANDIDATES), 14),
        "rows": (variant(SparseAdam(0.01), rows, 1), 8),
        "tenth": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES, ITEMS // 10), 14),
        "dense": (variant(adam, REQUESTS, CANDIDATES), 5),
    }
    given = variant(SparseAdam(0.01), REQUESTS, CANDIDATES, model="DARE")
    variants["given_every_step"] = (given, 14)
    variants["given"] = ((given[0], searched(*given)), 14)
    bounds = {"bound": memory_bound(), "bound_side_by_side": memory_bound(side_by_side=True)}
    plain = PlainStep({"item": ITEMS, "category": CATEGORIES}, WINDOW, COLUMNS)
    requests = iter(batches(REQUESTS, CANDIDATES, ITEMS))
    seconds = {name: [] for name in [*variants, *bounds, "plain"]}
    for turn in range(ROUNDS):
        for name in random.sample(list(variants), len(variants)):  # what ran before leaves traces
            (model, data), steps = variants[name]
            times = StepTimes()
            model.fit(
                data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[times], shuffle=False
            )
            seconds[name] += times.seconds
            if name == "requests":  # the bound beside what it bounds
                for bound, move in bounds.items():
                    seconds[bound] += _times(move, steps)
            if name == "published":  # beside the same model
                seconds["plain"] += _times(lambda: plain.step(*next(requests)[:2]).numpy(), steps)
        print(
            f"  round {turn + 1} of {ROUNDS}: "
            + ", ".join(
                f"{name} {statistics.median(times) * 1e3:.0f} ms" for name, times in seconds.items()
            ),
            file=sys.stderr,
        )
    rate = {name: rows / statistics.median(times) for name, times in seconds.items()}
    return {
        "train_examples_per_s": rate["requests"],
        "train_examples_per_s_published": rate["published"],
        "train_examples_per_s_rowwise_adagrad": rate["rowwise"],
        "train_examples_per_s_twin": rate["twin"],
        "train_examples_per_s_plain": rate["plain"],
        "train_examples_per_s_dense_adam": rate["dense"],
        "train_examples_per_s_rows": rate["rows"],
        "train_examples_per_s_memory_bound": rate["bound"],
        "train_over_memory_bound": rate["bound"] / rate["requests"],
        "train_over_memory_bound_published": rate["bound"] / rate["published"],
        "train_over_memory_bound_side_by_side": rate["bound_side_by_side"] / rate["requests"],
        "train_published_over_plain": rate["published"] / rate["plain"],
        "train_learned_over_twin": rate["requests"] / rate["twin"],
        "train_given_over_learned": rate["given"] / rate["requests"],
        "train_given_every_step_over_learned": rate["given_every_step"] / rate["requests"],
        "train_step_4m_items_over_400k": rate["tenth"] / rate["requests"],
        "train_sparse_over_dense": rate["requests"] / rate["dense"],
        "train_requests_over_rows": rate["requests"] / rate["rows"],
    }


def _times(function, count):
    times = []
    for _ in range(count):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return times[WARM_STEPS:]
