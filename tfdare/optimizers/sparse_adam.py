"""Adam by rows."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.optimizers.row_sparse import RowSparse


@register
class SparseAdam(RowSparse, tf.keras.optimizers.Adam):
    """Adam whose cost does not depend on the size of a table.

    A table's gradient arrives as `tf.IndexedSlices`. Only its rows, and their two moments, are
    read and written; every other row stays bit for bit what it was (Keras's Adam moves all rows
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
            `gradient_accumulation_steps`, which makes gradients dense, is asked for.

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
        dtype, table = variable.dtype, raw(variable)
        first, second = (raw(self._slot(s, variable)) for s in (self._momentums, self._velocities))
        exact = dtype if dtype == tf.float64 else tf.float32  # half precision makes 1 of 0.999
        step = tf.cast(self.iterations + 1, exact)
        correction = tf.sqrt(1 - tf.pow(tf.cast(self.beta_2, exact), step)) / (
            1 - tf.pow(tf.cast(self.beta_1, exact), step)
        )
        # Not by TensorFlow's fused `ResourceApplyAdam` on variables made for the step: that saves
        # a tenth, but takes 1 - beta_2 in float32, which differs from Keras's by 5e-5.
        m, v = tf.gather(first, rows), tf.gather(second, rows)
        m += (values - m) * (1 - self.beta_1)
        v += (tf.square(values) - v) * (1 - self.beta_2)
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        # Rows are named once here, so they can be written as a whole: `scatter_sub` adds row by
        # row and takes several times as long as a gather and a `scatter_update` together.
        now = self._decayed(tf.gather(table, rows), variable, rate)
        now -= m * (rate * tf.cast(correction, dtype)) / (tf.sqrt(v) + self.epsilon)
        table.scatter_update(tf.IndexedSlices(now, rows))

    def get_config(self):
        config = super().get_config()
        for name in ("amsgrad", "adaptive_epsilon"):
            config.pop(name, None)
        return config
