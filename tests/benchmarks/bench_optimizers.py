"""One table's update, against moving its bytes and against other ways to compute it.

138,649 row ids (683 requests x 203), drawn uniformly: from 4,068,791 items, nearly all distinct,
and from 9,408 categories, each about 15 times. The functions run in turns, in a new random order
each turn, and figures are medians. ``*_over_bare`` is the whole update, summing of
duplicates included, over a gather and a scatter of the distinct rows of the table and of its slots.
"""

from __future__ import annotations

import random
import statistics
import sys
import time

import numpy as np

from tfdare.compat import raw, tf
from tfdare.optimizers import RowwiseAdagrad, SparseAdagrad, SparseAdam, sum_duplicates

ITEMS, CATEGORIES, IDS = 4_068_791, 9_408, 683 * 203
TURNS = 40


def seconds(functions: dict, arguments: tuple) -> dict[str, float]:
    """Measures the median seconds of each function."""
    taken = {name: [] for name in functions}
    for turn in range(-2, TURNS):
        for name in random.sample(sorted(functions), len(functions)):
            started = time.perf_counter()
            functions[name](*arguments)
            if turn >= 0:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def compiled(function):
    """Compiles a function."""
    return tf.function(function, autograph=False)


def write(variable, rows, values):
    variable.scatter_update(tf.IndexedSlices(values, rows))


def stepping(optimizer, table):
    """Compiles the optimizer's step of the table alone."""
    optimizer.build([table])
    return compiled(
        lambda rows, values: optimizer.apply_gradients([(tf.IndexedSlices(values, rows), table)])
    )


def moving(variables, rows):
    """Compiles a gather and a scatter of distinct rows of each variable."""
    rows = tf.unique(rows)[0]

    def move(*_):
        for variable in variables:
            write(variable, rows, tf.gather(variable, rows))

    return compiled(move)


def summed_by_segments(values, rows):
    """Sums duplicates as TensorFlow's optimizers do; `sum_duplicates` replaces this."""
    distinct, index = tf.unique(rows)
    return distinct, tf.math.unsorted_segment_sum(values, index, tf.size(distinct))


def plain_adam(optimizer, table):
    """Compiles SparseAdam's formula after an unsorted segment sum."""
    first, second = raw(optimizer._momentums[0]), raw(optimizer._velocities[0])

    def step(rows, values):
        rows, g = summed_by_segments(values, rows)
        m, v = tf.gather(first, rows), tf.gather(second, rows)
        m += (g - m) * 0.1
        v += (tf.square(g) - v) * 0.001
        write(first, rows, m)
        write(second, rows, v)
        write(table, rows, tf.gather(table, rows) - m * 1e-3 / (tf.sqrt(v) + 1e-7))

    return compiled(step)


def fused_adagrad(table, accumulator):
    """Compiles TensorFlow's kernel for sparse Adagrad; duplicates are summed by SparseAdagrad's."""

    def step(rows, values):
        gradient = sum_duplicates(tf.IndexedSlices(values, rows))
        tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=table.handle,
            accum=accumulator.handle,
            lr=1e-3,
            epsilon=1e-7,
            grad=gradient.values,
            indices=gradient.indices,
        )

    return compiled(step)


def measure_table(size: int, columns: int) -> dict[str, float]:
    """Measures the seconds of every way to update a table of this size."""
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.integers(0, size, IDS, dtype=np.int32))
    values = tf.constant(rng.normal(size=(IDS, columns)).astype(np.float32))
    table = tf.Variable(tf.zeros([size, columns]))
    adam, adagrad, rowwise = SparseAdam(1e-3), SparseAdagrad(1e-3), RowwiseAdagrad(1e-3)
    functions = {
        "adam": stepping(adam, table),
        "adagrad": stepping(adagrad, table),
        "rowwise": stepping(rowwise, table),
    }
    slots = {
        "adam": [raw(adam._momentums[0]), raw(adam._velocities[0])],
        "adagrad": [raw(adagrad._accumulators[0])],
        "rowwise": [raw(rowwise._row_accumulators[0])],
    }
    for name, held in slots.items():
        functions[f"{name}_bare"] = moving([table, *held], rows)
    functions |= {
        "adam_plain": plain_adam(adam, table),
        "adagrad_fused": fused_adagrad(table, *slots["adagrad"]),
        "sum": compiled(
            lambda rows, values: tf.reduce_max(
                sum_duplicates(tf.IndexedSlices(values, rows), size).values[:, 0]
            )
        ),
        "sum_plain": compiled(
            lambda rows, values: tf.reduce_max(summed_by_segments(values, rows)[1][:, 0])
        ),
    }
    return seconds(functions, (rows, values))


def measure() -> dict[str, float]:
    """Measures the milliseconds of SparseAdam's update, and ratios."""
    figures = {}
    for name, size, columns in (
        ("items_16", ITEMS, 16),
        ("items_32", ITEMS, 32),
        ("categories_16", CATEGORIES, 16),
        ("categories_32", CATEGORIES, 32),
    ):
        taken = measure_table(size, columns)
        print(
            f"  {name}: " + ", ".join(f"{way} {each * 1e3:.1f} ms" for way, each in taken.items()),
            file=sys.stderr,
        )
        figures[f"optimizer_adam_{name}_ms"] = taken["adam"] * 1e3
        if size == ITEMS:  # so few categories lie in the cache: there is nothing to move
            for optimizer in ("adam", "adagrad", "rowwise"):
                figures[f"optimizer_{optimizer}_{name}_over_bare"] = (
                    taken[optimizer] / taken[f"{optimizer}_bare"]
                )
        for way, other in (("adam", "plain"), ("adagrad", "fused"), ("sum", "plain")):
            figures[f"optimizer_{way}_{name}_{other}_over_this"] = (
                taken[f"{way}_{other}"] / taken[way]
            )
    return figures
