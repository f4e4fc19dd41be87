"""Synthetic inputs for every signature, to check and to warm up an export."""

from __future__ import annotations

import numpy as np

from tfdare.compat import tf
from tfdare.export.signatures import id_inputs, signature_inputs
from tfdare.models import RequestModel
from tfdare.schema import FIRST_ID, MAX_GAP, OOV_ID, PADDING_ID, STRING
from tfdare.sequences import Sequences
from tfdare.sequences.raw_ids import UNSEEN_TEXT
from tfdare.sequences.requests import no_value

UNKNOWN_RAW_ID = 1 << 62
"""This and higher ids are assumed to be in no vocabulary."""


def example_requests(
    model: RequestModel, vocabularies: Sequences | None, seed: int = 0
) -> list[dict[str, dict[str, np.ndarray]]]:
    """Draws inputs for every signature in a few shapes, with ids from the vocabularies.

    They include an empty history, one shorter than K, a full one, unknown ids, fewer values than a
    feature may have, missing numbers (NaN), one candidate and many.

    Args:
        model: RequestModel.
        vocabularies: Sequences or None. As for :func:`tfdare.export.export_model`.
        seed: int. Seed of the draws. Defaults to 0.

    Returns:
        A list of ``{signature name: {input name: array}}``.
    """
    rng = np.random.default_rng(seed)
    schema, known_ids = model.schema, raw_ids_of(model, vocabularies)
    specs = signature_inputs(model, bool(known_ids))
    search_layer = getattr(model, "search_layer", None)
    slots = search_layer.slots if search_layer is not None else 2
    parts = id_inputs(schema)

    def ids(part, shape):
        known = max(part.vocabulary_size - FIRST_ID, 1)
        row = rng.integers(0, known, shape)
        if vocabularies is None:
            values = (row + OOV_ID).astype(np.int32)
        else:
            raw_ids, text = known_ids[part.name], part.dtype == STRING
            drawn = raw_ids[row] if raw_ids.size else row.astype(bytes if text else np.int64)
            unknown = np.array(UNSEEN_TEXT) if text else UNKNOWN_RAW_ID + row
            values = np.where(rng.random(shape) < 0.05, unknown, drawn)
        if part.max_values > 1:
            counts = rng.integers(0, part.max_values + 1, (*shape[:-1], 1))
            counts.flat[:1], counts.flat[-1:] = 0, part.max_values
            padding = PADDING_ID if vocabularies is None else no_value(part)
            values = np.where(np.arange(part.max_values) < counts, values, padding)
        return values

    def array(name, spec, shape, length):
        shape = shape + tuple(spec.shape[len(shape) :])
        if name in parts:
            return ids(parts[name], shape)
        if name == "history_length":
            return length
        if name == "behavior_position":
            position = np.arange(1, shape[2] + 1, dtype=np.int32)
            position = np.where(position <= length[:, None, None], position, 0)
            return np.broadcast_to(position, shape).astype(np.int32)
        if spec.dtype == tf.int32:  # a time gap
            octave = rng.uniform(0, 31, shape)
            return np.minimum(np.exp2(octave) - 1, MAX_GAP).astype(np.int32)
        numbers = rng.normal(size=shape)
        if name.startswith("context_"):
            numbers = np.where(rng.random(shape) < 0.3, np.nan, numbers)
        return numbers.astype(np.float32)

    batches = []
    for behaviors, lengths, candidates in (
        (1, [0], 1),
        (max(1, slots // 2), [max(1, slots // 2)], 3),
        (schema.window, [schema.window], 100),
        (schema.window, [schema.window, schema.window // 2], 3),
    ):
        users, length = len(lengths), np.array(lengths, np.int32)
        shapes = {
            "history": (users, behaviors),
            "target": (users, candidates),
            "context": (users,),
            "behavior": (users, candidates, slots),
            "attention": (users, candidates, slots),
            "mean": (users, candidates, model.embedding.attention_part_count),
        }
        arrays: dict[str, np.ndarray] = {}  # signatures share inputs of the same name
        for inputs in specs.values():
            for name, spec in inputs.items():
                if name not in arrays:
                    shape = shapes[name.partition("_")[0]][: spec.shape.rank]
                    arrays[name] = array(name, spec, shape, length)
        batches.append(
            {
                signature: {name: arrays[name] for name in inputs}
                for signature, inputs in specs.items()
            }
        )
    return batches


def raw_ids_of(model, vocabularies) -> dict[str, np.ndarray]:
    """Returns raw ids of each feature from its vocabulary; empty where signatures take row ids.

    A hashed feature has no vocabulary: arbitrary ids are returned.
    """
    if vocabularies is None:
        return {}

    def ids(part):
        if not part.hash_buckets:
            return vocabularies.vocabulary(part.name)
        numbers = np.arange(part.hash_buckets, dtype=np.int64) * 12_345_677
        return numbers.astype(bytes) if part.dtype == STRING else numbers

    return {part.name: ids(part) for part in model.schema.categorical}
