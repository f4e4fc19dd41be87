"""Adam's formula for rows that were gathered, in one pass over them."""

from __future__ import annotations

import uuid

import numpy as np

from tfdare.compat import tf


def adam_step(first, second, weights, gradient, *, rate, step, beta_1, beta_2, epsilon):
    """Both moments and the weights after a step of Adam.

    TensorFlow's fused kernel works on variables, so the rows are put into some that live for this
    step: a tenth of a table's update less than one op for each term (``optimizer_adam_*_plain`` of
    ``tests/benchmarks/bench_optimizers.py``). Half precision is computed in float32.

    The kernel takes ``1 - beta_2`` in float32, 1.3e-5 less than it is for 0.999. The second moment
    is smaller by that share, and rate and epsilon are scaled so that the weights are not affected.

    Args:
        first, second: float ``[U, ...]``. Moments.
        weights: float ``[U, ...]``.
        gradient: float ``[U, ...]``.
        rate: scalar.
        step: int scalar. 1 at the first step.
        beta_1, beta_2, epsilon: float. As of Adam.

    Returns:
        first, second, weights; each of the dtype it came in.

    References:
        - [Adam](https://arxiv.org/abs/1412.6980), section 2
    """
    kind = tf.float64 if weights.dtype == tf.float64 else tf.float32
    given = 1 - kind.as_numpy_dtype(beta_2)
    scale = float(np.sqrt(float(given) / (1 - beta_2))) if beta_2 < 1 else 1.0
    power = tf.cast(step, kind)
    before = (first, second, weights)
    held = [_hold(tf.cast(value, kind)) for value in before]
    tf.raw_ops.ResourceApplyAdam(
        m=held[0],
        v=held[1],
        var=held[2],
        grad=tf.cast(gradient, kind),
        beta1_power=tf.pow(tf.cast(beta_1, kind), power),
        beta2_power=tf.pow(tf.cast(beta_2, kind), power),
        lr=tf.cast(rate, kind) * tf.cast(scale, kind),
        beta1=tf.cast(beta_1, kind),
        beta2=tf.cast(beta_2, kind),
        epsilon=tf.cast(epsilon * scale, kind),
    )
    after = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind) for handle in held]
    for handle in held:
        tf.raw_ops.DestroyResourceOp(resource=handle)
    for value, old in zip(after, before):
        value.set_shape(old.shape)
    return [tf.cast(value, old.dtype) for value, old in zip(after, before)]


def _hold(value):
    """The handle of a variable that no one else can name."""
    handle = tf.raw_ops.VarHandleOp(
        dtype=value.dtype, shape=value.shape, shared_name=f"tfdare_{uuid.uuid4()}"
    )
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return handle
