"""Random gradients of rows, and the optimizers' formulas row by row in float64."""

import math

import numpy as np
import tensorflow as tf

from tfdare.compat import raw
from tfdare.optimizers import RowwiseAdagrad, SparseAdagrad, SparseAdam

ROWS, COLUMNS = 7, 3
BATCHES = [[2, 5, 2], [0], [5, 5, 5, 1], [2, 0, 6], [6, 6]]
OPTIMIZERS = [SparseAdam, SparseAdagrad, RowwiseAdagrad]
CLIPS = [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1}]


def slices(rows, values, table_rows=ROWS):
    values = np.asarray(values, np.float32)
    return tf.IndexedSlices(
        tf.constant(values),
        tf.constant(rows, tf.int32),
        tf.constant([table_rows, *values.shape[1:]]),
    )


def random_slices(rng, rows):
    return slices(rows, rng.normal(size=(len(rows), COLUMNS)))


def start(rng=None):
    rng = rng or np.random.default_rng(0)
    return rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)


def built(optimizer, *variables):
    """Builds an optimizer for the variables, and returns it."""
    optimizer.build(list(variables))
    return optimizer


def decay_rate(initial=0.1):
    """Returns a rate that halves every two steps: a schedule, and a function of the step."""
    schedule = tf.keras.optimizers.schedules.ExponentialDecay(initial, 2, 0.5)
    return schedule, lambda step: initial * 0.5 ** (step / 2)


def slots(optimizer):
    """Returns the slots of a single table; of RowwiseAdagrad the one that is in use."""
    lists = {
        SparseAdam: ["_momentums", "_velocities"],
        SparseAdagrad: ["_accumulators"],
        RowwiseAdagrad: ["_row_accumulators"],
    }[type(optimizer)]
    return [raw(getattr(optimizer, name)[0]).numpy() for name in lists]


class Reference:
    """Updates one table; a subclass has the formula of a row."""

    def __init__(self, table, rate=0.001, decay=0.0, epsilon=1e-7):
        self.table = np.array(table, np.float64)
        self.rate, self.decay, self.epsilon, self.step = rate, decay, epsilon, 0

    def apply(self, rows, values):
        self.step += 1
        rate = self.rate(self.step - 1) if callable(self.rate) else self.rate
        summed = {}
        for row, value in zip(rows, np.asarray(values, np.float64)):
            summed[row] = summed.get(row, 0) + value
        for row, g in summed.items():
            self.table[row] -= rate * self.decay * self.table[row] + rate * self.change(row, g)


class NumpyAdam(Reference):
    def __init__(self, table, beta_1=0.9, beta_2=0.999, **options):
        super().__init__(table, **options)
        self.slots = [np.zeros_like(self.table), np.zeros_like(self.table)]
        self.beta_1, self.beta_2 = beta_1, beta_2

    def change(self, row, g):
        m, v = self.slots
        m[row] = self.beta_1 * m[row] + (1 - self.beta_1) * g
        v[row] = self.beta_2 * v[row] + (1 - self.beta_2) * g * g
        correction = math.sqrt(1 - self.beta_2**self.step) / (1 - self.beta_1**self.step)
        return correction * m[row] / (np.sqrt(v[row]) + self.epsilon)


class NumpyAdagrad(Reference):
    def __init__(self, table, initial_accumulator_value=0.1, **options):
        super().__init__(table, **options)
        self.slots = [np.full_like(self.table, initial_accumulator_value)]

    def change(self, row, g):
        self.slots[0][row] += g * g
        return g / np.sqrt(self.slots[0][row] + self.epsilon)


class NumpyRowwise(Reference):
    def __init__(self, table, initial_accumulator_value=0.1, **options):
        super().__init__(table, **options)
        self.slots = [np.full(len(self.table), initial_accumulator_value)]

    def change(self, row, g):
        self.slots[0][row] += sum(x * x for x in g) / len(g)
        return g / math.sqrt(self.slots[0][row] + self.epsilon)


REFERENCES = {SparseAdam: NumpyAdam, SparseAdagrad: NumpyAdagrad, RowwiseAdagrad: NumpyRowwise}
