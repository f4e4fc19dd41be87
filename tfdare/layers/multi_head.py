"""Pooling by multi-head attention."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.layers.attention import masked_softmax


@register
class MultiHeadPooling(tf.keras.layers.Layer):
    """Multi-head attention of the target to the behaviors found, within the score stage.

    The scores of search choose behaviors but do not weigh them: every head computes weights from
    its own projections of the representations. With `recent`, a second attention pools the newest
    behaviors that search keeps. Output ``[v_t, h]``, or ``[v_t, h, h_recent]`` with `recent`; with
    `target_aware`, ``v_t * h`` follows each h.

    Args:
        heads: int. Number of heads. Defaults to 2.
        head_dim: int. Columns of a head. Defaults to 64.
        target_aware: bool. Whether products with the target are added. Defaults to True.
        recent: bool. Whether the newest behaviors have a separate attention. Defaults to False.

    Call arguments:
        target, behaviors, scores, real, top_k: as of :class:`tfdare.layers.LinearPooling`.

    Returns:
        float ``[U, C, output_dim(D)]``.

    Raises:
        ValueError: `heads` or `head_dim` is not positive.

    References:
        - [Search-based Interest Model](https://arxiv.org/abs/2006.05639), section 3.3 (exact search
          unit)
    """

    def __init__(
        self,
        heads: int = 2,
        head_dim: int = 64,
        target_aware: bool = True,
        recent: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (("heads", heads), ("head_dim", head_dim)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.heads, self.head_dim = int(heads), int(head_dim)
        self.target_aware, self.recent = bool(target_aware), bool(recent)

    def build(self, input_shape):
        if self.built:
            return
        dim, inner = int(input_shape[-1]), self.heads * self.head_dim

        def kernel(name, rows, columns):
            return self.add_weight(name=name, shape=(rows, columns), initializer="glorot_uniform")

        self.attentions = [
            {
                "query": kernel(f"{name}_query", dim, inner),
                "key": kernel(f"{name}_key", dim, inner),
                "value": kernel(f"{name}_value", dim, inner),
                "output": kernel(f"{name}_output", inner, dim),
            }
            for name in ("searched", "recent")[: 2 if self.recent else 1]
        ]
        self.built = True

    def output_dim(self, dim: int) -> int:
        """Returns the columns of the output for representations of `dim` columns."""
        sums = 2 if self.recent else 1
        return dim * (1 + sums * (2 if self.target_aware else 1))

    def call(self, target, behaviors, scores, real, top_k):
        sums = [
            self._attend(kernels, target, behaviors[:, :, part], real[:, :, part])
            for kernels, part in zip(self.attentions, (slice(None, top_k), slice(top_k, None)))
        ]
        if self.target_aware:
            sums = [part for h in sums for part in (h, target * h)]
        return tf.concat([target, *sums], axis=-1)

    def _attend(self, kernels, target, behaviors, real):
        def project(values, name):
            return tf.tensordot(values, tf.cast(raw(kernels[name]), values.dtype), axes=1)

        heads = [self.heads, self.head_dim]
        shape = tf.shape(behaviors)[:3]
        query = tf.reshape(project(target, "query"), tf.concat([shape[:2], [1], heads], axis=0))
        key = tf.reshape(project(behaviors, "key"), tf.concat([shape, heads], axis=0))
        value = tf.reshape(project(behaviors, "value"), tf.concat([shape, heads], axis=0))
        scores = tf.einsum("ucqhd,uckhd->uchk", query, key) * self.head_dim**-0.5
        weights = masked_softmax(scores, real[:, :, tf.newaxis])
        pooled = tf.einsum("uchk,uckhd->uchd", weights, value)
        inner = self.heads * self.head_dim
        pooled = tf.reshape(pooled, tf.concat([shape[:2], [inner]], axis=0))
        return project(pooled, "output")

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "head_dim": self.head_dim,
            "target_aware": self.target_aware,
            "recent": self.recent,
        }
