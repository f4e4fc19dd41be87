"""Batches of a split for the measurements, and a model's search and attention on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.layers import masked_softmax, newest_first
from tfdare.sequences import Sequences


class UserBatches:
    """Batches ``(requests, label, weight, user)`` of a split; users are bytes ``[U]``.

    Args:
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once. Defaults to 256.
        limit: int or None. Stop after about this many requests. Users are ordered by hash, so the
            first ones are a random sample. Defaults to all.
    """

    def __init__(
        self, sequences: Sequences, split: str, batch_size: int = 256, limit: int | None = None
    ):
        self._source = sequences, split, batch_size
        requests = sequences.requests(split)
        self._batches = -(-(requests if limit is None else min(limit, requests)) // batch_size)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple]:
        read = read_requests(*self._source, with_history_facts=True).take(self._batches)
        for requests, label, weight in read:
            user = requests.pop("user").numpy()
            kept = {n: v for n, v in requests.items() if not n.startswith("target_repeats_")}
            yield kept, label, weight, np.asarray(user)


def search_and_attention(model, requests) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the behaviors that a model's search keeps, and its attention over the whole history.

    Returns:
        ``behavior_index`` int32 ``[U, C, K]``, and the softmax over the whole history, float32
        ``[U, C, N]``, oldest behavior first. A model without search keeps the 20 behaviors with
        the highest attention.
    """
    length = tf.cast(requests["history_length"], tf.int32)
    scores = tf.cast(model.attend(requests), tf.float32)
    real = tf.sequence_mask(length, tf.shape(scores)[-1])[:, tf.newaxis]
    weightings = getattr(model.pooling_layer, "weightings", [])
    weights = masked_softmax(weightings[0].scaled(scores) if weightings else scores, real)
    if model.searches:
        index = _best_first(model.search(requests), model.search_layer)
    else:
        newest = tf.math.top_k(weights, tf.minimum(20, tf.shape(weights)[-1])).indices
        index = length[:, tf.newaxis, tf.newaxis] - 1 - newest
    oldest_first = newest_first(tf.transpose(weights, [0, 2, 1]), length)  # its own inverse
    return index, tf.transpose(oldest_first, [0, 2, 1])


def _best_first(results, search_layer) -> tf.Tensor:
    """Returns the indices that search kept, by falling score where it sorts them by time."""
    index = results["behavior_index"]
    if search_layer.best_first:
        return index
    index, score = index[..., : search_layer.top_k], results["attention_score"]
    score = tf.where(index >= 0, score[..., : search_layer.top_k], -float("inf"))
    order = tf.argsort(score, direction="DESCENDING", stable=True)
    return tf.gather(index, order, batch_dims=2)
