"""Adam by rows."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.optimizers.adam_step import adam_step
from tfdare.optimizers.row_sparse import RowSparse


@register
class SparseAdam(RowSparse, tf.keras.optimizers.Adam):
    """Adam whose cost does not depend on the size of a table.

    A table's gradient is `tf.IndexedSlices`. Only its rows, and their two moments, are read and
    written; every other row stays the same, bit for bit (Keras's Adam moves all rows
    at every step). Bias correction follows the global step. Dense weights are updated exactly as
    Keras's Adam does, and if a batch touches all rows, so are tables. What Keras does to whole
    variables outside of the step it does to whole tables here, too: `use_ema`, and Keras 3's
    LossScaleOptimizer, which looks for overflows in a dense copy of each gradient (the policy
    `mixed_bfloat16` needs none).

    Args:
        learning_rate: float or schedule. Defaults to 0.001.
        beta_1: float. Decay of the first moment. Defaults to 0.9.
        beta_2: float. Decay of the second moment. Defaults to 0.999.
        epsilon: float. Defaults to 1e-7.
        weight_decay: float or None. Decoupled decay; of tables, only the rows of the batch decay.
        table_learning_rate: float, schedule or None. Rate of tables. Defaults to None: the
            `learning_rate`.
        **kwargs: further arguments of `tf.keras.optimizers.Adam`, without `amsgrad` and
            `gradient_accumulation_steps`.

    Raises:
        ValueError: `amsgrad`, which would need a third slot for every row, or
            `gradient_accumulation_steps`, which makes gradients dense, is passed.

    Example:
        >>> table = tf.Variable(tf.ones([4, 2]))
        >>> optimizer = SparseAdam(0.1)
        >>> optimizer.build([table])
        >>> gradient = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([4, 2]))
        >>> _ = optimizer.apply_gradients([(gradient, table)])
        >>> (table.numpy()[:, 0] == 1).tolist()
        [True, False, True, True]

    References:
        - [Adam](https://arxiv.org/abs/1412.6980), section 2
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101)
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        table_learning_rate=None,
        name: str = "sparse_adam",
        **kwargs,
    ):
        if kwargs.pop("amsgrad", False):
            raise ValueError("SparseAdam has no `amsgrad`. Received: amsgrad=True")
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            table_learning_rate=table_learning_rate,
            name=name,
            **kwargs,
        )

    def update_rows(self, rows, values, variable, rate):
        tables = [raw(self._slot(s, variable)) for s in (self._momentums, self._velocities)]
        tables.append(raw(variable))
        first, second, now = (tf.gather(table, rows) for table in tables)
        now = self._decayed(now, variable, rate)
        stepped = adam_step(
            first,
            second,
            now,
            values,
            rate=rate,
            step=self.iterations + 1,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )
        # Each row occurs once here, so that it can be written as a whole: `scatter_sub` adds row
        # by row and takes several times as long as a gather and a `scatter_update` together.
        for table, after in zip(tables, stepped):
            table.scatter_update(tf.IndexedSlices(after, rows))

    def get_config(self):
        config = super().get_config()
        for name in ("amsgrad", "adaptive_epsilon"):
            config.pop(name, None)
        return config
