"""Training steps on a vocabulary of Taobao's size, through ``model.fit``.

2,049 examples a step (683 requests x 3 candidates) of 200 behaviors, 16 + 16 columns, auxiliary
loss on; ids drawn uniformly, which gives a batch the most distinct rows it can have. The same
model is fitted with SparseAdam on requests, with Keras's own Adam on requests, with SparseAdam on
one row per example, and with SparseAdam over a tenth of the items, in turns.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from tfdare.compat import tf
from tfdare.losses import CandidateCrossentropy
from tfdare.models import DARE
from tfdare.optimizers import SparseAdam
from tfdare.schema import Feature, Schema

ITEMS, CATEGORIES = 4_068_791, 9_408
REQUESTS, CANDIDATES, WINDOW = 683, 3, 200
ROUNDS, WARM_STEPS = 4, 2


class StepTimes(tf.keras.callbacks.Callback):
    """Seconds from the end of one step to the end of the next."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self):
        return list(np.diff(self.ends))[WARM_STEPS:]


def batches(requests: int, candidates: int, items: int, count: int = 6) -> tf.data.Dataset:
    """Random requests, made once and repeated."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        inputs = {"history_length": np.full(requests, WINDOW, np.int32),
                  "target_length": np.full(requests, candidates, np.int32)}
        for name, size in (("item", items), ("category", CATEGORIES)):
            draw = lambda *shape, high=size: rng.integers(2, high, shape, dtype=np.int32)
            inputs[f"history_{name}"] = draw(requests, WINDOW)
            inputs[f"target_{name}"] = draw(requests, candidates)
        label = (rng.random((requests, candidates)) < 1 / 3).astype(np.float32)
        made.append((inputs, label, np.ones_like(label)))
    stacked = tf.nest.map_structure(lambda *parts: np.stack(parts), *made)
    return tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(2)


def variant(optimizer, requests: int, candidates: int, items: int = ITEMS):
    """A compiled model and its data."""
    schema = Schema((Feature("item", items), Feature("category", CATEGORIES)), window=WINDOW)
    model = DARE(schema)
    model.compile(optimizer=optimizer, loss=CandidateCrossentropy(), jit_compile=False)
    return model, batches(requests, candidates, items)


def measure() -> dict[str, float]:
    """Examples a second and the two ratios of training."""
    rows = REQUESTS * CANDIDATES
    adam = tf.keras.optimizers.Adam(0.01)
    variants = {
        "requests": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES), 14),
        "rows": (variant(SparseAdam(0.01), rows, 1), 8),
        "tenth": (variant(SparseAdam(0.01), REQUESTS, CANDIDATES, ITEMS // 10), 14),
        "dense": (variant(adam, REQUESTS, CANDIDATES), 5),
    }
    seconds = {name: [] for name in variants}
    for turn in range(ROUNDS):
        for name, ((model, data), steps) in variants.items():
            times = StepTimes()
            model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[times],
                      shuffle=False)
            seconds[name] += times.seconds
        print(f"  round {turn + 1} of {ROUNDS}: " + ", ".join(
            f"{name} {statistics.median(times) * 1e3:.0f} ms" for name, times in seconds.items()
        ), file=sys.stderr)
    rate = {name: rows / statistics.median(times) for name, times in seconds.items()}
    return {
        "train_examples_per_s": rate["requests"],
        "train_examples_per_s_dense_adam": rate["dense"],
        "train_examples_per_s_rows": rate["rows"],
        "train_step_4m_items_over_400k": rate["tenth"] / rate["requests"],
        "train_sparse_over_dense": rate["requests"] / rate["dense"],
        "train_requests_over_rows": rate["requests"] / rate["rows"],
    }
