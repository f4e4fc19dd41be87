"""Hard search: behaviors that share a feature's value with the target."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.search import Search


@register
class MatchSearch(Search):
    """The newest K behaviors that share a feature's value with the target ("hard" search).

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept in addition. Defaults to 0.
        feature: str. Feature whose value must be equal. Defaults to ``"category"``.

    Call arguments, returns, raises: see :class:`tfdare.layers.Search`.

    Raises:
        ValueError: target or history lack the feature.

    Example:
        >>> target, history = tf.constant([[7]]), tf.constant([[8, 7, 7]])
        >>> indices, _ = MatchSearch(2)(
        ...     tf.zeros([1, 1, 3]), tf.constant([3]),
        ...     target={"category": target}, history={"category": history},
        ... )
        >>> indices.numpy().tolist()
        [[[1, 2]]]

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), section 3.2 (hard search)
    """

    def __init__(self, top_k: int = 20, recent: int = 0, feature: str = "category", **kwargs):
        super().__init__(top_k, recent, **kwargs)
        self.feature = feature

    def rank(self, scores, query, key, target, history):
        for ids in (target, history):
            if ids is None or self.feature not in ids:
                raise ValueError(
                    f"Hard search needs the feature {self.feature!r}. Received: {sorted(ids or ())}"
                )
        equal = tf.equal(
            target[self.feature][:, :, tf.newaxis], history[self.feature][:, tf.newaxis]
        )
        newest = -tf.cast(tf.range(tf.shape(scores)[-1]), tf.float32)
        return tf.where(equal, newest, -float("inf"))

    def get_config(self):
        return {**super().get_config(), "feature": self.feature}
