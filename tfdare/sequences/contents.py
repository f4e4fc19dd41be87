"""What a folder of sequences holds, and a user's record in raw ids, as plain values for JSON.

An id that is out of vocabulary is None. A hashed feature has no raw ids: its row ids stand instead.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfdare.schema import FIRST_ID, PADDING_ID, NumericContext
from tfdare.schema.features import CategoricalContext, Feature
from tfdare.sequences.folder import SPLITS, Sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import UserRecord
from tfdare.sequences.requests import requests_of_record

_Part = Feature | CategoricalContext | NumericContext


def describe_folder(sequences: Sequences, top: int) -> dict[str, Any]:
    """Describes a folder: features, splits, the most frequent ids, vectors, options.

    Args:
        sequences: Sequences.
        top: int. Ids of every vocabulary at most.
    """
    schema, manifest = sequences.schema, sequences.manifest
    counts = ("users", "requests", "candidates", "positives")
    splits = manifest["counts"]["splits"]
    return {
        "folder": sequences.path,
        "version": manifest["code"]["version"],
        "created": manifest.get("created"),
        "input": manifest.get("input", []),
        "features": [_describe(part) for part in schema.features],
        "context": [_describe(part) for part in schema.context],
        "window": schema.window,
        "max_candidates": schema.max_candidates,
        "time_gap": schema.time_gap.unit if schema.time_gap else None,
        "splits": {
            split: {name: splits[split][name] for name in counts}
            for split in SPLITS
            if split in splits
        },
        "vocabularies": {
            part.name: _head(sequences, part.name, top)
            for part in schema.categorical
            if part.vocabulary
        },
        "vectors": {
            name: {"columns": entry["columns"], "origin": entry.get("origin")}
            for name, entry in manifest.get("vectors", {}).items()
        },
        "options": manifest.get("options", {}),
    }


def describe_user(record: UserRecord, sequences: Sequences) -> dict[str, Any]:
    """Describes a user's behaviors, oldest first, and the requests cut from them.

    Position 1 is the newest behavior of the record. A request sees those of its first ``history``
    behaviors that are in the window.
    """
    schema, ids = sequences.schema, RawIds(sequences)
    features = schema.features
    columns = {part.name: _values(part, record.history[part.name], ids) for part in features}
    times, length = record.history_time.tolist(), len(record.history_time)
    behaviors = [
        {
            "position": length - index,
            "time": times[index],
            **{name: column[index] for name, column in columns.items()},
        }
        for index in range(length)
    ]
    requests = []
    for request in requests_of_record(record, schema):
        target = {part.name: _values(part, request.target[part.name], ids) for part in features}
        candidates = [
            {**{name: column[index] for name, column in target.items()}, "clicked": bool(label)}
            for index, label in enumerate(request.label)
        ]
        context = {
            part.name: _values(part, request.context[part.name], ids)[0] for part in schema.context
        }
        requests.append(
            {
                "number": request.number,
                "time": request.time,
                "history": int(record.position[request.number]),
                **({"context": context} if context else {}),
                "candidates": candidates,
            }
        )
    return {"user": record.user, "behaviors": behaviors, "requests": requests}


def _describe(part: _Part) -> dict[str, Any]:
    if isinstance(part, NumericContext):
        return {"name": part.name, "mean": part.mean, "deviation": part.deviation}
    return {
        "name": part.name,
        "ids": None if part.hash_buckets else part.vocabulary_size - FIRST_ID,
        "dtype": part.dtype,
        "max_values": part.max_values,
        "hash_buckets": part.hash_buckets or None,
    }


def _head(sequences: Sequences, name: str, top: int) -> list[dict[str, Any]]:
    """Returns the most frequent ids of a vocabulary, and their events in the training period."""
    frequencies = sequences.frequencies(name)
    order = np.argsort(-frequencies, kind="stable")[:top]
    ids = sequences.vocabulary(name)
    return [{"id": _plain(ids[index]), "events": int(frequencies[index])} for index in order]


def _values(part: _Part, rows: Any, ids: RawIds) -> list[Any]:
    """Returns the raw ids of row ids, or a list of them where a feature has several values."""
    if isinstance(part, NumericContext):
        return [None if math.isnan(value) else value for value in np.ravel(rows).tolist()]
    rows = np.ravel(rows)
    raw = rows if part.hash_buckets else np.ravel(ids.raw(part.name, rows))
    values = [_plain(value) if row >= FIRST_ID else None for value, row in zip(raw, rows.tolist())]
    if part.max_values == 1:
        return values
    starts = range(0, len(values), part.max_values)
    return [
        [values[i] for i in range(start, start + part.max_values) if rows[i] != PADDING_ID]
        for start in starts
    ]


def _plain(value: Any) -> int | str:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value
