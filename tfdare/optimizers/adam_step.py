"""A step of Adam on gathered rows, in one pass over them."""

from __future__ import annotations

import uuid

import numpy as np

from tfdare.compat import tf


def adam_step(first, second, weights, gradient, *, rate, step, beta_1, beta_2, epsilon):
    """Computes both moments and the weights after a step of Adam.

    TensorFlow's fused kernel works on variables, so the rows are put into temporary ones: a table's
    update takes a tenth less time than with one op for each term
    (``optimizer_adam_*_plain_over_this`` of ``tests/benchmarks/bench_optimizers.py``). Half
    precision is computed in float32.

    The kernel computes ``1 - beta_2`` in float32; for 0.999 the result is too small by a relative
    1.3e-5, and so is the second moment. Rate and epsilon are scaled so that the weights are not
    affected.

    Args:
        first, second: float ``[U, ...]``. Moments.
        weights: float ``[U, ...]``.
        gradient: float ``[U, ...]``.
        rate: scalar. Learning rate.
        step: int scalar. 1 at the first step.
        beta_1, beta_2, epsilon: float. As in Adam.

    Returns:
        first, second, weights; each of the dtype it came in.

    References:
        - [Adam](https://arxiv.org/abs/1412.6980), section 2
    """
    dtype = tf.float64 if weights.dtype == tf.float64 else tf.float32
    rounded = 1 - dtype.as_numpy_dtype(beta_2)
    scale = float(np.sqrt(float(rounded) / (1 - beta_2))) if beta_2 < 1 else 1.0
    power = tf.cast(step, dtype)
    before = (first, second, weights)
    handles = [_temporary_variable(tf.cast(value, dtype)) for value in before]
    tf.raw_ops.ResourceApplyAdam(
        m=handles[0],
        v=handles[1],
        var=handles[2],
        grad=tf.cast(gradient, dtype),
        beta1_power=tf.pow(tf.cast(beta_1, dtype), power),
        beta2_power=tf.pow(tf.cast(beta_2, dtype), power),
        lr=tf.cast(rate, dtype) * tf.cast(scale, dtype),
        beta1=tf.cast(beta_1, dtype),
        beta2=tf.cast(beta_2, dtype),
        epsilon=tf.cast(epsilon * scale, dtype),
    )
    after = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle in handles]
    for handle in handles:
        tf.raw_ops.DestroyResourceOp(resource=handle)
    for value, old in zip(after, before):
        value.set_shape(old.shape)
    return [tf.cast(value, old.dtype) for value, old in zip(after, before)]


def _temporary_variable(value):
    """Returns the handle of a new variable with a unique name."""
    handle = tf.raw_ops.VarHandleOp(
        dtype=value.dtype, shape=value.shape, shared_name=f"tfdare_{uuid.uuid4()}"
    )
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return handle
