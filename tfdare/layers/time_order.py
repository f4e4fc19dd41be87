"""Search whose behaviors come in the order of time, for poolings that read a sequence."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.search import TopKSearch, take
from tfdare.layers.top_k import select


@register
class TimeOrderedSearch(TopKSearch):
    """The K behaviors with the highest attention scores, exact, newest first.

    They are those of :class:`TopKSearch`; only their order differs.

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept in addition. Defaults to 0.

    Call arguments, returns, raises: see :class:`tfdare.layers.Search`.

    Example:
        >>> scores = tf.constant([[[3.0, 1.0, 9.0, 5.0]]])
        >>> indices, score = TimeOrderedSearch(2)(scores, tf.constant([3]))
        >>> indices.numpy().tolist(), score.numpy().tolist()
        ([[[0, 2]]], [[[3.0, 9.0]]])
    """

    best_first = False

    def _with_recent(self, indices, score, length, recent_score):
        return super()._with_recent(*newest_to_oldest(indices, score), length, recent_score)


def newest_to_oldest(indices: tf.Tensor, score: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sorts indices and their scores by index, so that the newest behavior comes first.

    Args:
        indices: int32 ``[U, C, K]``; -1 where there is no behavior.
        score: float ``[U, C, K]``.

    Returns:
        Both sorted; slots without a behavior come last.
    """
    last = tf.fill(tf.shape(indices), indices.dtype.max)
    order = tf.argsort(select(indices >= 0, indices, last), stable=True)
    return tf.gather(indices, order, batch_dims=2), take(score, order)
