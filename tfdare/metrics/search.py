"""Quality of search: NDCG and recall at K against a known relevance of behaviors."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.search import take


def search_ndcg(relevance: tf.Tensor, index: tf.Tensor, top_k: int | None = None) -> tf.Tensor:
    """Computes NDCG@K of the behaviors that search kept, in its order, for each target.

    ``DCG@K = sum_k relevance(k-th kept) / log2(k + 1)``, divided by that of the most relevant K of
    the whole history in the best order. Gains are linear, as relevance is a quantity (nats of
    mutual information, or an attention weight), not a grade. A behavior kept twice counts once.

    Args:
        relevance: float ``[U, C, N]``, not negative. Of every behavior for every target.
        index: int ``[U, C, S]``. Behaviors kept, best first, as columns of `relevance`; below 0:
            none.
        top_k: int or None. K; None: all S.

    Returns:
        float32 ``[U, C]`` in [0, 1]; NaN where no behavior is relevant.

    Example:
        >>> relevance = tf.constant([[[0.0, 2.0, 1.0]]])
        >>> [round(search_ndcg(relevance, tf.constant([[kept]])).numpy().item(), 4)
        ...  for kept in ([1, 2], [2, 1], [0, -1])]
        [1.0, 0.8597, 0.0]
    """
    relevance, index, best = _first_k(relevance, index, top_k)
    gains = take(relevance, tf.maximum(index, -1))
    dcg = tf.reduce_sum(gains * _discounts(gains), axis=-1)
    ideal = tf.reduce_sum(best * _discounts(best), axis=-1)
    return tf.where(ideal > 0, tf.math.divide_no_nan(dcg, ideal), float("nan"))


def search_recall(relevance: tf.Tensor, index: tf.Tensor, top_k: int | None = None) -> tf.Tensor:
    """Computes Recall@K for each target: the share of relevant behaviors that search kept.

    Relevant are the K most relevant behaviors, or as many as have a relevance above 0; behaviors
    as relevant as the K-th count as well. Arguments, returns: see :func:`search_ndcg`.

    Example:
        >>> relevance = tf.constant([[[0.0, 2.0, 1.0, 1.0]]])
        >>> [search_recall(relevance, tf.constant([[kept]])).numpy().item()
        ...  for kept in ([1, 3], [0, 3], [0, -1])]
        [1.0, 0.5, 0.0]
    """
    relevance, index, best = _first_k(relevance, index, top_k)
    relevant = tf.cast((relevance > 0) & (relevance >= best[..., -1:]), tf.float32)
    hits = tf.reduce_sum(take(relevant, tf.maximum(index, -1)), axis=-1)
    most = tf.cast(tf.shape(best)[-1], tf.float32)
    possible = tf.minimum(tf.reduce_sum(relevant, axis=-1), most)
    return tf.where(possible > 0, tf.math.divide_no_nan(hits, possible), float("nan"))


class _MeanOverTargets(tf.keras.metrics.Metric):
    """Weighted mean of a value per target, over targets with a relevant behavior.

    Call arguments of ``update_state``:
        y_true: float ``[U, C, N]``. Relevance of every behavior.
        y_pred: int ``[U, C, S]``. ``behavior_index`` of what search kept, best first, -1: none.
        sample_weight: ``[U, C]`` or None. 0 on padded candidates, or outside a slice.
    """

    def __init__(self, top_k: int | None = None, name: str | None = None, **kwargs):
        super().__init__(name=name, **kwargs)
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be positive. Received: top_k={top_k}")
        self.top_k = top_k
        self.total = self.add_weight(name="total", initializer="zeros")
        self.targets = self.add_weight(name="targets", initializer="zeros")

    def values(self, y_true, y_pred):
        """Computes the value of each target, float32 ``[U, C]``; NaN where it has none."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = self.values(y_true, y_pred)
        weight = tf.ones_like(values) if sample_weight is None else sample_weight
        weight = tf.broadcast_to(tf.cast(weight, tf.float32), tf.shape(values))
        known = tf.math.is_finite(values) & (weight > 0)
        weight = tf.where(known, weight, 0.0)
        self.total.assign_add(tf.reduce_sum(tf.where(known, values, 0.0) * weight))
        self.targets.assign_add(tf.reduce_sum(weight))

    def merge_state(self, metrics) -> None:
        """Adds the state of other metrics of this kind, such as those of other workers."""
        for metric in metrics:
            if type(metric) is not type(self) or metric.top_k != self.top_k:
                raise ValueError(
                    f"Only {type(self).__name__}(top_k={self.top_k}) can be merged. "
                    f"Received: {type(metric).__name__}, top_k={getattr(metric, 'top_k', None)}"
                )
            self.total.assign_add(tf.convert_to_tensor(metric.total))
            self.targets.assign_add(tf.convert_to_tensor(metric.targets))

    def result(self):
        return tf.math.divide_no_nan(
            tf.convert_to_tensor(self.total), tf.convert_to_tensor(self.targets)
        )

    def get_config(self):
        return {**super().get_config(), "top_k": self.top_k}


@register
class SearchNDCG(_MeanOverTargets):
    """Mean :func:`search_ndcg` over targets, streaming and mergeable.

    Targets without a relevant behavior do not count.

    Args:
        top_k: int or None. K; None: all that search kept.
        name: str. Defaults to ``"search_ndcg"``.

    Example:
        >>> metric = SearchNDCG(top_k=2)
        >>> metric.update_state([[[0.0, 2.0, 1.0]]], [[[2, 1, 0]]])
        >>> round(float(metric.result()), 4)
        0.8597

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 5.3
    """

    def __init__(self, top_k: int | None = None, name: str = "search_ndcg", **kwargs):
        super().__init__(top_k, name, **kwargs)

    def values(self, y_true, y_pred):
        return search_ndcg(y_true, y_pred, self.top_k)


@register
class SearchRecall(_MeanOverTargets):
    """Mean :func:`search_recall` over targets, streaming and mergeable.

    Args: see :class:`SearchNDCG`; the name defaults to ``"search_recall"``.
    """

    def __init__(self, top_k: int | None = None, name: str = "search_recall", **kwargs):
        super().__init__(top_k, name, **kwargs)

    def values(self, y_true, y_pred):
        return search_recall(y_true, y_pred, self.top_k)


def _first_k(relevance, index, top_k):
    """Returns relevance, the first K of the index without repeats, the K highest relevances."""
    relevance = tf.cast(relevance, tf.float32)
    index = tf.cast(index, tf.int32)
    index = index if top_k is None else index[..., :top_k]
    slots = tf.shape(index)[-1]
    same = tf.equal(index[..., :, tf.newaxis], index[..., tf.newaxis, :])
    earlier = tf.linalg.band_part(tf.ones([slots, slots], tf.int32), -1, 0) - tf.eye(
        slots, dtype=tf.int32
    )
    again = tf.reduce_any(same & (earlier > 0), axis=-1)
    index = tf.where(again, -1, index)
    most = tf.minimum(slots if top_k is None else top_k, tf.shape(relevance)[-1])
    return relevance, index, tf.math.top_k(relevance, most).values


def _discounts(gains):
    rank = tf.range(1, tf.shape(gains)[-1] + 1)
    return tf.math.log(2.0) / tf.math.log(tf.cast(rank, tf.float32) + 1)
