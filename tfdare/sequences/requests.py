"""Request mappings: what the signatures of a served model take, as arrays by name.

A request mapping holds ``history_<feature>`` int64 ``[U, N]``, ``history_length`` int32 ``[U]``
and ``target_<feature>`` int64 ``[U, C]``; ``[U, N, L]`` and ``[U, C, L]`` for a feature of up to L
values, padded with -1 at the end. Where the model takes them it also holds ``history_time_gap``
int32 ``[U, N]``, the time from each behavior to the request, and ``context_<name>``: int64 ``[U]``
or ``[U, L]`` for ids, float32 ``[U]`` for a number, NaN where it is not known. Ids are the raw ids
of the log, or int32 row ids for a model that was exported over those. Text ids are bytes (UTF-8)
in place of int64, padded with empty ones.

This module builds such mappings from a user's lists or from a record, checks, stacks and splits
them, and adds the results of search to them. It does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from tfdare.schema import (
    MAX_GAP,
    PADDING_ID,
    STRING,
    CategoricalContext,
    Feature,
    NumericContext,
    Schema,
)
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import UserRecord

HISTORY, TARGET, BEHAVIOR, CONTEXT = "history_", "target_", "behavior_", "context_"
LENGTH, TIME_GAP = "history_length", "history_time_gap"
NO_VALUE, NO_TEXT = -1, b""
"""Raw id, or text id, that pads the values of a feature that may have several."""

_LARGEST = 2**63 - 1

Arrays: TypeAlias = Mapping[str, np.ndarray]
_Lists: TypeAlias = Mapping[str, Sequence | np.ndarray]


@dataclass(frozen=True)
class UserRequest:
    """One request of a user: the history before it and its candidates, as raw ids or row ids.

    Attributes:
        user: str. The raw user id.
        number: int. Index among the requests of the user's record.
        time: int or None. Time of the request, in the log's unit, where it is known.
        history: mapping of feature to int or bytes ``[N]``, oldest first; ``[N, L]`` with several
            values, -1 or empty (row ids: 0) where there is none.
        target: mapping of feature to int or bytes ``[C]``, or ``[C, L]``.
        label: uint8 ``[C]``. 1 clicked, 0 not.
        time_gap: int64 ``[N]`` or None. Time from each behavior to the request, where the schema
            has it.
        context: mapping of context feature to an id, int ``[L]`` of ids, or a float; -1 (row ids:
            0) or NaN where it is not known.
    """

    user: str
    number: int
    time: int | None
    history: Arrays
    target: Arrays
    label: np.ndarray
    time_gap: np.ndarray | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """Returns the values of a request mapping, without the axis of requests."""
        inputs: dict[str, Any] = {HISTORY + name: ids for name, ids in self.history.items()}
        inputs |= {TARGET + name: ids for name, ids in self.target.items()}
        inputs |= {CONTEXT + name: value for name, value in self.context.items()}
        inputs[LENGTH] = len(next(iter(self.history.values())))
        if self.time_gap is not None:
            inputs[TIME_GAP] = self.time_gap
        return inputs


def requests_of_record(
    record: UserRecord, schema: Schema, ids: RawIds | None = None, newest: bool = False
) -> list[UserRequest]:
    """Cuts the requests of a user out of their record, oldest first.

    Args:
        record: UserRecord.
        schema: Schema.
        ids: RawIds or None. Converts row ids to raw ids. Defaults to None: row ids.
        newest: bool. Whether to return only the newest request. Defaults to False.

    Raises:
        ValueError: the schema has a time gap, but the record has no times of requests.
    """

    def values(part, rows):
        if isinstance(part, NumericContext):
            return rows
        if ids is not None:
            return ids.raw(part.name, rows)
        return rows if part.max_values == 1 else rows.reshape(-1, part.max_values)

    history = {part.name: values(part, record.history[part.name]) for part in schema.features}
    target = {part.name: values(part, record.target[part.name]) for part in schema.features}
    context = {part.name: values(part, record.context[part.name]) for part in schema.context}
    ends, count = np.cumsum(record.target_length), len(record.position)
    requests = []
    for number in range(max(count - 1, 0) if newest else 0, count):
        end = int(record.position[number])
        window = slice(max(0, end - schema.window), end)
        candidates = slice(int(ends[number] - record.target_length[number]), int(ends[number]))
        time = None if record.request_time is None else int(record.request_time[number])
        time_gap = None
        if schema.time_gap is not None:
            if time is None:
                raise ValueError(f"The record of user {record.user!r} has no time of its requests.")
            time_gap = np.clip(time - record.history_time[window], 0, MAX_GAP)
        requests.append(
            UserRequest(
                record.user,
                number,
                time,
                {name: column[window] for name, column in history.items()},
                {name: column[candidates] for name, column in target.items()},
                record.label[candidates],
                time_gap,
                {
                    name: column[number].item() if column.ndim == 1 else column[number]
                    for name, column in context.items()
                },
            )
        )
    return requests


def request_mapping(request: UserRequest, target: Arrays | None = None) -> dict[str, np.ndarray]:
    """Returns a user's request as a request mapping with U = 1.

    Args:
        request: UserRequest. Over raw ids.
        target: mapping of feature to raw ids, or None. Candidates instead of the request's own.
    """
    if target is not None:
        request = replace(request, target=target)
    inputs = request.inputs()
    return checked({name: np.asarray(value)[np.newaxis] for name, value in inputs.items()})


def one_request(
    history: _Lists,
    target: _Lists,
    time_gap: Sequence[int] | np.ndarray | None = None,
    context: Mapping[str, Any] | None = None,
    values: Mapping[str, int] | None = None,
    text_ids: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Builds a request mapping with U = 1 from one user's lists.

    Args:
        history: mapping of feature to raw ids, int or str, oldest first; may be empty lists.
        target: mapping of feature to raw ids of the candidates.
        time_gap: sequence of int or None. Time from each behavior to now, in the log's unit.
        context: mapping of feature to a raw id, a list of them (for a feature in `values`), or a
            float; an integer is read as an id.
        values: mapping of feature to int. L, the schema's `max_values`, for every feature (also of
            the context) that has several values; each behavior then has a list of up to L raw ids.
        text_ids: collection of str. Features, and context, whose ids are text; needed only where
            nothing else says so: an integer is to be sent as text, or there is no id at all.

    Raises:
        ValueError: features differ, lists of one side differ in length, a behavior has more
            values than L, or an id is neither an integer nor text.

    Example:
        >>> request = one_request({"item": [7, 8]}, {"item": [9]}, context={"age": 31.0})
        >>> request["history_item"].tolist(), request["history_length"].tolist()
        ([[7, 8]], [2])
        >>> tags = {"item": [7, 8], "tag": [[1, 2], []]}, {"item": [9], "tag": [[3]]}
        >>> one_request(*tags, values={"tag": 2})["history_tag"].tolist()
        [[[1, 2], [-1, -1]]]
    """
    context, values = dict(context or {}), dict(values or {})
    if set(history) != set(target) or not history:
        raise ValueError(
            "`history` and `target` must have the same features, one at least. "
            f"Received: history={sorted(history)}, target={sorted(target)}"
        )
    if unknown := sorted(set(values) - set(history) - set(context)):
        raise ValueError(f"`values` names features that are not there. Received: {unknown}")
    behaviors = dict(history) if time_gap is None else {**history, "time_gap": time_gap}
    for name, lists in (("history", behaviors), ("target", target)):
        lengths = {feature: len(ids) for feature, ids in lists.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Lists of `{name}` must be equally long. Received: {lengths}")

    text = {name for name in history if any(map(_has_text, (history[name], target[name])))}
    text |= {name for name, value in context.items() if _has_text(value)} | set(text_ids)

    def array(feature, ids):
        if feature in values:
            rows = [_fill_values(feature, row, values[feature], feature in text) for row in ids]
            return _as_array(rows, feature in text).reshape(1, len(rows), values[feature])
        return _as_array([ids], feature in text)

    inputs = {HISTORY + name: array(name, ids) for name, ids in history.items()}
    inputs |= {TARGET + name: array(name, ids) for name, ids in target.items()}
    inputs[LENGTH] = np.array([len(next(iter(history.values())))], np.int32)
    if time_gap is not None:
        inputs[TIME_GAP] = np.asarray([time_gap])
    for name, value in context.items():
        several = name in values
        value = _fill_values(name, value, values[name], name in text) if several else value
        inputs[CONTEXT + name] = _as_array([value], name in text)
    return checked(inputs)


def stack(requests: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Stacks request mappings into one; histories are padded at the end to the longest.

    Raises:
        ValueError: there are none, or features or the number of candidates differ.
    """
    requests = [checked(request) for request in requests]
    if not requests or any(set(request) != set(requests[0]) for request in requests):
        raise ValueError(
            "`requests` must be at least one, all with the same features. "
            f"Received: {[sorted(request) for request in requests]}"
        )
    for name in requests[0]:
        shapes = [request[name].shape for request in requests]
        if name.startswith(HISTORY) and name != LENGTH:
            if len({shape[2:] for shape in shapes}) > 1:
                raise ValueError(
                    "`requests` must have equally many values of a feature. "
                    f"Received: {name} of shapes {shapes}"
                )
        elif len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(
                "`requests` must have equally many candidates, and values of a feature. "
                f"Received: {name} of shapes {shapes}"
            )
    return stack_padded(requests)


def stack_padded(requests: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Stacks request mappings of equal names and dtypes into one, without checks.

    Histories and candidates are padded at the end to the longest; histories have one column at
    least.
    """
    stacked = {}
    for name in requests[0]:
        parts = [request[name] for request in requests]
        if name.startswith((HISTORY, TARGET)) and parts[0].ndim > 1:
            least = 1 if name.startswith(HISTORY) else 0
            width = max(least, *(part.shape[1] for part in parts))
            parts = [_pad(part, width) for part in parts]
        stacked[name] = np.concatenate(parts)
    return stacked


def checked(requests: Arrays) -> dict[str, np.ndarray]:
    """Checks a request mapping and casts it to the dtypes that signatures over raw ids take.

    An empty history gets one column of padding.

    Raises:
        ValueError: a name, a dtype or a shape is not that of a request mapping.
    """
    features = {name[len(TARGET) :] for name in requests if name.startswith(TARGET)}
    wanted = {HISTORY + name for name in features} | {TARGET + name for name in features}
    optional = {name for name in requests if name == TIME_GAP or name.startswith(CONTEXT)}
    if not features or set(requests) - optional != wanted | {LENGTH}:
        raise ValueError(
            f"Requests must hold {LENGTH}, and history_<feature> and target_<feature> for every "
            f"feature; {TIME_GAP} and context_<name> are optional. Received: {sorted(requests)}"
        )
    inputs = {name: _cast(name, np.asarray(value)) for name, value in requests.items()}
    for name in sorted(features):
        _match_sides(inputs, name)
    users = inputs[LENGTH].shape
    if len(users) != 1:
        raise ValueError(f"`{LENGTH}` must have shape [U]. Received: {users}")
    for prefix, axis in ((HISTORY, "N"), (TARGET, "C")):
        shapes = {prefix + name: inputs[prefix + name].shape for name in sorted(features)}
        if prefix == HISTORY and TIME_GAP in inputs:
            shapes[TIME_GAP] = inputs[TIME_GAP].shape
        first = next(iter(shapes.values()))
        if (
            any(len(shape) not in (2, 3) for shape in shapes.values())
            or len(shapes.get(TIME_GAP, first[:2])) != 2
            or first[:1] != users
            or len({shape[:2] for shape in shapes.values()}) > 1
        ):
            raise ValueError(
                f"`{prefix}<feature>` must have shape [{users[0]}, {axis}] each, or "
                f"[{users[0]}, {axis}, L] with several values. Received: {shapes}"
            )
    for name in sorted(features):
        sides = inputs[HISTORY + name].shape[2:], inputs[TARGET + name].shape[2:]
        if sides[0] != sides[1]:
            raise ValueError(
                f"Feature {name!r} must have as many values in the history as in the target. "
                f"Received: {inputs[HISTORY + name].shape} and {inputs[TARGET + name].shape}"
            )
    for name in sorted(optional - {TIME_GAP}):
        shape = inputs[name].shape
        if shape[:1] != users or len(shape) > 1 + (inputs[name].dtype.kind in "iS"):
            raise ValueError(
                f"`{name}` must have shape [{users[0]}], or [{users[0]}, L] of ids. "
                f"Received: {shape}"
            )
    behaviors = [name for name in inputs if name.startswith(HISTORY) and name != LENGTH]
    width = inputs[behaviors[0]].shape[1]
    length = inputs[LENGTH]
    if length.size and (length.min() < 0 or length.max() > width):
        raise ValueError(
            f"`{LENGTH}` must lie between 0 and the history's width {width}. "
            f"Received: {length.tolist()[:8]}"
        )
    if width == 0:  # a server that batches requests cannot pad a width of 0
        for name in behaviors:
            inputs[name] = _pad(inputs[name], 1)
    return inputs


def no_value(part: Feature | CategoricalContext) -> int | bytes:
    """Returns the raw id that pads the values of a (context) feature that may have several."""
    return NO_TEXT if part.dtype == STRING else NO_VALUE


def score_inputs(
    requests: Arrays,
    behavior_index: np.ndarray,
    attention_score: np.ndarray,
    mean_score: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns the inputs of ``score``: candidates, context, and the behaviors that search kept.

    Where ``behavior_index`` is -1 there is no behavior: the position is 0, ids and time gap are
    padding.

    Args:
        requests: mapping of name to array, as search received it, and the context.
        behavior_index: int ``[U, C, K]``. Index into the history, -1 for none.
        attention_score: float ``[U, C, K]``.
        mean_score: float ``[U, C, parts]``, or None where search does not return it.

    Raises:
        ValueError: the arrays do not fit together, or an index lies outside of its history.
    """
    requests = checked(requests)
    index = np.asarray(behavior_index)
    score = np.asarray(attention_score, np.float32)
    users, width = requests[LENGTH].shape[0], None
    inputs = {}
    for name, value in requests.items():
        if name.startswith((TARGET, CONTEXT)):
            inputs[name] = value
        if name.startswith(TARGET):
            width = value.shape[1]
    if index.ndim != 3 or index.shape[:2] != (users, width) or score.shape != index.shape:
        raise ValueError(
            f"`behavior_index` and `attention_score` must have shape [{users}, {width}, K]. "
            f"Received: {index.shape} and {score.shape}"
        )
    length = requests[LENGTH][:, None, None]
    if index.size and (index.min() < -1 or (index >= length).any()):
        raise ValueError("`behavior_index` must lie inside the history, or be -1.")
    kept = index >= 0
    rows = np.arange(users)[:, None, None]
    for name, value in requests.items():
        if name.startswith(HISTORY) and name != LENGTH:
            behaviors = value[rows, np.where(kept, index, 0)]
            mask = kept if behaviors.ndim == 3 else kept[..., None]
            inputs[BEHAVIOR + name[len(HISTORY) :]] = np.where(mask, behaviors, _padding(value))
    inputs["behavior_position"] = np.where(kept, length - index, 0).astype(np.int32)
    inputs["attention_score"] = score
    if mean_score is not None:
        inputs["mean_score"] = np.asarray(mean_score, np.float32)
        if inputs["mean_score"].shape[:2] != index.shape[:2]:
            raise ValueError(
                f"`mean_score` must have shape [{users}, {width}, parts]. "
                f"Received: {inputs['mean_score'].shape}"
            )
    return inputs


def split_candidates(inputs: Arrays, size: int | None) -> list[Arrays]:
    """Splits the inputs of a signature by candidates, up to ``size`` each; histories are repeated.

    Args:
        inputs: mapping of name to array.
        size: int or None. None: one part.
    """
    names = [name for name in inputs if _is_by_candidate(name)]
    width = max(inputs[name].shape[1] for name in names)
    if size is None or width <= size:
        return [inputs]
    return [
        {
            name: value[:, start : start + size] if name in names else value
            for name, value in inputs.items()
        }
        for start in range(0, width, size)
    ]


def _is_by_candidate(name: str) -> bool:
    return name.startswith((TARGET, BEHAVIOR)) or name in ("attention_score", "mean_score")


def search_inputs(requests: Arrays) -> dict[str, np.ndarray]:
    """Returns the inputs of ``search``: the requests without their context."""
    return {
        name: value for name, value in checked(requests).items() if not name.startswith(CONTEXT)
    }


def _cast(name: str, array: np.ndarray) -> np.ndarray:
    if name == TIME_GAP and array.size and array.dtype.kind in "iu":
        return np.clip(array, 0, MAX_GAP).astype(np.int32)
    if name.startswith(CONTEXT) and array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    ids = name not in (LENGTH, TIME_GAP)
    if ids and (array.dtype.kind == "S" or (array.size and array.dtype.kind in "UO")):
        return _text_ids(name, array)
    if array.size and array.dtype.kind not in "iu":
        kinds = "integers, text or floats" if name.startswith(CONTEXT) else "integers or text"
        raise ValueError(
            f"`{name}` must hold {kinds if ids else 'integers'}. "
            f"Received: dtype={array.dtype}, {array.ravel()[:3].tolist()}"
        )
    if ids and array.dtype == np.uint64 and array.max(initial=0) > _LARGEST:
        return array.astype(bytes)  # beyond signed 64-bit integers, ids are text
    return array.astype(np.int64 if ids else np.int32, copy=False)


def _match_sides(inputs: dict[str, np.ndarray], feature: str) -> None:
    """Writes the ids of one side out as text where those of the other are text."""
    names = HISTORY + feature, TARGET + feature
    text = [name for name in names if inputs[name].dtype.kind == "S"]
    if len(text) == 1:
        (other,) = set(names) - set(text)
        inputs[other] = inputs[other].astype(bytes)


def _text_ids(name: str, array: np.ndarray) -> np.ndarray:
    """Encodes texts as bytes."""
    if array.dtype.kind == "S":
        return array
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    values = []
    for value in array.ravel().tolist():
        if not isinstance(value, (str, bytes)):
            raise ValueError(
                f"`{name}` must hold integers, or text. Received: {value!r} ({type(value).__name__}"
                f") among {array.ravel()[:3].tolist()}"
            )
        values.append(value.encode() if isinstance(value, str) else value)
    return np.array(values, bytes).reshape(array.shape)


def _has_text(ids: Any) -> bool:
    """Returns whether a value is text, or a list (of lists) that holds some."""
    if isinstance(ids, np.ndarray):
        return ids.dtype.kind in "SU" or (ids.dtype.kind == "O" and _has_text(ids.tolist()))
    return isinstance(ids, (str, bytes)) or (isinstance(ids, Sequence) and any(map(_has_text, ids)))


def _as_array(ids: Any, text: bool) -> np.ndarray:
    """Converts lists of ids; integers among text ids are written out, as are all beyond int64."""
    array = np.asarray(ids)
    if not text and array.dtype.kind not in "fO":
        return array
    objects = np.asarray(ids, object)
    values = objects.ravel().tolist()
    whole = [isinstance(id_, (int, np.integer)) and id_ is not True for id_ in values]
    if not text and not (whole and all(whole)):  # NumPy makes floats of integers beyond int64
        return array
    if not values:
        return np.zeros(array.shape, "S1")
    objects = objects.copy()
    objects.flat = [str(id_) if is_whole else id_ for id_, is_whole in zip(values, whole)]
    return objects


def _fill_values(feature, ids, size: int, text: bool) -> list[Any]:
    if np.ndim(ids) != 1 or len(ids) > size:
        raise ValueError(
            f"Feature {feature!r} must have lists of up to {size} ids. Received: {ids}"
        )
    return [*ids, *([NO_TEXT if text else NO_VALUE] * (size - len(ids)))]


def _padding(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "S":
        return np.array(NO_TEXT)
    several = array.ndim == 3 and array.dtype == np.int64  # raw ids, among which 0 is an id
    return np.array(NO_VALUE if several else PADDING_ID, array.dtype)


def _pad(array: np.ndarray, width: int) -> np.ndarray:
    if array.shape[1] == width:
        return array
    padded = np.full((array.shape[0], width, *array.shape[2:]), _padding(array), array.dtype)
    padded[:, : array.shape[1]] = array
    return padded
