"""Adagrad with one accumulator per row of a table."""

from __future__ import annotations

from tfdare.compat import KERAS_3, raw, register, tf
from tfdare.optimizers.row_sparse import RowSparse

MAX_KERNEL_ROWS = 65_536
"""Rows up to which a matrix also gets an accumulator per element, for dense gradients."""


@register
class RowwiseAdagrad(RowSparse, tf.keras.optimizers.Adagrad):
    """Adagrad that keeps one number per row of a table.

    For each row r of a batch with summed gradient g of D columns

        accumulator[r] += mean(g ** 2)
        table[r] -= rate * g / sqrt(accumulator[r] + epsilon)

    so that a table of D columns needs 1 / D of Adagrad's memory, and 1 / 2D of Adam's, and all
    columns of a row share a rate. It is common for large tables in industry (FBGEMM's
    `EXACT_ROWWISE_ADAGRAD`, which adds epsilon to the root instead).

    Dense gradients (kernels, biases) follow plain Adagrad per element, as in Keras. Which kind of
    gradient a matrix will get is not known when slots are created: each matrix has an accumulator
    per row, and up to 65,536 rows one per element as well. A larger matrix counts as a table: if
    its gradient is dense, all its rows are updated by the formula above.

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
        >>> optimizer = RowwiseAdagrad(0.5, initial_accumulator_value=0.0)
        >>> optimizer.build([table])
        >>> gradient = tf.IndexedSlices(tf.constant([[1.0, 7.0]]), tf.constant([1]))
        >>> _ = optimizer.apply_gradients([(gradient, table)])  # the mean of 1 and 49 is 25
        >>> print(table.numpy()[1].round(3))
        [0.9 0.3]

    References:
        - [Adaptive Subgradient Methods for Online Learning and Stochastic
          Optimization](https://jmlr.org/papers/v12/duchi11a.html)
        - [FBGEMM](https://github.com/pytorch/FBGEMM), `rowwise_adagrad` of
          ``fbgemm_gpu/codegen/genscript/optimizers.py``
        - [Deep Learning Recommendation Model for Personalization and Recommendation
          Systems](https://arxiv.org/abs/1906.00091), for models with such tables
    """

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        table_learning_rate=None,
        name: str = "rowwise_adagrad",
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

    def build(self, var_list):
        if self.built if KERAS_3 else getattr(self, "_built", False):
            return
        # Skips Adagrad's own, which would create an accumulator per element for every table.
        super(tf.keras.optimizers.Adagrad, self).build(var_list)
        self._built = True
        self._accumulators, self._row_accumulators = [], []
        for variable in var_list:
            shape, per_element, per_row = variable.shape, None, None
            if len(shape) < 2 or shape[0] <= MAX_KERNEL_ROWS:
                per_element = self._new_slot(variable, shape, "accumulator")
            if len(shape) > 1:
                per_row = self._new_slot(variable, shape[:1], "row_accumulator")
            self._accumulators.append(per_element)
            self._row_accumulators.append(per_element if per_row is None else per_row)

    def _new_slot(self, variable, shape, name):
        value = self.initial_accumulator_value
        if not KERAS_3:
            start = tf.fill(shape, tf.cast(value, variable.dtype))
            return self.add_variable_from_reference(variable, name, initial_value=start)
        owner = getattr(variable, "path", variable.name).replace("/", "_").replace(":", "_")
        start = tf.keras.initializers.Constant(value)
        with self._distribution_strategy.extended.colocate_vars_with(raw(variable)):
            return self.add_variable(shape, start, variable.dtype, name=f"{owner}_{name}")

    def update_step(self, gradient, variable, learning_rate=None):
        if not isinstance(gradient, tf.IndexedSlices):
            if self._slot(self._accumulators, variable) is None:
                gradient = tf.IndexedSlices(gradient, tf.range(tf.shape(gradient)[0]))
        super().update_step(gradient, variable, learning_rate)

    def update_rows(self, rows, values, variable, rate):
        table, accumulator = raw(variable), raw(self._slot(self._row_accumulators, variable))
        columns = list(range(1, len(variable.shape)))
        total = tf.gather(accumulator, rows) + tf.reduce_mean(tf.square(values), columns)
        accumulator.scatter_update(tf.IndexedSlices(total, rows))
        scale = rate * tf.math.rsqrt(total + self.epsilon)
        for _ in columns:
            scale = tf.expand_dims(scale, -1)
        now = self._decayed(tf.gather(table, rows), variable, rate)
        table.scatter_update(tf.IndexedSlices(now - values * scale, rows))
