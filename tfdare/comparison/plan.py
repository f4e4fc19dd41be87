"""The plan of a comparison: the rows of its table, and the trials of each row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
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
    """One training: a row, a seed, and the settings in which trials of a row may differ.

    Attributes:
        row: Row.
        learning_rate: float.
        seed: int.
        dropout: float or None. None: as in the options that all trials share.
        auxiliary_weight: float or None. None: as in the options that all trials share.
    """

    row: Row
    learning_rate: float
    seed: int
    dropout: float | None = None
    auxiliary_weight: float | None = None

    @property
    def settings(self) -> dict[str, float]:
        """Options of training by name: the learning rate, and what differs from the shared ones."""
        names = ("learning_rate", "dropout", "auxiliary_weight")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def name(self) -> str:
        """Name of the trial's folder under ``runs/``: unique, and the same in every call."""
        row = self.row
        settings = "".join(f"-{name}{value!r}" for name, value in self._settings_in_short())
        dims = f"{row.attention_dim}-{row.representation_dim}"
        return f"{row.model}-{dims}{settings}-seed{self.seed}"

    def with_seed(self, seed: int) -> Trial:
        """Returns the trial of the same settings with another seed."""
        return dataclasses.replace(self, seed=seed)

    def __str__(self) -> str:
        settings = settings_text(dict(self._settings_in_short()))
        return f"{self.row.model} {self.row.columns}, {settings}, seed {self.seed}"

    def _settings_in_short(self):
        (_, rate), *others = self.settings.items()
        return [("lr", rate), *others]


def settings_text(settings: Mapping[str, float]) -> str:
    """Formats settings as a person reads them: ``learning_rate 0.006, dropout 0.2``."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


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
