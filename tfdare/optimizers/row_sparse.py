"""Base of the optimizers that update tables by rows."""

from __future__ import annotations

import numbers

from tfdare.compat import KERAS_3, deserialize, raw, serialize, tf
from tfdare.optimizers.duplicates import sum_duplicates

_WITHOUT = {
    "gradient_accumulation_steps": "Keras would keep a dense gradient of every table and add to "
    "all of it at every step; use larger batches",
    "loss_scale_factor": "Keras cannot divide a sparse gradient by it; use a LossScaleOptimizer",
}


class RowSparse:
    """Mixin for an optimizer of Keras: tables are updated by rows, other weights as Keras does.

    A variable whose gradient is `tf.IndexedSlices` is updated as a table in that step. A subclass
    updates the rows in `update_rows`; this class handles the rate, the summing of duplicates,
    decoupled decay, clipping, and the configuration.

    Args:
        table_learning_rate: float, schedule or None. Rate of tables. Defaults to None: the
            `learning_rate` of all other weights.
        **kwargs: arguments of the optimizer of Keras.

    Raises:
        ValueError: `table_learning_rate` is none of these; or `gradient_accumulation_steps` is
            passed, which adds up gradients in a dense copy of every table, or `loss_scale_factor`,
            which Keras cannot apply to a sparse gradient.
    """

    def __init__(self, *, table_learning_rate=None, **kwargs):
        for argument, reason in _WITHOUT.items():
            value = kwargs.pop(argument, None)
            if value is not None:
                raise ValueError(
                    f"{type(self).__name__} has no `{argument}`: {reason}. "
                    f"Received: {argument}={value}"
                )
        if not KERAS_3:
            kwargs["jit_compile"] = False  # XLA needs a fixed number of rows
        super().__init__(**kwargs)
        self._table_learning_rate = self._rate_variable(table_learning_rate)

    @property
    def table_learning_rate(self):
        """Rate of tables at this step. Can be set if it was passed as a float."""
        rate = self._table_learning_rate
        if rate is None:
            return self.learning_rate
        return rate(self.iterations) if _is_schedule(rate) else rate

    @table_learning_rate.setter
    def table_learning_rate(self, value):
        rate = self._table_learning_rate
        if rate is None or _is_schedule(rate):
            raise TypeError(
                "`table_learning_rate` can be set if the optimizer was made with a float. "
                f"Received: table_learning_rate={value}, made with {rate}"
            )
        rate.assign(value)

    def update_rows(self, rows, values, variable, rate):
        """Updates rows of a table and of its slots.

        Args:
            rows: int tensor ``[U]``. Distinct.
            values: tensor ``[U, ...]``. Their gradients, in the variable's dtype.
            variable: the table.
            rate: scalar of the same dtype.
        """
        raise NotImplementedError

    def update_step(self, gradient, variable, learning_rate=None):
        """Updates one variable. Keras 3 passes the learning rate, Keras 2 does not."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        if isinstance(gradient, tf.IndexedSlices):
            if self._table_learning_rate is not None:
                rate = self.table_learning_rate
            summed = sum_duplicates(gradient, variable.shape[0])
            values = tf.cast(summed.values, variable.dtype)
            self.update_rows(summed.indices, values, variable, tf.cast(rate, variable.dtype))
            return
        if self._decays(variable):
            rate = tf.cast(rate, variable.dtype)
            raw(variable).assign_sub(variable * (rate * self.weight_decay))
        arguments = () if learning_rate is None else (learning_rate,)
        super().update_step(gradient, variable, *arguments)

    def _decayed(self, rows, variable, rate):
        """Returns the values of rows after decoupled decay, before their step."""
        return rows * (1 - rate * self.weight_decay) if self._decays(variable) else rows

    def _decays(self, variable):
        return self.weight_decay is not None and self._use_weight_decay(variable)

    def _slot(self, slots, variable):
        """Returns a variable's slot from a list of slots."""
        if KERAS_3:
            return slots[self._get_variable_index(variable)]
        return slots[self._index_dict[self._var_key(variable)]]

    def _rate_variable(self, rate):
        if rate is None or _is_schedule(rate):
            return rate
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
            raise ValueError(
                "`table_learning_rate` must be a float, a LearningRateSchedule or None. "
                f"Received: table_learning_rate={rate!r}"
            )
        if KERAS_3:
            start = tf.keras.initializers.Constant(float(rate))
            return self.add_variable(
                (), start, aggregation="only_first_replica", name="table_learning_rate"
            )
        with tf.init_scope():
            return tf.Variable(
                float(rate),
                dtype=tf.keras.backend.floatx(),
                trainable=False,
                name="table_learning_rate",
            )

    def _apply_weight_decay(self, variables):
        """Does nothing: `update_step` decays, and of tables only the rows that it updates."""

    def _clip_gradients(self, grads):
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return grads
        # Norms are correct only after the gradients of equal rows are summed.
        grads = [sum_duplicates(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]
        if self.global_clipnorm:
            return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]
        if self.clipnorm:
            return [tf.clip_by_norm(g, self.clipnorm) for g in grads]
        return [tf.clip_by_value(g, -self.clipvalue, self.clipvalue) for g in grads]

    def _deduplicate_sparse_grad(self, grads):
        return grads  # Keras 2 would sum duplicates, which update_step does

    def get_config(self):
        config = super().get_config()
        for name in ("jit_compile", *_WITHOUT):
            config.pop(name, None)
        if not isinstance(config["learning_rate"], dict):
            config["learning_rate"] = float(config["learning_rate"])
        rate = self._table_learning_rate
        if rate is not None:
            rate = serialize(rate) if _is_schedule(rate) else float(raw(rate).numpy())
        return {**config, "table_learning_rate": rate}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        with tf.keras.utils.custom_object_scope(custom_objects or {}):
            config["table_learning_rate"] = deserialize(config.get("table_learning_rate"))
        return super().from_config(config, custom_objects)


def _is_schedule(rate) -> bool:
    return isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule)
