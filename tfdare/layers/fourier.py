"""MIRRN's pooling: filters of subsequences in the frequency domain, then attention to them."""

from __future__ import annotations

import math

from tfdare.compat import raw, register, tf
from tfdare.layers.granularity_search import GRANULARITIES
from tfdare.layers.multi_head import MultiHeadPooling


@register
class FourierPooling(tf.keras.layers.Layer):
    """Refines three subsequences by filters, averages each, and attends to the three averages.

    A subsequence X ``[K, D]``, zero where a slot is empty, becomes
    ``LayerNorm(X + F^-1(F(X) W))``, where F is the Fourier transform along the K slots and W a
    complex matrix of blocks along the diagonal, the heads. As W is the same for all frequencies,
    the filter equals ``X Re(W) + H X Im(W)`` with the discrete Hilbert transform H, a constant
    ``[K, K]`` matrix: no transform is computed. The mean over the behaviors of each refined
    subsequence is an interest; multi-head attention of the target pools the three interests h,
    and the output is ``[v_t, h, v_t * h]``.

    Differs from the authors' code: W mixes the columns of a block where the code multiplies each
    column by a number, there is no dropout, and the mean leaves empty slots out. Positions are
    part of the representations, where the schema has them.

    Args:
        blocks: int. Blocks of W, or their greatest common divisor with D. Defaults to 4.
        heads: int. Heads of the attention. Defaults to 4.
        head_dim: int. Columns of a head. Defaults to 8.

    Call arguments:
        target, behaviors, scores, real: as of :class:`tfdare.layers.LinearPooling`; the first
            ``3 * top_k`` slots hold the three subsequences, in time order, as of
            :class:`tfdare.layers.GranularitySearch`. `scores` are ignored.
        top_k: int. Slots of a subsequence.

    Returns:
        float ``[U, C, 3 D]``.

    Raises:
        ValueError: `blocks`, `heads` or `head_dim` is not positive.

    References:
        - [Multi-granularity Interest Retrieval and Refinement Network](
          https://arxiv.org/abs/2411.15005), interest refinement
    """

    def __init__(self, blocks: int = 4, heads: int = 4, head_dim: int = 8, **kwargs):
        super().__init__(**kwargs)
        if blocks < 1:
            raise ValueError(f"`blocks` must be positive. Received: blocks={blocks}")
        self.blocks = int(blocks)
        self.attention = MultiHeadPooling(heads, head_dim, name="attention")
        self.norms = [
            tf.keras.layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}")
            for i in range(GRANULARITIES)
        ]

    def build(self, input_shape):
        if self.built:
            return
        dim = int(input_shape[-1])
        blocks = math.gcd(self.blocks, dim)
        shape = (blocks, dim // blocks, dim // blocks)
        self.filters = [
            [
                self.add_weight(
                    name=f"{part}_{i}",
                    shape=shape,
                    initializer=tf.keras.initializers.RandomNormal(stddev=0.02),
                )
                for part in ("real", "imaginary")
            ]
            for i in range(GRANULARITIES)
        ]
        for norm in self.norms:
            norm.build((None, None, None, dim))
        self.attention.build((None, None, dim))
        self.built = True

    def output_dim(self, dim: int) -> int:
        """Returns the columns of the output for representations of `dim` columns."""
        return self.attention.output_dim(dim)

    def call(self, target, behaviors, scores, real, top_k):
        interests, present = [], []
        for i in range(GRANULARITIES):
            part = slice(i * top_k, (i + 1) * top_k)
            interests.append(self._interest(i, behaviors[:, :, part], real[:, :, part]))
            present.append(tf.reduce_any(real[:, :, part], axis=-1))
        return self.attention(
            target,
            tf.stack(interests, axis=2),
            None,
            tf.stack(present, axis=2),
            top_k=GRANULARITIES,
        )

    def _interest(self, i, behaviors, real):
        """Returns the mean of a refined subsequence, [U, C, D]; zero where it is empty."""
        real = real[..., tf.newaxis]
        behaviors = tf.where(real, behaviors, tf.zeros_like(behaviors))
        filters = [_block_diagonal(tf.cast(raw(w), behaviors.dtype)) for w in self.filters[i]]
        both = tf.tensordot(behaviors, tf.concat(filters, axis=1), axes=1)
        plain, turned = tf.split(both, 2, axis=-1)
        hilbert = tf.cast(hilbert_matrix(tf.shape(behaviors)[2]), behaviors.dtype)
        refined = self.norms[i](behaviors + plain + tf.matmul(hilbert, turned))
        total = tf.reduce_sum(tf.where(real, refined, tf.zeros_like(refined)), axis=2)
        count = tf.reduce_sum(tf.cast(real, total.dtype), axis=2)
        return total / tf.maximum(count, 1)

    def get_config(self):
        return {
            **super().get_config(),
            "blocks": self.blocks,
            "heads": self.attention.heads,
            "head_dim": self.attention.head_dim,
        }


def hilbert_matrix(size) -> tf.Tensor:
    """Computes the matrix H of the discrete Hilbert transform of real sequences.

    ``H x = F^-1(i F(x))`` with the positive frequencies multiplied by the imaginary unit, the
    negative ones by its conjugate, and frequency 0 (and the highest, of an even size) by 0:
    ``H[m, n] = -2 / size * sum_k sin(2 pi k (m - n) / size)`` over the positive frequencies k.

    Args:
        size: int or int32 scalar, positive.

    Returns:
        float32 ``[size, size]``.
    """
    step = tf.range(size)
    product = (step[:, tf.newaxis] - step)[..., tf.newaxis] * tf.range(1, (size + 1) // 2)
    length = tf.cast(size, tf.float32)
    angle = tf.cast(product, tf.float32) * (2 * math.pi) / length
    return -2 / length * tf.reduce_sum(tf.sin(angle), axis=-1)


def _block_diagonal(blocks):
    """Arranges blocks [B, d, d] along the diagonal of a matrix [B d, B d]."""
    count, width = blocks.shape[:2]
    identity = tf.eye(count, dtype=blocks.dtype)[:, tf.newaxis, :, tf.newaxis]
    return tf.reshape(blocks[:, :, tf.newaxis] * identity, [count * width, count * width])
