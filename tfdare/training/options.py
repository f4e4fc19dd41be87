"""TrainOptions: defaults, bounds and help of one training's options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tfdare.errors import UsageError
from tfdare.models import MODELS, recipe_of
from tfdare.training.compile import OPTIMIZERS, SCHEDULES

Bound = tuple[str, Callable[[float], bool]]
POSITIVE: Bound = "must be positive", lambda value: 0 < value < math.inf
NOT_NEGATIVE: Bound = "must not be negative", lambda value: 0 <= value < math.inf
SHARE: Bound = "must be in [0, 1)", lambda value: 0 <= value < 1


def _option(
    default: Any,
    help: str,
    bound: Bound | None = None,
    choices: Collection[str] | None = None,
    type: type | None = None,
    metavar: str | None = None,
) -> Any:
    argparse = {"help": help, "type": type or default.__class__, "metavar": metavar}
    metadata = {"argparse": argparse, "bound": bound, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainOptions:
    """The options of one training.

    Attributes:
        model: str. A name that :func:`tfdare.models.recipe_of` knows.
        attention_dim: int. K_A.
        representation_dim: int. K_R.
        learning_rate: float. Learning rate at the start.
        epochs: int. Passes over the train split, at most.
        patience: int. Epochs without a better validation AUC after which training ends. 0: never.
        batch_size: int. Requests per step.
        top_k: int. K, behaviors that search keeps.
        optimizer: str. ``"adam"``, ``"adagrad"`` or ``"rowwise_adagrad"``; all update only the
            table rows in the batch.
        schedule: str. ``"constant"``, or ``"cosine"``: rates fall to zero over all epochs' steps.
        table_learning_rate: float or None. Learning rate of tables; None: `learning_rate`.
        clip_norm: float. Bound of the norm of all gradients together. 0: none.
        weight_decay: float. Decoupled; in tables, only rows in the batch decay. 0: none.
        dropout: float. Share of the head's hidden outputs dropped in training.
        auxiliary_weight: float or None. Weight of the auxiliary loss over the whole history. 0:
            none. None: as the model has it.
        shorten: float. Share of training requests that keep only their 0, 1, 2, 4, ... newest
            behaviors.
        seed: int. Seed of initial weights and shuffling.
        warm_start: str or None. Finished run to take initial weights from, with the same
            vocabularies or with ones that grew by appending since.
    """

    model: str = _option(
        "DARE",
        f"one of {', '.join(MODELS)}; with +evidence, the head gets facts about the behaviors "
        "and the whole history; with +vectors, tables start from the vectors of the sequences",
        metavar="MODEL",
    )
    attention_dim: int = _option(16, "K_A, columns per attention table")
    representation_dim: int = _option(16, "K_R, columns per representation table")
    learning_rate: float = _option(0.01, "learning rate at the start", POSITIVE)
    epochs: int = _option(2, "passes over the train split, at most", POSITIVE)
    patience: int = _option(
        0,
        "epochs without a better validation AUC after which training ends; 0: never",
        NOT_NEGATIVE,
    )
    batch_size: int = _option(683, "requests per step, each with its candidates", POSITIVE)
    top_k: int = _option(20, "K, behaviors that search keeps", POSITIVE)
    optimizer: str = _option(
        "adam", "all update only the table rows in the batch", choices=OPTIMIZERS
    )
    schedule: str = _option(
        "constant", "of learning rates; cosine: down to zero over all epochs", choices=SCHEDULES
    )
    table_learning_rate: float | None = _option(
        None, "learning rate of tables, if it differs from the others'", POSITIVE, type=float
    )
    clip_norm: float = _option(
        0.0, "bound of the norm of all gradients together; 0: none", NOT_NEGATIVE
    )
    weight_decay: float = _option(
        0.0, "decoupled; in tables, only rows in the batch decay", NOT_NEGATIVE
    )
    dropout: float = _option(0.0, "of the head's hidden layers, in training", SHARE)
    auxiliary_weight: float | None = _option(
        None,
        "of the auxiliary loss over the whole history; 0: off; default: as the model has it",
        NOT_NEGATIVE,
        type=float,
    )
    shorten: float = _option(
        0.02,
        "share of training requests that keep only their 0, 1, 2, 4, ... newest behaviors, "
        "for users with a short history",
        SHARE,
    )
    seed: int = _option(1, "of initial weights and shuffling", NOT_NEGATIVE)
    warm_start: str | None = _option(
        None,
        "finished run to start from, with the same vocabularies or ones that grew by appending",
        type=str,
        metavar="RUN",
    )

    def check(self) -> None:
        """Checks each value against its bound or its choices.

        Raises:
            UsageError: a value is not allowed; it names the argument.
        """
        try:
            recipe_of(self.model)
        except ValueError as error:
            raise UsageError(str(error)) from error
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            bound, choices = field.metadata["bound"], field.metadata["choices"]
            if choices is not None and value not in choices:
                known = ", ".join(sorted(choices))
                raise UsageError(f"`{field.name}` must be one of {known}. Received: {value}")
            if bound is None or (value is None and field.default is None):
                continue
            words, holds = bound
            if not holds(value):
                raise UsageError(f"`{field.name}` {words}. Received: {value}")
