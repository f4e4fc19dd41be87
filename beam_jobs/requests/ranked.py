"""Requests for a model: out of records or JSON, and laid out as a signature takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.schema import MAX_GAP, CategoricalContext, Schema
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import UserRecord

LENGTH = "history_length"


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        user: str.
        number: int. Place among the user's requests.
        time: int or None.
        items: list of int. Candidates, as the model knows them.
        labels: list of int or None. 1 clicked, 0 not, where that is known.
        inputs: mapping of the signature's input to array or list, without the axis of requests.
    """

    user: str
    number: int
    time: int | None
    items: list[int]
    labels: list[int] | None
    inputs: Mapping[str, Any]

    def text(self) -> str:
        """The request as a line of JSON."""
        inputs = {name: np.asarray(value).tolist() for name, value in self.inputs.items()}
        return json.dumps({"user": self.user, "request": self.number, **inputs})


def from_record(
    record: UserRecord, schema: Schema, ids: RawIds | None, newest: bool
) -> list[Asked]:
    """Requests of a user, oldest first.

    Args:
        record: UserRecord.
        schema: Schema.
        ids: RawIds or None. None leaves row ids.
        newest: bool. Only the last one.
    """

    def values(part, rows):
        if ids is not None:
            return ids.raw(part.name, rows)
        return rows if part.max_values == 1 else rows.reshape(-1, part.max_values)

    history = {part.name: values(part, record.history[part.name]) for part in schema.features}
    target = {part.name: values(part, record.target[part.name]) for part in schema.features}
    context = {
        part.name: values(part, record.context[part.name])
        if isinstance(part, CategoricalContext)
        else record.context[part.name]
        for part in schema.context
    }
    ends = np.cumsum(record.target_length)
    found, count = [], len(record.position)
    for number in range(max(count - 1, 0) if newest else 0, count):
        end = int(record.position[number])
        seen = slice(max(0, end - schema.window), end)
        candidates = slice(int(ends[number] - record.target_length[number]), int(ends[number]))
        inputs = {f"history_{name}": column[seen] for name, column in history.items()}
        inputs |= {f"target_{name}": column[candidates] for name, column in target.items()}
        inputs |= {f"context_{name}": column[number] for name, column in context.items()}
        inputs[LENGTH] = end - seen.start
        time = None if record.request_time is None else int(record.request_time[number])
        if schema.time_gap is not None:
            gap = time - record.history_time[seen]
            inputs["history_time_gap"] = np.clip(gap, 0, MAX_GAP)
        found.append(
            Asked(
                record.user,
                number,
                time,
                target[schema.item.name][candidates].tolist(),
                record.label[candidates].astype(int).tolist(),
                inputs,
            )
        )
    return found


def from_json(line: str) -> Asked:
    """A request from a line of JSON.

    Raises:
        ValueError: it is none.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    user, number = str(data.pop("user", "")), data.pop("request", 0)
    time, labels = data.pop("time", None), data.pop("label", None)
    targets = [name for name in data if name.startswith("target_")]
    if not targets:
        raise ValueError(f"no target_<feature>. Received: {sorted(data)}")
    items = data.get("target_item", data[targets[0]])
    if not isinstance(items, list):
        raise ValueError(f"{targets[0]} must be a list. Received: {items!r}")
    return Asked(user, number, time, items, labels, data)


def laid_out(
    asked: Asked, kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """Inputs of one request as arrays of the signature's types and shapes.

    Args:
        asked: Asked.
        kinds: mapping of input to its dtype and its shape without the axis of requests, -1 for
            what may have any length.

    Raises:
        ValueError: inputs are missing, too many, of another shape, or lists differ in length.
    """
    inputs = dict(asked.inputs)
    histories = [name for name in kinds if name.startswith("history_") and name != LENGTH]
    if LENGTH not in inputs and histories and histories[0] in inputs:
        inputs[LENGTH] = len(inputs[histories[0]])
    missing, extra = sorted(kinds.keys() - inputs.keys()), sorted(inputs.keys() - kinds.keys())
    if missing or extra:
        raise ValueError(f"inputs missing: {', '.join(missing)}; too many: {', '.join(extra)}")
    made = {name: _array(name, inputs[name], *kind) for name, kind in kinds.items()}
    for kind in ("history_", "target_"):
        lengths = {
            name: len(value)
            for name, value in made.items()
            if name.startswith(kind) and name != LENGTH
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists differ in length: {lengths}")
        if kind == "target_" and not all(lengths.values()):
            raise ValueError("no candidates")
    if not 0 <= made[LENGTH] <= max((len(made[name]) for name in histories), default=0):
        raise ValueError(f"{LENGTH} must be at most the history's. Received: {made[LENGTH]}")
    return made


def _array(name: str, value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged. Received: {value!r:.100}") from error
    if not array.size and shape[:1] == (-1,):
        return np.zeros((0, *shape[1:]), dtype)
    fits = len(array.shape) == len(shape) and all(
        size in (-1, found) for size, found in zip(shape, array.shape)
    )
    if not fits or array.dtype.kind not in ("iu" if dtype.kind == "i" else "iuf"):
        raise ValueError(f"{name} must be {dtype} {list(shape)}. Received: {value!r:.100}")
    return array.astype(dtype)
