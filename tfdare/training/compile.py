"""Compiles models with this package's optimizers, loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.layers import Head
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics import CandidateAUC, RequestGAUC
from tfdare.models import build_model, recipe_of
from tfdare.optimizers import RowwiseAdagrad, SparseAdagrad, SparseAdam
from tfdare.schema import SchemaError
from tfdare.sequences import Sequences

OPTIMIZERS = {"adam": SparseAdam, "adagrad": SparseAdagrad, "rowwise_adagrad": RowwiseAdagrad}
SCHEDULES = ("constant", "cosine")


def compile_model(
    model,
    learning_rate=0.01,
    weight_decay: float | None = None,
    optimizer: str = "adam",
    table_learning_rate=None,
    clip_norm: float | None = None,
) -> None:
    """Compiles with this package's defaults: SparseAdam, candidate cross-entropy, AUC and GAUC.

    Sample weights weigh the loss; AUC and GAUC count each candidate of a weight above 0 once.

    Args:
        model: RequestModel.
        learning_rate: float or schedule.
        weight_decay: float or None. Decoupled.
        optimizer: str. A key of :data:`OPTIMIZERS`.
        table_learning_rate: float, schedule or None. Of tables; None: the `learning_rate`.
        clip_norm: float or None. Bound of the norm of all gradients together.
    """
    model.compile(
        optimizer=OPTIMIZERS[optimizer](
            learning_rate,
            weight_decay=weight_decay,
            table_learning_rate=table_learning_rate,
            global_clipnorm=clip_norm,
        ),
        loss=CandidateCrossentropy(),
        weighted_metrics=[CandidateAUC(name="auc", num_thresholds=1000), RequestGAUC()],
        jit_compile=False,
    )


def make_network(options: Mapping[str, Any], schema, steps: int, vectors=None):
    """Builds and compiles the model that a run's options describe, after setting their seed.

    Args:
        options: mapping. What ``run.json`` holds.
        schema: Schema. With the run's dimensions.
        steps: int. Training steps that the schedule of the rates covers.
        vectors: mapping of feature name to float ``[vocabulary_size, D]``, or None. What the
            tables start from.
    """
    tf.keras.utils.set_random_seed(options["seed"])
    name, dropout = options["model"], options["dropout"]
    auxiliary_weight = options["auxiliary_weight"]
    network = build_model(
        name,
        schema,
        top_k=options["top_k"],
        vectors=vectors,
        **{} if auxiliary_weight is None else {"auxiliary_weight": auxiliary_weight},
        **({"head": _head(name, dropout)} if dropout else {}),
    )
    rates = [
        _rate(options[rate], options["schedule"], steps)
        for rate in ("learning_rate", "table_learning_rate")
    ]
    compile_model(
        network,
        rates[0],
        options["weight_decay"] or None,
        options["optimizer"],
        rates[1],
        options["clip_norm"] or None,
    )
    return network


def starting_vectors(sequences: Sequences, model: str) -> dict[str, np.ndarray] | None:
    """Returns the vectors that a model's tables start from, None where they start at random.

    Raises:
        SchemaError: the folder has no vectors for one of the features.
    """
    if not recipe_of(model).vectors:
        return None
    names = [f.name for f in sequences.schema.features if f.max_values == 1]
    missing = [name for name in names if name not in sequences.vector_columns]
    if missing:
        raise SchemaError(
            f"`model` {model} needs vectors, which {sequences.path!r} has not for "
            f"{', '.join(missing)}. `tfdare prepare` writes them; DARE-learned needs none"
        )
    return {name: sequences.vectors(name) for name in sequences.vector_columns}


def _rate(rate: float | None, schedule: str, steps: int):
    if rate is None or schedule == "constant":
        return rate
    return tf.keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps)


def _head(model: str, dropout: float) -> Head:
    """Returns the head that the model has by default, with dropout."""
    head = recipe_of(model).parts.get("head", lambda: Head(name="head"))()
    return type(head).from_config({**head.get_config(), "dropout": dropout})
