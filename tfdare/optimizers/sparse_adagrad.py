"""Adagrad by rows."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.optimizers.row_sparse import RowSparse


@register
class SparseAdagrad(RowSparse, tf.keras.optimizers.Adagrad):
    """Adagrad whose cost does not depend on the size of a table.

    For each row r of a batch with summed gradient g

        accumulator[r] += g ** 2
        table[r] -= rate * g / sqrt(accumulator[r] + epsilon)

    and nothing else is read or written. Dense weights are updated exactly as Keras's Adagrad does,
    and so are tables: there, too, a row without a gradient does not change.

    Rows are gathered, computed on and written back as a whole. TensorFlow's fused
    `ResourceSparseApplyAdagradV2` visits the table once instead, but row after row on its own: for
    138,649 ids out of 4,068,791 it takes at least 1.7 times as long at 16 columns and 2.5 times at
    32, and about as long where a table is so small that it lies in the cache
    (`optimizer_adagrad_*_fused_over_this` of ``tests/benchmarks/bench_optimizers.py``). Its epsilon
    also stands outside of the root.

    Args:
        learning_rate: float or schedule. Defaults to 0.001.
        initial_accumulator_value: float. Defaults to 0.1.
        epsilon: float. Defaults to 1e-7.
        weight_decay: float or None. Decoupled decay; of tables, only the rows of the batch decay.
        table_learning_rate: float, schedule or None. Rate of tables. Defaults to None: the
            `learning_rate`.
        **kwargs: further arguments of `tf.keras.optimizers.Adagrad`, without
            `gradient_accumulation_steps`.

    Raises:
        ValueError: `gradient_accumulation_steps`, which makes gradients dense, is passed.

    Example:
        >>> table = tf.Variable(tf.ones([4, 2]))
        >>> optimizer = SparseAdagrad(0.1, initial_accumulator_value=0.0)
        >>> optimizer.build([table])
        >>> gradient = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([4, 2]))
        >>> _ = optimizer.apply_gradients([(gradient, table)])
        >>> print(table.numpy()[:, 0].round(3))
        [1.  0.9 1.  1. ]

    References:
        - [Adaptive Subgradient Methods for Online Learning and Stochastic
          Optimization](https://jmlr.org/papers/v12/duchi11a.html)
    """

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        table_learning_rate=None,
        name: str = "sparse_adagrad",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
            weight_decay=weight_decay,
            table_learning_rate=table_learning_rate,
            name=name,
            **kwargs,
        )

    def update_rows(self, rows, values, variable, rate):
        table, accumulator = raw(variable), raw(self._slot(self._accumulators, variable))
        total = tf.gather(accumulator, rows) + tf.square(values)
        accumulator.scatter_update(tf.IndexedSlices(total, rows))
        now = self._decayed(tf.gather(table, rows), variable, rate)
        now -= values * (rate * tf.math.rsqrt(total + self.epsilon))
        table.scatter_update(tf.IndexedSlices(now, rows))
