"""DARE's embedding: two tables per feature."""

from __future__ import annotations

from tfdare.compat import register
from tfdare.layers.embedding import RoleEmbedding


@register
class DecoupledEmbedding(RoleEmbedding):
    """DARE's embedding: one table per feature for attention, another for representation.

    Gradients of the pooled representation reach the attention tables only through the attention
    weights, and the two dimensions are independent: a small `attention_dim` makes search cheap.

    With attention *given*, the attention tables are never trained: they hold vectors that say which
    behaviors belong together, such as those of co-occurrence in histories (:meth:`start_from`),
    and position and time gap are no part of the attention side. What search finds then does not
    depend on anything that training changes. Until vectors are set, the tables hold random rows, by
    which a behavior only attends to targets that share its ids.

    Args:
        schema: Schema or its dict.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.
        attention_given: bool. Whether the attention tables are given. Defaults to False: learned.

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

    def __init__(
        self,
        schema,
        initializer_stddev: float = 0.02,
        attention_given: bool = False,
        **kwargs,
    ):
        super().__init__(schema, initializer_stddev, **kwargs)
        self.attention_given = bool(attention_given)

    def make_tables(self):
        for side in ("attention", "representation"):
            given = self.attention_given and side == "attention"
            tables = {
                f.name: self.table(
                    f"{side}_{f.name}", f.vocabulary_size, getattr(f, f"{side}_dim"), given
                )
                for f in self.schema.features
            }
            setattr(self, f"{side}_tables", tables)
            if given:
                self.attention_position_table = None
            else:
                self.make_distance_tables(side, side)

    def get_config(self):
        given = {"attention_given": True} if self.attention_given else {}  # as before, if learned
        return {**super().get_config(), **given}
