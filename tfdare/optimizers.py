"""Optimizers that touch only the rows of a table that a batch looked up."""

from __future__ import annotations

from tfdare.compat import KERAS_3, raw, register, tf


def sum_duplicates(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient with every row named once.

    Args:
        gradient: IndexedSlices of a ``[V, D]`` table, rows in any order, repeats allowed.

    Returns:
        IndexedSlices; values of equal indices summed.
    """
    rows, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


@register
class SparseAdam(tf.keras.optimizers.Adam):
    """Adam whose cost does not depend on the size of a table.

    A table's gradient arrives as `tf.IndexedSlices`. Only its rows, and their two moments, are
    read and written; every other row stays bit for bit what it was (Keras's Adam moves all rows
    at every step). Bias correction follows the global step. Dense weights are updated exactly as
    Keras's Adam does, and if a batch touches all rows, so are tables.

    Args:
        learning_rate: float or schedule. Defaults to 0.001.
        beta_1: float. Decay of the first moment. Defaults to 0.9.
        beta_2: float. Decay of the second moment. Defaults to 0.999.
        epsilon: float. Defaults to 1e-7.
        weight_decay: float or None. Decoupled decay; of tables, only the rows of the batch decay.
        **kwargs: further arguments of `tf.keras.optimizers.Adam`, without `amsgrad`.

    Raises:
        ValueError: `amsgrad`, which would need a third slot for every row, is asked for.

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
        name: str = "sparse_adam",
        **kwargs,
    ):
        if kwargs.pop("amsgrad", False):
            raise ValueError("SparseAdam has no `amsgrad`. Received: amsgrad=True")
        if not KERAS_3:
            kwargs["jit_compile"] = False  # XLA cannot hold a number of rows that varies
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate=None):
        """One variable's update. Keras 3 passes the learning rate, Keras 2 does not."""
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate,
                       variable.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            if self._decays(variable):
                raw(variable).assign_sub(variable * (rate * self.weight_decay))
            given = () if learning_rate is None else (learning_rate,)
            return super().update_step(gradient, variable, *given)

        gradient = sum_duplicates(gradient)
        rows, values = gradient.indices, tf.cast(gradient.values, variable.dtype)
        first, second = (raw(slot) for slot in self._slots(variable))
        step = tf.cast(self.iterations + 1, variable.dtype)
        correction = tf.sqrt(1 - tf.pow(tf.cast(self.beta_2, variable.dtype), step)) / (
            1 - tf.pow(tf.cast(self.beta_1, variable.dtype), step)
        )
        m, v = tf.gather(first, rows), tf.gather(second, rows)
        m += (values - m) * (1 - self.beta_1)
        v += (tf.square(values) - v) * (1 - self.beta_2)
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        # Rows are named once here, so they can be written as a whole: `scatter_sub` adds row by
        # row and takes several times as long as a gather and a `scatter_update` together.
        now = tf.gather(raw(variable), rows)
        change = m * (rate * correction) / (tf.sqrt(v) + self.epsilon)
        if self._decays(variable):
            change += now * (rate * self.weight_decay)
        raw(variable).scatter_update(tf.IndexedSlices(now - change, rows))

    def _slots(self, variable):
        key = self._var_key(variable)
        index = self._get_variable_index(variable) if KERAS_3 else self._index_dict[key]
        return self._momentums[index], self._velocities[index]

    def _decays(self, variable):
        return self.weight_decay is not None and self._use_weight_decay(variable)

    def _apply_weight_decay(self, variables):
        """Nothing here: `update_step` decays, and of tables only the rows it touches."""

    def _clip_gradients(self, grads):
        # A norm is wrong while a row's gradient is still in pieces.
        if self.clipnorm or self.global_clipnorm or self.clipvalue:
            grads = [sum_duplicates(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]
        if self.global_clipnorm:
            return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]  # Keras 3's is dense
        return super()._clip_gradients(grads)

    def _deduplicate_sparse_grad(self, grads):
        return grads  # Keras 2 would do what update_step does again

    def get_config(self):
        config = super().get_config()
        config.pop("amsgrad", None)
        config.pop("jit_compile", None)
        config.pop("adaptive_epsilon", None)
        return config
