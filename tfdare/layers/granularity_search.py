"""MIRRN's search: behaviors near the target, near the newest behaviors, and near all of them."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.attention import concat_parts
from tfdare.layers.search import Search, take
from tfdare.layers.time_order import newest_to_oldest

GRANULARITIES = 3
"""Queries: the target, the newest behaviors, all behaviors."""


@register
class GranularitySearch(Search):
    """Three searches: by the target, by the mean of the newest behaviors, by the mean of all.

    Every query finds K behaviors, each set newest first; they fill K + K + K slots. The target's
    rank behaviors by their attention scores, the means by inner products with the attention
    embeddings, and find the same behaviors for every target of a request. Behaviors may be found
    by several queries. The paper compares hashes of 32 bits; here all products are exact.

    Args:
        top_k: int. K, behaviors kept for each query. Defaults to 20.
        recent: int. M, newest behaviors kept in addition, in the last M slots. Defaults to 0.
        local: int. How many of the newest behaviors the local query averages. Defaults to 16, as
            in the authors' code.

    Call arguments, returns: see :class:`tfdare.layers.Search`; `query` is ignored, `key` is
    needed. Indices and scores are ``[U, C, 3 K + M]``.

    Raises:
        ValueError: `top_k` or `local` is not positive, or `recent` is negative.

    Example:
        >>> key = tf.constant([[[1.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.0, 9.0]]])
        >>> indices, _ = GranularitySearch(1, local=2)(
        ...     tf.constant([[[0.0, 7.0, 0.0, 0.0]]]), tf.constant([4]), key=key
        ... )
        >>> indices.numpy().tolist()
        [[[1, 0, 3]]]

    References:
        - [Multi-granularity Interest Retrieval and Refinement Network](
          https://arxiv.org/abs/2411.15005), interest retrieval
    """

    def __init__(self, top_k: int = 20, recent: int = 0, local: int = 16, **kwargs):
        super().__init__(top_k, recent, **kwargs)
        if local < 1:
            raise ValueError(f"`local` must be positive. Received: local={local}")
        self.local = int(local)

    needs_embeddings = True
    queries = GRANULARITIES
    best_first = False

    def rank(self, scores, query, key, target, history):
        return scores

    def call(self, scores, history_length, query=None, key=None, target=None, history=None):
        ranked = tf.concat([scores, self._products_with_means(key, history_length)], axis=1)
        indices, score = super().call(ranked, history_length)
        targeted, recent = indices[:, :-2, : self.top_k], indices[:, :-2, self.top_k :]
        kept = [newest_to_oldest(targeted, score[:, :-2, : self.top_k])]
        for query_column in (-2, -1):
            shared = indices[:, query_column, tf.newaxis, : self.top_k]
            shared = tf.broadcast_to(shared, tf.shape(targeted))
            kept.append(newest_to_oldest(shared, take(scores, shared)))
        kept.append((recent, score[:, :-2, self.top_k :]))
        indices, score = (tf.concat(parts, axis=-1) for parts in zip(*kept))
        return indices, score

    def _products_with_means(self, key, history_length):
        """Returns products of behaviors with the mean of the newest and of all: [U, 2, N]."""
        key = tf.stop_gradient(concat_parts(key))
        column = tf.range(tf.shape(key)[1])
        real = column < tf.cast(history_length, tf.int32)[:, tf.newaxis]
        averaged = tf.stack([tf.logical_and(real, column < self.local), real], axis=1)
        weights = tf.cast(averaged, key.dtype)
        weights /= tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1)
        return tf.matmul(tf.matmul(weights, key), key, transpose_b=True)

    def get_config(self):
        return {**super().get_config(), "local": self.local}
