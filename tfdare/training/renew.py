"""Renews given attention: newer vectors for a trained run, without training."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from typing import Any

import numpy as np

from tfdare.compat import raw
from tfdare.errors import UsageError
from tfdare.files import replacing
from tfdare.schema import OOV_ID, Schema, SchemaError
from tfdare.sequences import SUCCESS, Sequences, open_sequences
from tfdare.sequences.vectors import load_vectors
from tfdare.training.run_folder import MODEL, OPTIONS, Run, load_run, start_run
from tfdare.training.warm_start import count_new_ids

DIMS = ("attention_dim", "representation_dim", "dim")
RENEWED_FROM = "attention_renewed_from"
"""In ``run.json``: name of the folder that the vectors are from."""


def renew_attention(
    run: str, vectors: str, output: str, overwrite: bool = False
) -> dict[str, dict[str, Any]]:
    """Writes a run whose attention tables hold newer vectors; everything that was learned stays.

    Scores are inner products of attention vectors alone, so newer ones need not be aligned with
    those of the training. Ids that are new since then are found by search; their representation
    is that of ids out of vocabulary, which is how the score servable of the old run answers them.

    Args:
        run: str. Finished run of a model whose attention is given.
        vectors: str. Folder of sequences that ``tfdare prepare`` wrote with the vocabularies of
            the run, or with ones that grew by appending; or a folder that ``beam_jobs.vectors``
            wrote for the run's vocabularies.
        output: str. Folder for the new run.
        overwrite: bool. Whether an existing run there is replaced. Defaults to False.

    Returns:
        By feature: ``new_ids``, and ``changed``, see :func:`change` (0: search is as before).

    Raises:
        UsageError: the run learns attention, or `output` is not usable.
        SchemaError: the vectors are missing, or do not fit the run's vocabularies.
    """
    opened = load_run(run)
    model = opened.model()
    if not model.embedding.attention_given:
        raise UsageError(
            f"`run` {run!r} is {opened.options['model']}, which learns attention together with "
            "representation; only given attention can be renewed. Train DARE"
        )
    _check_output(output, overwrite)
    sequences, new_ids = _vocabularies(vectors, opened)
    schema = _with_dims_of(sequences.schema, opened.schema)
    tables = load_vectors(vectors, schema)
    renewed = _with_vocabularies(model, schema)
    renewed.embedding.start_from(tables, ["attention"])
    options = {**opened.options, RENEWED_FROM: os.path.basename(os.path.abspath(vectors))}
    _write(output, renewed, sequences, options)
    old, new = model.embedding.attention_tables, renewed.embedding.attention_tables
    return {
        name: {
            "new_ids": new_ids.get(name, 0),
            "changed": change(raw(old[name]).numpy(), raw(new[name]).numpy()),
        }
        for name in tables
    }


def change(before: np.ndarray, after: np.ndarray, pairs: int = 100_000) -> float:
    """Computes the mean absolute difference of the inner products of pairs of ids.

    A cosine, where vectors have length 1.

    Args:
        before, after: float ``[rows, D]``; `after` may have more rows, which are left out.
        pairs: int. Pairs drawn. Defaults to 100,000.
    """
    draw = np.random.default_rng(0).integers(0, len(before), (2, pairs))
    products = [np.einsum("pd,pd->p", rows[draw[0]], rows[draw[1]]) for rows in (before, after)]
    return float(np.abs(products[0] - products[1]).mean())


def _check_output(output: str, overwrite: bool) -> None:
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise UsageError(f"{output!r} exists; choose another `output` or set `overwrite`")
    if not os.path.exists(os.path.join(output, OPTIONS)):
        raise UsageError(f"{output!r} exists and is not a training run; choose another `output`")


def _vocabularies(vectors: str, run: Run) -> tuple[Sequences, dict[str, int]]:
    """Returns the vocabularies that the vectors are for, and the number of ids new to the run."""
    if not os.path.exists(os.path.join(vectors, SUCCESS)):
        return run.sequences_for_lookup(), {}
    sequences = open_sequences(vectors)
    return sequences, count_new_ids(run, sequences)


def _with_dims_of(schema: Schema, trained: Schema) -> Schema:
    """Returns the schema with the dimensions of a trained model's."""
    if schema.window != trained.window:
        raise SchemaError(
            f"`vectors` are of sequences with a window of {schema.window} behaviors, the run has "
            f"{trained.window}. Prepare them with --window {trained.window}"
        )

    def with_dims(part, trained_part):
        dims = {name: value for name, value in vars(trained_part).items() if name in DIMS}
        return dataclasses.replace(part, **dims)

    return dataclasses.replace(
        schema,
        features=tuple(map(with_dims, schema.features, trained.features)),
        context=tuple(map(with_dims, schema.context, trained.context)),
        position=trained.position,
        time_gap=trained.time_gap,
    )


def _with_vocabularies(model, schema: Schema):
    """Builds the model for vocabularies that grew; a new id has the weights of unknown ones."""
    config = model.get_config()
    config["embedding"]["config"]["schema"] = schema.to_dict()
    renewed = type(model).from_config(config)
    for old, new in zip(model.weights, renewed.weights):
        values = raw(old).numpy()
        if values.shape and len(values) < new.shape[0]:
            unknown = np.repeat(values[OOV_ID : OOV_ID + 1], new.shape[0] - len(values), axis=0)
            values = np.concatenate([values, unknown])
        raw(new).assign(values)
    return renewed


def _write(output, model, sequences, options) -> None:
    """Writes the run beside `output` and renames it, so that an older one stays until then."""
    parent = os.path.dirname(os.path.abspath(output))
    os.makedirs(parent, exist_ok=True)
    staging = tempfile.mkdtemp(prefix=f".{os.path.basename(output)}-", dir=parent)
    try:
        start_run(staging, sequences, model.schema, options)
        with replacing(os.path.join(staging, MODEL)) as temporary:
            model.save(temporary)
        os.chmod(staging, 0o755)
        if os.path.lexists(output):
            shutil.rmtree(output)
        os.rename(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
