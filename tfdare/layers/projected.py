"""The embedding of TWIN with linear projections."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.layers.embedding import HISTORY, TARGET
from tfdare.layers.shared import SharedEmbedding


@register
class ProjectedEmbedding(SharedEmbedding):
    """One shared table per feature, with linear projections for query, key and value.

    A cheap way to decouple, common in language models: the target's attention embedding is
    ``W_q e``, a behavior's ``W_k e``, and the representation of both ``W_v e``.

    Args:
        schema: Schema or its dict. As for :class:`SharedEmbedding`.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 3.3 (linear projections)
    """

    def make_tables(self):
        super().make_tables()
        sizes = {
            "query": self.attention_dim,
            "key": self.attention_dim,
            "value": self.representation_dim,
        }
        self.projections = {
            name: self.add_weight(name=name, shape=(size, size), initializer="glorot_uniform")
            for name, size in sizes.items()
        }

    def attention_parts(self, ids, role=HISTORY):
        values = tf.concat(super().attention_parts(ids, role), axis=-1)
        name = "query" if role == TARGET else "key"
        return [tf.tensordot(values, tf.cast(raw(self.projections[name]), values.dtype), axes=1)]

    @property
    def attention_part_count(self):
        return 1

    def representation_parts(self, ids, position, role=HISTORY):
        parts = super().representation_parts(ids, position, role)
        # The map is linear: each part is multiplied with its rows of the weight, without a copy.
        weight = tf.cast(raw(self.projections["value"]), self.compute_dtype)
        rows = tf.split(weight, [part.shape[-1] for part in parts], axis=0)
        mapped = [tf.tensordot(part, row, axes=1) for part, row in zip(parts, rows)]
        return [
            tf.add_n([m for m in mapped if m.shape.rank == mapped[0].shape.rank])
            + sum(m for m in mapped if m.shape.rank != mapped[0].shape.rank)
        ]
