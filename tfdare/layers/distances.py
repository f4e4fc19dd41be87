"""Distance between behavior and target, in positions or in time: table rows and scores."""

from __future__ import annotations

import numpy as np

from tfdare.compat import tf
from tfdare.schema import TimeGap


def position_rows(position: tf.Tensor, buckets: np.ndarray) -> tf.Tensor:
    """Returns the table row of each position.

    Args:
        position: int ``[...]``. Distance to the target, 1 for the newest behavior.
        buckets: int ``[window + 1]``. Row of each position within the window; positions beyond
            share its last row.
    """
    return tf.gather(tf.constant(buckets), tf.clip_by_value(position, 0, len(buckets) - 1))


def time_gap_rows(time_gap: tf.Tensor, schema: TimeGap) -> tf.Tensor:
    """Returns the table row of each time gap; 1 is the shortest, row 0 is the target's own."""
    edges = np.minimum(schema.boundaries(), np.iinfo(np.int32).max)
    flat = tf.reshape(tf.cast(time_gap, tf.int32), [-1])
    row = 1 + tf.searchsorted(tf.constant(edges, tf.int32), flat, side="right")
    return tf.reshape(row, tf.shape(time_gap))


def distance_score(table: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Computes scaled products with the target's row, ``<p_i, p_0> / sqrt(D)``.

    Args:
        table: float ``[R, D]``; row 0 is the target's.
        rows: int ``[...]``. Rows of the behaviors.

    Returns:
        float ``[...]``.
    """
    by_row = tf.linalg.matvec(table, table[0]) / float(table.shape[-1]) ** 0.5
    return tf.gather(by_row, rows)
