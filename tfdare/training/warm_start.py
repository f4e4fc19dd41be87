"""Initializes a model with the weights of a trained one; vocabularies may have grown since."""

from __future__ import annotations

import numpy as np
from scipy.linalg import orthogonal_procrustes

from tfdare.compat import raw
from tfdare.schema import FIRST_ID, SchemaError
from tfdare.sequences import Sequences
from tfdare.sequences.raw_ids import readable
from tfdare.training.run_folder import Run


def warm_start(model, run: Run, sequences: Sequences) -> dict[str, int]:
    """Copies the weights of a trained model into a new one.

    Vocabularies that grew by appending leave every old id in its row: its row is copied, and rows
    of new ids keep their initial values. All other weights must have the same shapes as before.
    Slots of the optimizer are not copied, nor is given attention: the new model has newer vectors.
    Representation rows of new ids then start from these, turned to where the old ones lie.

    Args:
        model: RequestModel. The new model, built for `sequences`.
        run: Run. The trained model's.
        sequences: Sequences. The new data.

    Returns:
        Number of new ids by (context) feature.

    Raises:
        SchemaError: a feature is missing or new, an old id has another row, or the models differ in
            more than their vocabularies; the message names what.
    """
    new_ids = count_new_ids(run, sequences)
    sizes = {
        (old.vocabulary_size, new.vocabulary_size)
        for old, new in zip(run.schema.categorical, sequences.schema.categorical)
    }
    trained = run.model()
    pairs = list(zip(trained.weights, model.weights))
    kinds = [(network.name, len(network.weights)) for network in (trained, model)]
    if kinds[0] != kinds[1]:
        raise SchemaError(
            f"`warm_start` {run.path!r} is {kinds[0][0]!r} with {kinds[0][1]} weights. "
            f"Received: {kinds[1][0]!r} with {kinds[1][1]}"
        )
    for old, new in pairs:
        before, after = tuple(old.shape), tuple(new.shape)
        if before != after and (before[1:] != after[1:] or (before[0], after[0]) not in sizes):
            raise SchemaError(
                f"`warm_start` {run.path!r}: weight {new.name!r} has shape {after}, {before} in "
                "the trained model. Train with its dimensions"
            )
    given = _given(model)
    if given:
        _turn_new_rows(trained, model)
    for old, new in pairs:
        values = raw(old).numpy()
        if id(raw(new)) in given:
            continue
        if values.shape:
            raw(new)[: len(values)].assign(values)
        else:
            raw(new).assign(values)
    return new_ids


def _given(model) -> set[int]:
    """Returns the ids of the variables that hold given attention."""
    embedding = model.embedding
    if not embedding.attention_given:
        return set()
    return {id(raw(table)) for table in embedding.attention_tables.values()}


def _turn_new_rows(trained, model) -> None:
    """Turns the representation of all ids as best maps newer attention vectors to the old ones."""
    for name, table in model.embedding.attention_tables.items():
        old = raw(trained.embedding.attention_tables[name]).numpy()
        newer = raw(table).numpy()[: len(old)]
        representation = raw(model.embedding.representation_tables[name])
        columns = min(old.shape[1], representation.shape[1])
        turn, _ = orthogonal_procrustes(newer[:, :columns], old[:, :columns])
        rows = representation.numpy()
        rows[:, :columns] = rows[:, :columns] @ turn
        representation.assign(rows)


def count_new_ids(run: Run, sequences: Sequences) -> dict[str, int]:
    """Counts the ids that are new to a trained model, by (context) feature.

    Raises:
        SchemaError: a feature is missing or new, or an old id has another row.
    """
    before, after = run.schema.categorical, sequences.schema.categorical
    names = [part.name for part in before], [part.name for part in after]
    if names[0] != names[1]:
        raise SchemaError(
            f"`warm_start` {run.path!r} was trained on the features {names[0]}. "
            f"Received: {names[1]}"
        )
    trained_on = run.sequences_for_lookup()
    new_ids: dict[str, int] = {}
    hashed = [{part.name: part.hash_buckets for part in parts} for parts in (before, after)]
    for name in names[0]:
        if hashed[0][name] != hashed[1][name]:
            raise SchemaError(
                f"`warm_start` {run.path!r}: {name!r} had {hashed[0][name]} hash buckets, now "
                f"{hashed[1][name]}"
            )
        if hashed[0][name]:
            new_ids[name] = 0
            continue
        old, new = (readable(opened.vocabulary(name)) for opened in (trained_on, sequences))
        same = old[: len(new)] == new[: len(old)]
        if len(new) < len(old) or not same.all():
            row = int(np.argmin(same)) if not same.all() else len(new)
            now = new[row] if row < len(new) else "nothing"
            raise SchemaError(
                f"`warm_start` {run.path!r}: row {row + FIRST_ID} of {name!r} was id {old[row]}, "
                f"now {now}. Vocabularies must have grown by appending"
            )
        new_ids[name] = len(new) - len(old)
    return new_ids
