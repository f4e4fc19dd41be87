"""Sums duplicate rows of a sparse gradient."""

from __future__ import annotations

import math
import sys

from tfdare.compat import tf

_SUMMED_IN_OWN_DTYPE = (tf.float32, tf.float64)
_FEW = 16_384
"""Rows of a table up to which summing for every row costs less than hashing a batch's ids."""
_NARROW = 32
"""Number of columns from which the kernel of the product is slower."""


def sum_duplicates(gradient: tf.IndexedSlices, table_rows: int | None = None) -> tf.IndexedSlices:
    """Returns the same gradient with every row listed once, in the order of first appearance.

    Rows of a table of at most 16,384 rows are not hashed and are listed in ascending order: after
    passes over larger tables, which fill the caches, hashing takes several times as long as alone.

    The sums are a product with the sparse 0/1 matrix that sends each slice to its row, whose
    kernel runs over a row in one inner loop. ``tf.math.unsorted_segment_sum`` gives the same
    numbers in 1.3 times the time where ids are distinct and in six to nine times where each comes
    15 times (``optimizer_sum_*_plain_over_this`` of ``tests/benchmarks/bench_optimizers.py``).
    Half precision is added in float32. A GPU adds in no fixed order, and TensorFlow refuses the
    product there under ``tf.config.experimental.enable_op_determinism``.

    Args:
        gradient: IndexedSlices of a ``[V, ...]`` table, N rows in any order, repeats allowed.
        table_rows: int or None. V, if it is known.

    Returns:
        IndexedSlices of U <= N distinct rows; values of equal indices summed, same dtypes.

    Example:
        >>> values, rows = tf.constant([[1.0], [2.0], [4.0]]), tf.constant([7, 3, 7])
        >>> summed = sum_duplicates(tf.IndexedSlices(values, rows))
        >>> summed.indices.numpy().tolist(), summed.values.numpy().tolist()
        ([7, 3], [[5.0], [2.0]])
    """
    values, indices = gradient.values, tf.convert_to_tensor(gradient.indices)
    few = table_rows is not None and table_rows <= _FEW
    if table_rows is None or not few:
        rows, segment = tf.unique(indices)  # segments in int32: half the bytes of int64
        segments = tf.size(rows)
    else:  # a sum for every row of the table, of which those that occur are kept
        segment, segments = tf.cast(indices, tf.int32), table_rows
        occurs = tf.math.bincount(
            segment, minlength=segments, maxlength=segments, binary_output=True
        )
        rows = tf.cast(tf.where(occurs > 0)[:, 0], indices.dtype)
    slices = tf.size(segment)
    if values.shape[1:].is_fully_defined():
        row_shape = tf.constant(values.shape[1:].as_list(), tf.int32)
        pieces = _pieces(math.prod(values.shape[1:]))
    else:
        row_shape, pieces = tf.shape(values)[1:], 1
    if pieces > 1:  # a wide row is summed as several narrow ones that lie side by side
        segment = tf.reshape(segment[:, None] * pieces + tf.range(pieces), [-1])
    count = slices * pieces
    dtype = values.dtype if values.dtype in _SUMMED_IN_OWN_DTYPE else tf.float32
    summed = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=_with_numbers(segment, count),
        a_values=tf.ones([count], dtype),
        a_shape=tf.cast(tf.stack([segments * pieces, count]), tf.int64),
        b=tf.reshape(tf.cast(values, dtype), [count, tf.reduce_prod(row_shape) // pieces]),
    )
    summed = tf.reshape(summed, tf.concat([[segments], row_shape], axis=0))
    if few:
        summed = tf.gather(summed, rows)
    summed.set_shape([None, *values.shape[1:]])
    return tf.IndexedSlices(tf.cast(summed, values.dtype), rows, gradient.dense_shape)


def _with_numbers(segment, count):
    """Returns ``[segment[i], i]`` for every i: int32 ``[count, 2]``.

    Written as one int64 of two halves, which takes a third of the time of stacking them.
    """
    number, segment = tf.range(tf.cast(count, tf.int64)), tf.cast(segment, tf.int64)
    high, low = (number, segment) if sys.byteorder == "little" else (segment, number)
    return tf.bitcast(high * (1 << 32) + low, tf.int32)


def _pieces(width: int) -> int:
    """Returns the number of equal pieces to cut a row into; 1 if pieces would be too small."""
    wide_enough = [p for p in range(1, width // 8 + 1) if width % p == 0 and width // p < _NARROW]
    return min(wide_enough, default=1)
