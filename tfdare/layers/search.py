"""The search stage: which behaviors of the whole history matter for each target.

Histories come newest first here. Behaviors are numbered in that order: index 0 is the newest, and
an index means the same distance to the target in every history.
"""

from __future__ import annotations

from collections.abc import Mapping

from tfdare.compat import register, tf
from tfdare.layers.top_k import Blocks, select, top_k_of_product


class Search(tf.keras.layers.Layer):
    """Base of the searches: the K behaviors that rank highest, and the M newest.

    Of equal ranks the newer behavior comes first, as top-k prefers the lower index. A subclass
    defines what behaviors are ranked by (:meth:`rank`).

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept in addition, for every target; they fill the last M
            of the K + M slots. Defaults to 0.

    Call arguments:
        scores: float ``[U, C, N]``, attention scores, newest behavior first.
        history_length: int ``[U]``. Behaviors that are real; padding after them is never found.
        query, key: attention embeddings, as of :class:`tfdare.layers.ScaledDotAttention`, or None.
        target, history: mappings of feature name to row ids ``[U, C]`` and ``[U, N]``, or None.

    Returns:
        Indices int32 ``[U, C, K + M]`` and their attention scores float ``[U, C, K + M]``. Slots
        without a behavior have index -1 and score 0.

    Raises:
        ValueError: `top_k` is not positive, or `recent` is negative.
    """

    def __init__(self, top_k: int = 20, recent: int = 0, **kwargs):
        super().__init__(**kwargs)
        if top_k < 1:
            raise ValueError(f"`top_k` must be positive. Received: top_k={top_k}")
        if recent < 0:
            raise ValueError(f"`recent` must not be negative. Received: recent={recent}")
        self.top_k, self.recent = int(top_k), int(recent)

    queries = 1
    """How many sets of K behaviors are kept for each target, before the M newest ones."""
    best_first = True
    """Whether a set is in the order of :meth:`rank`; otherwise its newest behavior comes first."""

    @property
    def slots(self) -> int:
        """K for each query, and M: behaviors kept for each target."""
        return self.queries * self.top_k + self.recent

    needs_embeddings = False
    """Whether :meth:`rank` uses query and key."""

    def rank(self, scores, query, key, target, history):
        """Returns the values to rank behaviors by, float [U, C, N]; minus infinity excludes one."""
        raise NotImplementedError

    def call(self, scores, history_length, query=None, key=None, target=None, history=None):
        length = tf.cast(history_length, tf.int32)[:, tf.newaxis, tf.newaxis]
        ranked = self.rank(scores, query, key, target, history)
        score, indices = _highest(ranked, length, self.top_k)
        if ranked is not scores:
            score = take(scores, indices)
        indices, score = _widen(indices, score, self.top_k)
        recent_score = scores[..., : self.recent] if self.recent else None
        return self._with_recent(indices, score, length, recent_score)

    def _with_recent(self, indices, score, length, recent_score):
        """Appends the M newest behaviors and their scores, if M is not 0."""
        if not self.recent:
            return indices, score
        recent = tf.range(tf.shape(recent_score)[-1])
        recent = tf.broadcast_to(tf.where(recent < length, recent, -1), tf.shape(recent_score))
        recent, recent_score = _widen(recent, recent_score, self.recent)
        return tf.concat([indices, recent], axis=-1), tf.concat([score, recent_score], axis=-1)

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k, "recent": self.recent}


@register
class TopKSearch(Search):
    """The K behaviors with the highest attention scores, exact, highest first.

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept in addition. Defaults to 0.

    Call arguments, returns, raises: see :class:`tfdare.layers.Search`.

    Example:
        >>> indices, score = TopKSearch(2)(tf.constant([[[3.0, 1.0, 3.0, 9.0]]]), tf.constant([3]))
        >>> indices.numpy().tolist(), score.numpy().tolist()
        ([[[0, 2]]], [[[3.0, 3.0]]])

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), general search unit
    """

    def rank(self, scores, query, key, target, history):
        return scores

    @property
    def takes_product(self) -> bool:
        """Whether :meth:`find` gives the same as the call; in a subclass it may not."""
        kind = type(self)
        return kind.call is Search.call and kind.rank is TopKSearch.rank

    def find(self, query, key, blocks: Blocks, history_length):
        """Searches without the scores of all behaviors in memory at once, for inference.

        Args:
            query: float ``[U, C, D]``.
            key: float ``[U, size * count, D]``, in the layout of `blocks`. Inner products are the
                scores, minus infinity where there is no behavior.
            blocks: Blocks.
            history_length: int ``[U]``.

        Returns:
            See :class:`tfdare.layers.Search`.
        """
        length = tf.cast(history_length, tf.int32)[:, tf.newaxis, tf.newaxis]
        score, indices = top_k_of_product(query, key, self.top_k, blocks)
        recent_score = None
        if self.recent:
            cells = blocks.cells(tf.range(tf.minimum(self.recent, blocks.behaviors)))
            recent_score = tf.matmul(query, tf.gather(key, cells, axis=1), transpose_b=True)
        real = score > -float("inf")
        indices = select(real, indices, -tf.ones_like(indices))
        score = select(real, score, tf.zeros_like(score))
        return self._with_recent(indices, score, length, recent_score)


