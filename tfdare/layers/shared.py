"""TWIN's embedding: one table per feature for attention and representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdare.compat import register
from tfdare.layers.embedding import RoleEmbedding
from tfdare.schema import Schema, SchemaError


@register
class SharedEmbedding(RoleEmbedding):
    """TWIN's embedding: one table per feature for attention and representation.

    Args:
        schema: Schema or its dict. `attention_dim` and `representation_dim` of a feature must be
            equal, and those of position and time gap; there, 0 for both leaves it out.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    Raises:
        SchemaError: the two dimensions of a feature, of position or of time gap differ.

    References:
        - [TWIN: TWo-stage Interest Network](https://arxiv.org/abs/2302.02352)
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], initializer_stddev: float = 0.02, **kwargs
    ):
        super().__init__(schema, initializer_stddev, **kwargs)
        schema = self.schema
        distances = [part for part in (schema.position, schema.time_gap) if part is not None]
        for part in [*schema.features, *distances]:
            if part.attention_dim != part.representation_dim:
                raise SchemaError(
                    "A shared table needs `attention_dim` equal to `representation_dim`. "
                    f"Received: {part}"
                )

    def make_tables(self):
        self.attention_tables = self.representation_tables = {
            f.name: self.table(f"shared_{f.name}", f.vocabulary_size, f.attention_dim)
            for f in self.schema.features
        }
        self.make_distance_tables("shared", "attention")
        self.representation_position_table = self.attention_position_table
        self.representation_time_gap_table = self.attention_time_gap_table
