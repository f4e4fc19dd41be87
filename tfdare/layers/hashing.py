"""Search and attention by SimHash: vectors of similar direction share most bits of their hash."""

from __future__ import annotations

import numpy as np

from tfdare.compat import register, tf
from tfdare.layers.attention import concat_parts
from tfdare.layers.search import Search


def hash_bits(vectors: tf.Tensor, bits: int, seed: int) -> tf.Tensor:
    """Computes signs of random projections, +1 or -1.

    Args:
        vectors: float ``[..., D]``.
        bits: int. B.
        seed: int. Equal seeds give equal projections, in any process.

    Returns:
        float ``[..., B]``, without a gradient.

    References:
        - [Similarity Estimation Techniques from Rounding
          Algorithms](https://doi.org/10.1145/509907.509965), section 3
    """
    directions = np.random.default_rng(seed).normal(size=(int(vectors.shape[-1]), bits))
    projected = tf.tensordot(
        tf.stop_gradient(vectors), tf.constant(directions, vectors.dtype), axes=1
    )
    return tf.where(projected >= 0, tf.ones_like(projected), -tf.ones_like(projected))


@register
class HashSearch(Search):
    """ETA's search: the K behaviors whose hash differs from the target's in the fewest bits.

    Of equal distances the newer behavior comes first. Behaviors keep their attention scores.

    Args:
        top_k: int. K, behaviors kept for each target.
        recent: int. M, newest behaviors kept in addition. Defaults to 0.
        bits: int. Length of the hash. Defaults to 64.
        seed: int. Seed of the random projections. Defaults to 0.

    Call arguments, returns, raises: see :class:`tfdare.layers.Search`; `query` and `key` are
    needed.

    Raises:
        ValueError: `bits` is not positive.

    References:
        - [End-to-End User Behavior Retrieval (ETA)](https://arxiv.org/abs/2108.04468), section 4.2
    """

    def __init__(self, top_k: int = 20, recent: int = 0, bits: int = 64, seed: int = 0, **kwargs):
        super().__init__(top_k, recent, **kwargs)
        if bits < 1:
            raise ValueError(f"`bits` must be positive. Received: bits={bits}")
        self.bits, self.seed = int(bits), int(seed)

    needs_embeddings = True

    def rank(self, scores, query, key, target, history):
        query_bits = hash_bits(concat_parts(query), self.bits, self.seed)
        key_bits = hash_bits(concat_parts(key), self.bits, self.seed)
        return tf.matmul(query_bits, key_bits, transpose_b=True)  # equal bits minus different bits

    def get_config(self):
        return {**super().get_config(), "bits": self.bits, "seed": self.seed}


@register
class CollisionAttention(tf.keras.layers.Layer):
    """SDIM's attention: a behavior's weight is the number of hash groups equal to the target's.

    The hash is cut into groups of `width` bits; the score is the logarithm of how many groups are
    equal to the target's, so that a softmax over the history averages the behaviors that collide.
    Nothing is learned here: no gradient flows.

    Args:
        groups: int. Hash groups. Defaults to 24.
        width: int. Bits per group. Defaults to 2.
        seed: int. Seed of the random projections. Defaults to 0.

    Call arguments:
        query, key, position_score, target, history, history_length: as of
            :class:`tfdare.layers.ScaledDotAttention`.

    Returns:
        float ``[U, C, N]``; the lowest number of the dtype where no group collides.

    Raises:
        ValueError: `groups` or `width` is not positive.

    References:
        - [Sampling Is All You Need on Modeling Long-Term User Behaviors
          (SDIM)](https://arxiv.org/abs/2205.10249), section 3.2
    """

    def __init__(self, groups: int = 24, width: int = 2, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("groups", groups), ("width", width)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.groups, self.width, self.seed = int(groups), int(width), int(seed)

    def call(self, query, key, position_score=None, target=None, history=None, history_length=None):
        queries, keys = self._buckets(concat_parts(query)), self._buckets(concat_parts(key))
        counts = tf.matmul(queries, keys, transpose_b=True)
        lowest = tf.constant(float(counts.dtype.min), counts.dtype)
        return tf.where(counts > 0.5, tf.math.log(tf.maximum(counts, 1)), lowest)

    def _buckets(self, vectors):
        """Returns one-hot buckets of all groups; each equal group adds one to an inner product."""
        bits = hash_bits(vectors, self.groups * self.width, self.seed)
        shape = tf.concat([tf.shape(bits)[:-1], [self.groups, self.width]], axis=0)
        powers = tf.constant([2**i for i in range(self.width)], tf.int32)
        bucket = tf.reduce_sum(tf.cast(tf.reshape(bits, shape) > 0, tf.int32) * powers, axis=-1)
        one_hot = tf.one_hot(bucket, 2**self.width, dtype=vectors.dtype)
        return tf.reshape(one_hot, tf.concat([shape[:-2], [self.groups * 2**self.width]], axis=0))

    def get_config(self):
        config = {"groups": self.groups, "width": self.width, "seed": self.seed}
        return {**super().get_config(), **config}
