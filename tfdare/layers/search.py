"""The first stage: which behaviors of the whole history matter for this target."""

from __future__ import annotations

from collections.abc import Mapping

from tfdare.compat import register, tf
from tfdare.layers.top_k import Blocks, select, top_k_of_product


class Search(tf.keras.layers.Layer):
    """Base of the searches: the K behaviors that rank highest, and the newest besides.

    Histories come newest first here, so that equal ranks are won by the newer behavior (top-k
    gives them to the lower place) and a place means the same distance in every history. A
    subclass says by what behaviors are ranked (:meth:`rank`).

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept besides, for every target; they fill the last M of
            the K + M slots. Defaults to 0.

    Call arguments:
        scores: float ``[U, C, N]``, attention scores, newest behavior first.
        history_length: int ``[U]``. Behaviors that are real; what lies beyond is never found.
        query, key: attention embeddings, as of :class:`tfdare.layers.ScaledDotAttention`, or None.
        target, history: mappings of feature name to row ids ``[U, C]`` and ``[U, N]``, or None.

    Returns:
        ``place`` int32 ``[U, C, K + M]``, 0 the newest behavior, and ``attention_score`` float
        ``[U, C, K + M]``. Slots without a behavior have place -1 and score 0.

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

    @property
    def slots(self) -> int:
        """K + M, places that an answer has for each target."""
        return self.top_k + self.recent

    needs_embeddings = False
    """Whether :meth:`rank` looks at query and key."""

    def rank(self, scores, query, key, target, history):
        """What behaviors are ranked by, float ``[U, C, N]``; minus infinity is never found."""
        raise NotImplementedError

    def call(self, scores, history_length, query=None, key=None, target=None, history=None):
        length = tf.cast(history_length, tf.int32)[:, tf.newaxis, tf.newaxis]
        ranked = self.rank(scores, query, key, target, history)
        score, place = _highest(ranked, length, self.top_k)
        if ranked is not scores:
            score = take(scores, place)
        place, score = _widen(place, score, self.top_k)
        newest = scores[..., : self.recent] if self.recent else None
        return self._with_newest(place, score, length, newest)

    def _with_newest(self, place, score, length, newest):
        """What was found and, if asked for, the newest behaviors, of which `newest` are scores."""
        if not self.recent:
            return place, score
        among = tf.range(tf.shape(newest)[-1])
        among = tf.broadcast_to(tf.where(among < length, among, -1), tf.shape(newest))
        among, of_them = _widen(among, newest, self.recent)
        return tf.concat([place, among], axis=-1), tf.concat([score, of_them], axis=-1)

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k, "recent": self.recent}


@register
class TopKSearch(Search):
    """The K behaviors with the highest attention scores, exact, highest first.

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept besides. Defaults to 0.

    Call arguments, returns, raises: see :class:`tfdare.layers.Search`.

    Example:
        >>> place, score = TopKSearch(2)(tf.constant([[[3.0, 1.0, 3.0, 9.0]]]), tf.constant([3]))
        >>> place.numpy().tolist(), score.numpy().tolist()
        ([[[0, 2]]], [[[3.0, 3.0]]])

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), general search unit
    """

    def rank(self, scores, query, key, target, history):
        return scores

    @property
    def takes_product(self) -> bool:
        """Whether :meth:`find` does what the call does; a subclass may do something else."""
        kind = type(self)
        return kind.call is Search.call and kind.rank is TopKSearch.rank

    def find(self, query, key, blocks: Blocks, history_length):
        """The same without the scores of all behaviors in memory at once, for inference.

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
        score, place = top_k_of_product(query, key, self.top_k, blocks)
        newest = None
        if self.recent:
            first = blocks.position(tf.range(tf.minimum(self.recent, blocks.behaviors)))
            newest = tf.matmul(query, tf.gather(key, first, axis=1), transpose_b=True)
        found = score > -float("inf")
        place = select(found, place, -tf.ones_like(place))
        score = select(found, score, tf.zeros_like(score))
        return self._with_newest(place, score, length, newest)


