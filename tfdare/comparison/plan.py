"""The plan of a comparison: the rows of its table, and the trials of each row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from tfdare.models import recipe_of
from tfdare.schema import Feature, Schema, SchemaError


@dataclass(frozen=True, order=True)
class Row:
    """One row of the table: a model and its dimensions.

    Attributes:
        model: str. A name that :func:`tfdare.models.recipe_of` knows.
        attention_dim: int. Columns of an attention table.
        representation_dim: int. Columns of a representation table.
    """

    model: str
    attention_dim: int
    representation_dim: int

    @property
    def columns(self) -> str:
        """The dimensions as shown: ``"8 + 16"``, or ``"16"`` for one shared table."""
        if shares_tables(self.model):
            return str(self.attention_dim)
        return f"{self.attention_dim} + {self.representation_dim}"


@dataclass(frozen=True)
class Trial:
    """One training: a row, a learning rate and a seed; `name` is its folder under ``runs/``."""

    row: Row
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the trial's folder: unique, and the same in every call."""
        row = self.row
        return (
            f"{row.model}-{row.attention_dim}-{row.representation_dim}"
            f"-lr{self.learning_rate!r}-seed{self.seed}"
        )

    def __str__(self) -> str:
        return f"{self.row.model} {self.row.columns}, lr {self.learning_rate:g}, seed {self.seed}"


@functools.cache
def shares_tables(model: str) -> bool:
    """Checks whether attention and representation share tables, so that there is one dimension."""
    unequal = Schema((Feature("item", 3),), window=1).with_dims(1, 2)
    try:
        recipe_of(model).embedding(unequal).build()
    except SchemaError:
        return True
    return False


def rows_of(
    models: Sequence[str], attention_dims: Sequence[int], representation_dims: Sequence[int]
) -> list[Row]:
    """Combines every model with every pair of dimensions.

    A model with shared tables gets the attention dimension for both sides, so that its search
    server needs as little memory as those of the other models. Duplicate rows are dropped.
    """
    shared = {model: shares_tables(model) for model in models}
    rows = [
        Row(model, attention, attention if shared[model] else representation)
        for model in models
        for attention in attention_dims
        for representation in representation_dims
    ]
    return list(dict.fromkeys(rows))
