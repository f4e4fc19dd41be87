"""Pooling: from behaviors and their scores to inputs of the head."""

from __future__ import annotations

from collections.abc import Sequence

from tfdare.compat import deserialize, register, serialize, tf
from tfdare.layers.attention import concat_parts, in_parts
from tfdare.layers.weighting import Average, Weighting


class LinearPooling(tf.keras.layers.Layer):
    """Base of the poolings by weighted sums of behaviors, ``h = sum_i w_i e_i``, per weighting.

    As only the weights depend on the candidate, a training step may pool a whole history that its
    candidates share (`behaviors` ``[U, N, D]``), with weights that are zero for behaviors that
    search left out. A subclass combines target and sums (:meth:`combine`).

    Args:
        weightings: sequence of Weighting. Defaults to ``[Average()]``.

    Call arguments:
        target: float ``[U, C, D]``. Representation of the targets.
        behaviors: float ``[U, C, S, D]``.
        scores: float ``[U, C, S]``.
        real: bool ``[U, C, S]``.
        top_k: int. Slots that search filled; the others hold the newest behaviors.

    Returns:
        float ``[U, C, output_dim(D)]``.
    """

    def __init__(self, weightings: Sequence[Weighting] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.weightings = (
            [Average()]
            if weightings is None
            else [deserialize(weighting) for weighting in weightings]
        )
        if not self.weightings:
            raise ValueError(f"`weightings` must not be empty. Received: {weightings}")

    def build(self, input_shape=None):
        if self.built:
            return
        for weighting in self.weightings:
            weighting.build(None)
        self.built = True

    def output_dim(self, dim: int) -> int:
        """Returns the columns of the output for representations of `dim` columns."""
        raise NotImplementedError

    def combine(self, target: tf.Tensor, sums: Sequence[tf.Tensor]) -> tf.Tensor:
        """Combines target ``[U, C, D]`` and a sum ``[U, C, D]`` per weighting to the output."""
        raise NotImplementedError

    def weigh(self, scores: tf.Tensor, real: tf.Tensor, top_k: int) -> list[tf.Tensor]:
        """Computes the weights ``[U, C, S]`` of every weighting."""
        return [weighting(scores, real, top_k=top_k) for weighting in self.weightings]

    def call(self, target, behaviors, scores, real, top_k):
        weights = tf.stack(self.weigh(scores, real, top_k), axis=2)  # [U, C, weightings, S]
        sums = tf.matmul(weights, behaviors)
        return self.combine(target, tf.unstack(sums, len(self.weightings), axis=2))

    def get_config(self):
        weightings = [serialize(weighting) for weighting in self.weightings]
        return {**super().get_config(), "weightings": weightings}


def pool_shared(weights: tf.Tensor, behaviors) -> tf.Tensor:
    """Computes weighted sums of behaviors that all candidates of a request share.

    Args:
        weights: float ``[U, Q, N]``.
        behaviors: list of parts ``[U, N, D_i]``, or ``[N, D_i]`` where histories share them, too.

    Returns:
        float ``[U, Q, sum of D_i]``.
    """
    return concat_parts(
        [
            tf.matmul(weights, part)
            if part.shape.rank == 3
            else tf.tensordot(weights, part, axes=1)
            for part in in_parts(behaviors)
        ]
    )


def pool_and_compare(
    weights: tf.Tensor, target: tf.Tensor, behaviors
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the sums of :func:`pool_shared` and inner products of targets and behaviors.

    Args:
        weights: float ``[U, Q, N]``.
        target: float ``[U, C, sum of D_i]``.
        behaviors: see :func:`pool_shared`.

    Returns:
        float ``[U, Q, sum of D_i]`` and ``[U, C, N]``.
    """
    parts = in_parts(behaviors)
    targets = tf.split(target, [part.shape[-1] for part in parts], axis=-1)
    sums, products = zip(
        *(
            _both_products(weights, target, part)
            if part.shape.rank == 3
            else (
                tf.tensordot(weights, part, axes=1),
                tf.tensordot(target, part, axes=[[-1], [-1]]),
            )
            for target, part in zip(targets, parts)
        )
    )
    return concat_parts(sums), tf.add_n(products)


@tf.custom_gradient
def _both_products(weights, target, behaviors):
    """Multiplies weights and targets with behaviors, the largest tensor: one gradient for both."""

    def gradient(d_sums, d_products):
        d_behaviors = tf.matmul(
            tf.concat([weights, d_products], axis=1),
            tf.concat([d_sums, target], axis=1),
            transpose_a=True,
        )
        d_weights = tf.matmul(d_sums, behaviors, transpose_b=True)
        return d_weights, tf.matmul(d_products, behaviors), d_behaviors

    sums, products = tf.matmul(weights, behaviors), tf.matmul(target, behaviors, transpose_b=True)
    return (sums, products), gradient


@register
class TargetAwarePooling(LinearPooling):
    """Weighted sums of behaviors, and their products with the target.

    ``h = sum_i w_i e_i``; output ``[v_t, h, v_t * h]``, with ``h, v_t * h`` again for every further
    weighting. As v_t is the same for every i, ``v_t * h`` equals ``sum_i w_i (e_i * v_t)``, the
    target-aware representation.

    Args, call arguments: see :class:`tfdare.layers.LinearPooling`.

    Example:
        >>> found = tf.ones([1, 1, 2, 3]), tf.zeros([1, 1, 2]), tf.constant([[[True, True]]])
        >>> TargetAwarePooling()(2 * tf.ones([1, 1, 3]), *found, top_k=2).numpy().tolist()
        [[[2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]]]

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 4.2
    """

    def output_dim(self, dim):
        return dim * (1 + 2 * len(self.weightings))

    def combine(self, target, sums):
        pairs = [part for h in sums for part in (h, target * h)]
        return tf.concat([target, *pairs], axis=-1)


@register
class PlainPooling(LinearPooling):
    """Weighted sums of behaviors, without their products with the target.

    Output ``[v_t, h]``, with ``h`` again for every further weighting.

    Args, call arguments: see :class:`tfdare.layers.LinearPooling`.

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 5.1 (TWIN w/o TR)
    """

    def output_dim(self, dim):
        return dim * (1 + len(self.weightings))

    def combine(self, target, sums):
        return tf.concat([target, *sums], axis=-1)
