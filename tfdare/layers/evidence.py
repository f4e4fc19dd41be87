"""Evidence: facts for the head that a weighted average of behaviors does not show.

Most are about the behaviors found; in models that pool the whole history, about all behaviors.
"""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.schema import OOV_ID


@register
class MatchCounts(tf.keras.layers.Layer):
    """How many of the behaviors found share each feature's value with the target.

    ``log(1 + count)`` for every feature. Features with several values are left out, and ids out
    of vocabulary match nothing: equal rows may stand for different ids.

    Call arguments:
        target: mapping of feature name to int ``[U, C]``.
        behaviors: mapping of feature name to int ``[U, C, S]``.
        scores, affinity, mean_score: ignored.
        real: bool ``[U, C, S]``. Slots that hold a behavior.
        top_k: int. Slots that search filled; the others are not counted.

    Returns:
        float ``[U, C, features]``.

    Example:
        >>> ids = {"item": tf.constant([[7]])}, {"item": tf.constant([[[7, 8, 7, 7]]])}
        >>> real = tf.constant([[[True, True, True, False]]])
        >>> counts = MatchCounts()(*ids, tf.zeros([1, 1, 4]), real, top_k=4)
        >>> tf.exp(counts).numpy().round().tolist()
        [[[3.0]]]
    """

    def output_dim(self, embedding) -> int:
        """Returns the columns of the output, given the model's RoleEmbedding."""
        return sum(feature.max_values == 1 for feature in embedding.schema.features)

    def call(self, target, behaviors, scores, real, top_k, affinity=None, mean_score=None):
        searched = tf.logical_and(real, tf.range(tf.shape(real)[-1]) < top_k)
        counts = []
        for name, ids in target.items():
            if ids.shape.rank == 2:
                ids = ids[:, :, tf.newaxis]
                equal = tf.logical_and(behaviors[name] == ids, ids > OOV_ID)
                match = tf.cast(tf.logical_and(searched, equal), scores.dtype)
                counts.append(tf.reduce_sum(match, axis=-1))
        return tf.math.log1p(tf.stack(counts, axis=-1))


@register
class BehaviorCount(tf.keras.layers.Layer):
    """How many behaviors search returned: ``log(1 + count)``, for users with a short history.

    Call arguments:
        target, behaviors, affinity, mean_score: ignored.
        scores: ignored but for its dtype.
        real: bool ``[U, C, S]``. Slots that hold a behavior.
        top_k: int. Slots that search filled; the others are not counted.

    Returns:
        float ``[U, C, 1]``.

    Example:
        >>> real = tf.constant([[[True, True, False]]])
        >>> print(BehaviorCount()({}, {}, tf.zeros([1, 1, 3]), real, top_k=3).numpy().round(3))
        [[[1.099]]]
    """

    def output_dim(self, embedding) -> int:
        """Returns the columns of the output, given the model's RoleEmbedding."""
        return 1

    def call(self, target, behaviors, scores, real, top_k, affinity=None, mean_score=None):
        count = tf.reduce_sum(tf.cast(real[:, :, :top_k], scores.dtype), axis=-1, keepdims=True)
        return tf.math.log1p(count)


@register
class ScoreFacts(tf.keras.layers.Layer):
    """The highest score of the behaviors found, and the logarithm of the sum of exponents.

    A softmax only gives shares; these tell how well the best behavior matches, and how much matches
    in total. Zero where nothing was found.

    Call arguments:
        target, behaviors, affinity, mean_score: ignored.
        scores: float ``[U, C, S]``.
        real: bool ``[U, C, S]``. Slots that hold a behavior.
        top_k: int. Slots that search filled; the others are left out.

    Returns:
        float ``[U, C, 2]``.

    Example:
        >>> scores, real = tf.constant([[[1.0, 1.0, 5.0]]]), tf.constant([[[True, True, False]]])
        >>> print(ScoreFacts()({}, {}, scores, real, top_k=3).numpy().round(3))
        [[[1.    1.693]]]
    """

    def output_dim(self, embedding) -> int:
        """Returns the columns of the output, given the model's RoleEmbedding."""
        return 2

    def call(self, target, behaviors, scores, real, top_k, affinity=None, mean_score=None):
        return _top_and_mass(scores[:, :, :top_k], real[:, :, :top_k])


@register
class AffinityFacts(tf.keras.layers.Layer):
    """The highest affinity of target and behaviors, and the logarithm of the sum of exponents.

    The affinity is ``a_i = <v_t, v_i> / sqrt(D)``, of representations, over the behaviors found.
    The product with the pooled behaviors only shows the affinity to their average; this shows that
    of the closest one. It reads no attention table, so the score stage needs none.

    Call arguments:
        target, behaviors, scores, mean_score: ignored.
        real: bool ``[U, C, S]``. Slots that hold a behavior.
        top_k: int. Slots that search filled; the others are left out.
        affinity: float ``[U, C, S]``.

    Returns:
        float ``[U, C, 2]``.
    """

    needs_affinity = True

    def output_dim(self, embedding) -> int:
        """Returns the columns of the output, given the model's RoleEmbedding."""
        return 2

    def call(self, target, behaviors, scores, real, top_k, affinity=None, mean_score=None):
        return _top_and_mass(affinity[:, :, :top_k], real[:, :, :top_k])


@register
class MeanScore(tf.keras.layers.Layer):
    """The mean attention score of all behaviors of the history, by feature.

    Tells how much the target is like everything that the user did, not only like the behaviors
    found. The mean of inner products is the product with the mean, so that it costs no pass over
    the scores. Scores of position and time gap are left out.

    Call arguments:
        target, behaviors, real, top_k, affinity: ignored.
        scores: ignored but for its dtype.
        mean_score: float ``[U, C, parts]``. 0 where the history is empty.

    Returns:
        float ``[U, C, parts]``: a part for each feature, or as many as
        :meth:`tfdare.layers.RoleEmbedding.attention_parts` returns.
    """

    needs_mean_score = True

    def output_dim(self, embedding) -> int:
        """Returns the columns of the output, given the model's RoleEmbedding."""
        return embedding.attention_part_count

    def call(self, target, behaviors, scores, real, top_k, affinity=None, mean_score=None):
        return tf.cast(mean_score, scores.dtype)


def _top_and_mass(scores, real):
    """Returns the highest score and the log of the sum of exponents: [U, C, 2]; 0 if none."""
    lowest = tf.constant(float(scores.dtype.min), scores.dtype)
    scores = tf.where(real, scores, lowest)
    top = tf.reduce_max(scores, axis=-1)
    top = tf.where(tf.reduce_any(real, axis=-1), top, tf.zeros_like(top))
    exponents = tf.exp(scores - top[:, :, tf.newaxis]) * tf.cast(real, scores.dtype)
    mass = tf.math.log(tf.maximum(tf.reduce_sum(exponents, axis=-1), 1))
    return tf.stack([top, top + mass], axis=-1)
