"""DARE's embedding: two tables per feature."""

from __future__ import annotations

from tfdare.compat import register
from tfdare.layers.embedding import RoleEmbedding


@register
class DecoupledEmbedding(RoleEmbedding):
    """DARE's embedding: one table per feature for attention, another for representation.

    Gradients of the pooled representation reach the attention tables only through the attention
    weights, and the two dimensions are independent: a small `attention_dim` makes search cheap.

    Args:
        schema: Schema or its dict.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    Example:
        >>> from tfdare.compat import tf
        >>> from tfdare.schema import Feature, Schema
        >>> schema = Schema((Feature("item", 100, attention_dim=4),), window=10)
        >>> embedding = DecoupledEmbedding(schema)
        >>> embedding.build()
        >>> tuple(embedding.attention({"item": tf.constant([[2, 3, 4]])}).shape)
        (1, 3, 4)

    References:
        - [Long-Sequence Recommendation Models Need Decoupled Embeddings](
          https://arxiv.org/abs/2410.02604), section 4.1
    """

    def make_tables(self):
        for side in ("attention", "representation"):
            tables = {
                f.name: self.table(f"{side}_{f.name}", f.vocabulary_size, getattr(f, f"{side}_dim"))
                for f in self.schema.features
            }
            setattr(self, f"{side}_tables", tables)
            self.make_distance_tables(side, side)
