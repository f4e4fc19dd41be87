"""A gradient of rows in which every row is named once."""

from __future__ import annotations

import math
import sys

from tfdare.compat import tf

_SUMMED_AS_THEY_ARE = (tf.float32, tf.float64)
_FEW = 16_384
"""Rows of a table up to which a sum for each costs less than hashing the ids of a batch."""
_NARROW = 32
"""Columns from which the kernel of the product leaves its fast loop."""


def sum_duplicates(gradient: tf.IndexedSlices, table_rows: int | None = None) -> tf.IndexedSlices:
    """The same gradient with every row named once, in the order of first appearance.

    Rows of a table of at most 16,384 are not hashed and come in rising order: between the passes
    over larger tables, which take the caches, hashing costs several times what it costs alone.

    The sums are a product with the sparse 0/1 matrix that sends each slice to its row, whose
    kernel runs over a row in one inner loop. ``tf.math.unsorted_segment_sum`` gives the same
    numbers in 1.3 times the time where ids are distinct and in six to nine times where each comes
    15 times (``optimizer_sum_*`` of ``tests/benchmarks/bench_optimizers.py``). Half precision is
    added in float32. A GPU adds in no fixed order, and TensorFlow refuses the product there under
    ``tf.config.experimental.enable_op_determinism``.

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
    if few:  # a sum for every row of the table, of which those that occur are kept
        place, places = tf.cast(indices, tf.int32), table_rows
        occurs = tf.math.bincount(place, minlength=places, maxlength=places, binary_output=True)
        rows = tf.cast(tf.where(occurs > 0)[:, 0], indices.dtype)
    else:
        rows, place = tf.unique(indices)  # places in int32: half the bytes of int64
        places = tf.size(rows)
    slices = tf.size(place)
    if values.shape[1:].is_fully_defined():
        row_shape = tf.constant(values.shape[1:].as_list(), tf.int32)
        pieces = _pieces(math.prod(values.shape[1:]))
    else:
        row_shape, pieces = tf.shape(values)[1:], 1
    if pieces > 1:  # a wide row is summed as several narrow ones that lie side by side
        place = tf.reshape(place[:, None] * pieces + tf.range(pieces), [-1])
    count = slices * pieces
    kind = values.dtype if values.dtype in _SUMMED_AS_THEY_ARE else tf.float32
    summed = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=_numbered(place, count),
        a_values=tf.ones([count], kind),
        a_shape=tf.cast(tf.stack([places * pieces, count]), tf.int64),
        b=tf.reshape(tf.cast(values, kind), [count, tf.reduce_prod(row_shape) // pieces]),
    )
    summed = tf.reshape(summed, tf.concat([[places], row_shape], axis=0))
    if few:
        summed = tf.gather(summed, rows)
    summed.set_shape([None, *values.shape[1:]])
    return tf.IndexedSlices(tf.cast(summed, values.dtype), rows, gradient.dense_shape)


def _numbered(place, count):
    """``[place[i], i]`` for every i: int32 ``[count, 2]``.

    Written as one int64 of two halves, which takes a third of the time of stacking them.
    """
    number, place = tf.range(tf.cast(count, tf.int64)), tf.cast(place, tf.int64)
    high, low = (number, place) if sys.byteorder == "little" else (place, number)
    return tf.bitcast(high * (1 << 32) + low, tf.int32)


def _pieces(width: int) -> int:
    """Into how many equal pieces a row is cut; 1 if that leaves pieces too small to pay."""
    wide_enough = [p for p in range(1, width // 8 + 1) if width % p == 0 and width // p < _NARROW]
    return min(wide_enough, default=1)
