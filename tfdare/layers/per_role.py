"""TWIN-4E's embedding: four tables per feature."""

from __future__ import annotations

from tfdare.compat import register
from tfdare.layers.embedding import HISTORY, TARGET, RoleEmbedding


@register
class PerRoleEmbedding(RoleEmbedding):
    """Four tables per feature: attention and representation, each for history and for target.

    Position and time gap have one table per side: row 0 is the target's and never a behavior's.

    Args:
        schema: Schema or its dict.
        initializer_stddev: float. Standard deviation of the initial tables. Defaults to 0.02.

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), section 5.1 (TWIN-4E)
    """

    def make_tables(self):
        self.tables = {
            side: {
                role: {
                    f.name: self.table(
                        f"{side}_{role}_{f.name}", f.vocabulary_size, getattr(f, f"{side}_dim")
                    )
                    for f in self.schema.features
                }
                for role in (HISTORY, TARGET)
            }
            for side in ("attention", "representation")
        }
        for side in self.tables:
            self.make_distance_tables(side, side)

    def table_of(self, side, name, role):
        return self.tables[side][role][name]