@tf.custom_gradient
def _highest(scores, length, top_k):
    """The highest of scores ``[U, C, N]`` among the first `length` places, and their places.

    Place -1 where minus infinity is the highest left.
    """
    among, lowest = tf.range(tf.shape(scores)[-1]), tf.constant(-float("inf"), scores.dtype)
    value, place = tf.math.top_k(
        tf.where(among < length, scores, lowest), tf.minimum(top_k, tf.size(among))
    )
    place = tf.where(tf.logical_and(place < length, value > lowest), place, -1)

    def gradient(of_value, _):
        return spread(of_value, place, tf.shape(scores)), None, None

    return (value, place), gradient


def spread(values: tf.Tensor, place: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Values ``[U, C, K]`` at their places in zeros ``[U, C, N]``; those at place -1 are lost."""
    users, candidates, behaviors = shape[0], shape[1], shape[2]
    row = tf.reshape(tf.range(users * candidates) * behaviors, [users, candidates, 1])
    place = tf.where(place >= 0, row + place, -1)  # a negative segment is dropped
    flat = tf.math.unsorted_segment_sum(values, place, users * candidates * behaviors)
    return tf.reshape(flat, shape)


@tf.custom_gradient
def take(values, place):
    """Values ``[U, C, N]`` at their places ``[U, C, K]``; 0 at place -1."""
    # A column in front for place -1: an empty history has no other.
    padded = tf.pad(values, [[0, 0], [0, 0], [1, 0]])

    def gradient(of_taken):
        return spread(of_taken, place, tf.shape(values)), None

    return tf.gather(padded, place + 1, batch_dims=2), gradient


def _widen(place, score, slots):
    """Both as wide as `slots`, and no score where there is no behavior."""
    missing = [[0, 0], [0, 0], [0, slots - tf.shape(place)[-1]]]
    place = tf.pad(place, missing, constant_values=-1)
    score = tf.pad(score, missing)
    for wide in (place, score):
        wide.set_shape([*wide.shape[:2], slots])
    return place, select(place >= 0, score, tf.zeros_like(score))


def newest_first(history: tf.Tensor, history_length: tf.Tensor) -> tf.Tensor:
    """Each history turned around, its padding left at the end.

    Args:
        history: ``[U, N]`` or ``[U, N, ...]``, oldest behavior first.
        history_length: int ``[U]``.

    Returns:
        The same shape; column ``j`` holds the behavior at position ``j + 1``.
    """
    column = tf.range(tf.shape(history)[1])[tf.newaxis]
    length = tf.cast(history_length, tf.int32)[:, tf.newaxis]
    length = tf.minimum(length, tf.shape(history)[1])
    place = tf.where(column < length, length - 1 - column, column)
    return tf.gather(history, place, batch_dims=1)  # in half the time of tf.reverse_sequence


def gather_behaviors(history: Mapping[str, tf.Tensor], place: tf.Tensor) -> dict[str, tf.Tensor]:
    """The found behaviors themselves, as the score stage takes them.

    Args:
        history: mapping of feature name to ``[U, N]`` or ``[U, N, L]``, newest first.
        place: int32 ``[U, C, K]``; -1 where nothing was found.

    Returns:
        ``behavior_<feature>`` ``[U, C, K]`` or ``[U, C, K, L]`` and ``behavior_position`` int32
        ``[U, C, K]`` (1 is the newest behavior), all 0 where nothing was found.
    """
    behaviors = {"behavior_position": place + 1}
    for name, ids in history.items():
        # A column of padding in front: place -1 stands for "none", also in an empty history.
        padded = tf.pad(ids, [[0, 0], [1, 0], [0, 0]][: ids.shape.rank])
        behaviors[f"behavior_{name}"] = tf.gather(padded, place + 1, batch_dims=1)
    return behaviors
