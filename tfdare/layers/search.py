"""The first stage: which K behaviors of the whole history matter for this target."""

from __future__ import annotations

from typing import Mapping

from tfdare.compat import register, tf


@register
class TopKSearch(tf.keras.layers.Layer):
    """The K behaviors with the highest attention scores, exact, highest first.

    Histories come newest first here, so that equal scores are won by the newer behavior (top-k
    gives them to the lower place) and a place means the same distance in every history.

    Args:
        top_k: int. K, behaviors kept for each target.

    Call arguments:
        scores: float ``[U, C, N]``, newest behavior first.
        history_length: int ``[U]``. Behaviors that are real; what lies beyond is never found.

    Returns:
        ``place`` int32 ``[U, C, K]``, 0 the newest behavior, and ``attention_score`` float
        ``[U, C, K]``. A history with fewer than K behaviors leaves places of -1 with score 0.

    Raises:
        ValueError: `top_k` is not positive.

    Example:
        >>> place, score = TopKSearch(2)(tf.constant([[[3.0, 1.0, 3.0, 9.0]]]), tf.constant([3]))
        >>> place.numpy().tolist(), score.numpy().tolist()
        ([[[0, 2]]], [[[3.0, 3.0]]])

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), general search unit
    """

    def __init__(self, top_k: int = 20, **kwargs):
        super().__init__(**kwargs)
        if top_k < 1:
            raise ValueError(f"`top_k` must be positive. Received: top_k={top_k}")
        self.top_k = int(top_k)

    def call(self, scores, history_length):
        behaviors = tf.shape(scores)[-1]
        length = tf.cast(history_length, tf.int32)[:, tf.newaxis, tf.newaxis]
        real = tf.range(behaviors) < length
        scores = tf.where(real, scores, tf.constant(-float("inf"), scores.dtype))
        kept = tf.minimum(self.top_k, behaviors)
        score, place = tf.math.top_k(scores, kept)
        missing = [[0, 0], [0, 0], [0, self.top_k - kept]]
        place = tf.pad(place, missing, constant_values=-1)
        score = tf.pad(score, missing)
        real = tf.logical_and(place >= 0, place < length)
        place = tf.where(real, place, -1)
        score = tf.where(real, score, tf.zeros_like(score))
        shape = [scores.shape[0], scores.shape[1], self.top_k]
        return tf.ensure_shape(place, shape), tf.ensure_shape(score, shape)

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k}


def newest_first(history: tf.Tensor, history_length: tf.Tensor) -> tf.Tensor:
    """Each history turned around, its padding left at the end.

    Args:
        history: ``[U, N]``, oldest behavior first.
        history_length: int ``[U]``.

    Returns:
        ``[U, N]``; column ``j`` holds the behavior at position ``j + 1``.
    """
    length = tf.minimum(tf.cast(history_length, tf.int32), tf.shape(history)[1])
    return tf.reverse_sequence(history, tf.maximum(length, 0), seq_axis=1, batch_axis=0)


def gather_behaviors(history: Mapping[str, tf.Tensor], place: tf.Tensor) -> dict[str, tf.Tensor]:
    """The found behaviors themselves, as the score stage takes them.

    Args:
        history: mapping of feature name to ``[U, N]``, newest first.
        place: int32 ``[U, C, K]``; -1 where nothing was found.

    Returns:
        ``behavior_<feature>`` ``[U, C, K]`` and ``behavior_position`` int32 ``[U, C, K]``
        (1 is the newest behavior), both 0 where nothing was found.
    """
    behaviors = {"behavior_position": place + 1}
    for name, ids in history.items():
        # A column of padding in front: place -1 stands for "none", also in an empty history.
        padded = tf.pad(ids, [[0, 0], [1, 0]])
        behaviors[f"behavior_{name}"] = tf.gather(padded, place + 1, batch_dims=1)
    return behaviors