@tf.custom_gradient
def _highest(scores, length, top_k):
    """Returns the highest of the first `length` scores ``[U, C, N]`` and their indices.

    Index -1 where only minus infinity is left.
    """
    behaviors, lowest = tf.range(tf.shape(scores)[-1]), tf.constant(-float("inf"), scores.dtype)
    value, indices = tf.math.top_k(
        tf.where(behaviors < length, scores, lowest), tf.minimum(top_k, tf.size(behaviors))
    )
    indices = tf.where(tf.logical_and(indices < length, value > lowest), indices, -1)

    def gradient(upstream, _):
        return spread(upstream, indices, tf.shape(scores)), None, None

    return (value, indices), gradient


def spread(values: tf.Tensor, indices: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Adds values ``[U, C, K]`` at their indices to zeros ``[U, C, N]``; index -1 is dropped."""
    users, candidates, behaviors = shape[0], shape[1], shape[2]
    row = tf.reshape(tf.range(users * candidates) * behaviors, [users, candidates, 1])
    segments = tf.where(indices >= 0, row + indices, -1)  # a negative segment is dropped
    flat = tf.math.unsorted_segment_sum(values, segments, users * candidates * behaviors)
    return tf.reshape(flat, shape)


@tf.custom_gradient
def take(values, indices):
    """Returns the values ``[U, C, N]`` at indices ``[U, C, K]``; 0 at index -1."""
    # Index -1 reads a column of zeros in front, the only column of an empty history.
    padded = tf.pad(values, [[0, 0], [0, 0], [1, 0]])

    def gradient(upstream):
        return spread(upstream, indices, tf.shape(values)), None

    return tf.gather(padded, indices + 1, batch_dims=2), gradient


def _widen(indices, score, slots):
    """Pads both to `slots` columns and zeroes scores without a behavior."""
    missing = [[0, 0], [0, 0], [0, slots - tf.shape(indices)[-1]]]
    indices = tf.pad(indices, missing, constant_values=-1)
    score = tf.pad(score, missing)
    for padded in (indices, score):
        padded.set_shape([*padded.shape[:2], slots])
    return indices, select(indices >= 0, score, tf.zeros_like(score))


def newest_first(history: tf.Tensor, history_length: tf.Tensor) -> tf.Tensor:
    """Reverses each history; its padding stays at the end.

    Args:
        history: ``[U, N]`` or ``[U, N, ...]``, oldest behavior first.
        history_length: int ``[U]``.

    Returns:
        The same shape; column ``j`` holds the behavior at position ``j + 1``.
    """
    column = tf.range(tf.shape(history)[1])[tf.newaxis]
    length = tf.cast(history_length, tf.int32)[:, tf.newaxis]
    length = tf.minimum(length, tf.shape(history)[1])
    source = tf.where(column < length, length - 1 - column, column)
    return tf.gather(history, source, batch_dims=1)  # in half the time of tf.reverse_sequence


def gather_behaviors(history: Mapping[str, tf.Tensor], indices: tf.Tensor) -> dict[str, tf.Tensor]:
    """Gathers the behaviors that search found, as inputs of the score stage.

    Args:
        history: mapping of feature name to ``[U, N]`` or ``[U, N, L]``, newest first.
        indices: int32 ``[U, C, K]``; -1 where nothing was found.

    Returns:
        ``behavior_<feature>`` ``[U, C, K]`` or ``[U, C, K, L]`` and ``behavior_position`` int32
        ``[U, C, K]`` (1 is the newest behavior), all 0 where nothing was found.
    """
    behaviors = {"behavior_position": indices + 1}
    for name, ids in history.items():
        # Index -1 reads a column of padding in front, the only column of an empty history.
        padded = tf.pad(ids, [[0, 0], [1, 0], [0, 0]][: ids.shape.rank])
        behaviors[f"behavior_{name}"] = tf.gather(padded, indices + 1, batch_dims=1)
    return behaviors
