"""Requests to rank: read from records or JSON, and converted to a signature's inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.schema import Schema
from tfdare.sequences.raw_ids import RawIds, readable
from tfdare.sequences.record import UserRecord
from tfdare.sequences.requests import HISTORY, LENGTH, TARGET, requests_of_record


@dataclass(frozen=True)
class RankRequest:
    """A request to rank.

    Attributes:
        user: str.
        number: int. Index among the user's requests.
        time: int or None.
        items: list of int or str. Candidates, as raw ids, or row ids if the model takes these.
        labels: list of int or None. 1 clicked, 0 not; None if not known.
        inputs: mapping of the signature's input to array or list, without the batch axis.
    """

    user: str
    number: int
    time: int | None
    items: list[int] | list[str]
    labels: list[int] | None
    inputs: Mapping[str, Any]

    def text(self) -> str:
        """Returns the request as a line of JSON."""
        inputs = {name: readable(np.asarray(value)).tolist() for name, value in self.inputs.items()}
        return json.dumps({"user": self.user, "request": self.number, **inputs})


def from_record(
    record: UserRecord, schema: Schema, ids: RawIds | None, newest: bool
) -> list[RankRequest]:
    """Reads the requests of a user, oldest first.

    Args:
        record: UserRecord.
        schema: Schema.
        ids: RawIds or None. None leaves row ids.
        newest: bool. Whether only the newest request is returned.
    """
    return [
        RankRequest(
            request.user,
            request.number,
            request.time,
            readable(request.target[schema.item.name]).tolist(),
            request.label.astype(int).tolist(),
            request.inputs(),
        )
        for request in requests_of_record(record, schema, ids, newest)
    ]


def from_json(line: str) -> RankRequest:
    """Reads a request from a line of JSON.

    Raises:
        ValueError: the line is not a request.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    user, number = str(data.pop("user", "")), data.pop("request", 0)
    time, labels = data.pop("time", None), data.pop("label", None)
    targets = [name for name in data if name.startswith(TARGET)]
    if not targets:
        raise ValueError(f"no target_<feature>. Received: {sorted(data)}")
    items = data.get("target_item", data[targets[0]])
    if not isinstance(items, list):
        raise ValueError(f"{targets[0]} must be a list. Received: {items!r}")
    return RankRequest(user, number, time, items, labels, data)


def lay_out(
    request: RankRequest, specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """Lays out one request as a request mapping (U = 1) of the signature's dtypes and shapes.

    Args:
        request: RankRequest.
        specs: mapping of input to its dtype and its shape without the batch axis, -1 for any
            length.

    Raises:
        ValueError: inputs are missing, unknown, of another shape or dtype, lists differ in length,
            or there are no candidates.
    """
    inputs = dict(request.inputs)
    histories = [name for name in specs if name.startswith(HISTORY) and name != LENGTH]
    if LENGTH not in inputs and histories and histories[0] in inputs:
        inputs[LENGTH] = len(inputs[histories[0]])
    missing, extra = sorted(specs.keys() - inputs.keys()), sorted(inputs.keys() - specs.keys())
    if missing or extra:
        raise ValueError(f"inputs missing: {', '.join(missing)}; too many: {', '.join(extra)}")
    arrays = {name: _array(name, inputs[name], *spec) for name, spec in specs.items()}
    for prefix in (HISTORY, TARGET):
        lengths = {
            name: len(array)
            for name, array in arrays.items()
            if name.startswith(prefix) and name != LENGTH
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists differ in length: {lengths}")
        if prefix == TARGET and not all(lengths.values()):
            raise ValueError("no candidates")
    if not 0 <= arrays[LENGTH] <= max((len(arrays[name]) for name in histories), default=0):
        raise ValueError(f"{LENGTH} must be at most the history's. Received: {arrays[LENGTH]}")
    return {name: array[np.newaxis] for name, array in arrays.items()}


def _array(name: str, value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged. Received: {value!r:.100}") from error
    if not array.size and shape[:1] == (-1,):
        return np.zeros((0, *shape[1:]), dtype)
    kinds = {"S": "US", "i": "iu"}.get(dtype.kind, "iuf")
    fits = len(array.shape) == len(shape) and all(
        expected in (-1, size) for expected, size in zip(shape, array.shape)
    )
    if not fits or array.dtype.kind not in kinds or (kinds == "US" and not _all_text(value)):
        kind = "text" if dtype.kind == "S" else dtype
        raise ValueError(f"{name} must be {kind} {list(shape)}. Received: {value!r:.100}")
    return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array.astype(dtype)


def _all_text(value: Any) -> bool:
    """Returns whether a value holds nothing but text: NumPy would convert a number among texts."""
    if isinstance(value, (list, tuple)):
        return all(map(_all_text, value))
    return isinstance(value, (str, bytes)) or getattr(value, "dtype", np.dtype(int)).kind in "SU"
