"""The first stage: which K behaviors of the whole history matter for this target."""

from __future__ import annotations

from typing import Mapping

import tensorflow as tf

from tfdare.compat import register


@register
class TopKSearch(tf.keras.layers.Layer):
    """The K behaviors with the highest attention scores, exact, highest first.

    Equal scores are won by the newer behavior. What lies beyond a history's length is never
    found; a history with fewer than K behaviors leaves places with index -1 and score 0.

    Args:
        top_k: int. K, behaviors kept for each target.

    Call arguments:
        scores: float ``[U, C, N]``.
        history_length: int ``[U]``.

    Returns:
        ``behavior_index`` int32 ``[U, C, K]`` and ``attention_score`` float ``[U, C, K]``.

    Raises:
        ValueError: `top_k` is not positive.

    Example:
        >>> index, score = TopKSearch(2)(tf.constant([[[3.0, 1.0, 3.0, 9.0]]]), tf.constant([3]))
        >>> index.numpy().tolist(), score.numpy().tolist()
        ([[[2, 0]]], [[[3.0, 3.0]]])

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
        # Newest first, because top_k gives ties to the lower place.
        newest_first = tf.reverse(scores, axis=[-1])
        index = tf.range(behaviors - 1, -1, -1)
        real = index[tf.newaxis, tf.newaxis, :] < tf.cast(history_length, tf.int32)[
            :, tf.newaxis, tf.newaxis
        ]
        newest_first = tf.where(real, newest_first, tf.constant(-float("inf"), scores.dtype))
        kept = tf.minimum(self.top_k, behaviors)
        score, place = tf.math.top_k(newest_first, kept)
        found = behaviors - 1 - place
        missing = [[0, 0], [0, 0], [0, self.top_k - kept]]
        found = tf.pad(found, missing, constant_values=-1)
        score = tf.pad(score, missing)
        real = found < tf.cast(history_length, tf.int32)[:, tf.newaxis, tf.newaxis]
        real = tf.logical_and(real, found >= 0)
        found = tf.where(real, found, -1)
        score = tf.where(real, score, tf.zeros_like(score))
        shape = [scores.shape[0], scores.shape[1], self.top_k]
        return tf.ensure_shape(found, shape), tf.ensure_shape(score, shape)

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k}


def gather_behaviors(
    requests: Mapping[str, tf.Tensor], behavior_index: tf.Tensor, names: tuple[str, ...]
) -> dict[str, tf.Tensor]:
    """The found behaviors themselves, as the score stage takes them.

    Args:
        requests: mapping with ``history_<feature>`` ``[U, N]`` and ``history_length`` ``[U]``.
        behavior_index: int32 ``[U, C, K]``; -1 where nothing was found.
        names: tuple of str. Features to gather.

    Returns:
        ``behavior_<feature>`` ``[U, C, K]`` and ``behavior_position`` int32 ``[U, C, K]``
        (1 is the newest behavior), both 0 where nothing was found.
    """
    found = behavior_index >= 0
    length = tf.cast(requests["history_length"], tf.int32)[:, tf.newaxis, tf.newaxis]
    behaviors = {"behavior_position": tf.where(found, length - behavior_index, 0)}
    # A column of padding in front: index 0 stands for "none", also in an empty history.
    place = behavior_index + 1
    for name in names:
        history = tf.pad(requests[f"history_{name}"], [[0, 0], [1, 0]])
        behaviors[f"behavior_{name}"] = tf.gather(history, place, batch_dims=1)
    return behaviors
