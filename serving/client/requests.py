"""Requests as arrays: one user's lists laid out, batches checked, what search found gathered.

A request mapping holds ``history_<feature>`` int64 ``[U, N]``, ``history_length`` int32 ``[U]``
and ``target_<feature>`` int64 ``[U, C]``; ``[U, N, L]`` and ``[U, C, L]`` for a feature of up to L
values, padded with -1 at the end. Where the model takes them it also holds ``history_time_gap``
int32 ``[U, N]``, the time from each behavior to the request, and ``context_<name>``: int64 ``[U]``
or ``[U, L]`` for ids, float32 ``[U]`` for a number, NaN where it is not known. Only numpy is needed
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdare.schema import MAX_GAP, PADDING_ID

HISTORY, TARGET, BEHAVIOR, CONTEXT = "history_", "target_", "behavior_", "context_"
LENGTH, TIME_GAP = "history_length", "history_time_gap"
NO_VALUE = -1
"""Raw id that fills up the values of a feature that may have several."""


def one_request(
    history: Mapping[str, Sequence],
    target: Mapping[str, Sequence],
    time_gap: Sequence[int] | None = None,
    context: Mapping[str, Any] | None = None,
    values: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """One user's lists as a request mapping with U = 1.

    Args:
        history: mapping of feature to raw ids, oldest first; may be empty lists.
        target: mapping of feature to raw ids of the candidates.
        time_gap: sequence of int or None. Time from each behavior to now, by the log's clock.
        context: mapping of feature to a raw id, a list of them (of a feature in `values`), or a
            float; an integer is taken as an id.
        values: mapping of feature to int. L, the schema's `max_values`, for every feature (of the
            context, too) that has several values; each behavior then has a list of up to L raw ids.

    Raises:
        ValueError: features differ, lists of one side differ in length, or a behavior has more
            values than L.

    Example:
        >>> one = one_request({"item": [7, 8]}, {"item": [9]}, context={"age": 31.0})
        >>> one["history_item"].tolist(), one["history_length"].tolist()
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
    timed = {} if time_gap is None else {"time_gap": time_gap}
    for name, side in (("history", {**history, **timed}), ("target", target)):
        lengths = {feature: len(listed) for feature, listed in side.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Lists of `{name}` must be equally long. Received: {lengths}")

    def ids(feature, listed):
        if feature in values:
            listed = [_filled(feature, some, values[feature]) for some in listed]
            return np.asarray(listed, np.int64).reshape(1, len(listed), values[feature])
        return np.asarray([listed], np.int64)

    inputs = {HISTORY + name: ids(name, listed) for name, listed in history.items()}
    inputs.update({TARGET + name: ids(name, listed) for name, listed in target.items()})
    inputs[LENGTH] = np.array([len(next(iter(history.values())))], np.int32)
    if time_gap is not None:
        inputs[TIME_GAP] = np.asarray([time_gap])
    for name, value in context.items():
        inputs[CONTEXT + name] = np.asarray(
            [_filled(name, value, values[name])] if name in values else [value]
        )
    return checked(inputs)


def stack(requests: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Several request mappings as one; histories are padded at the end to the longest.

    Raises:
        ValueError: none given, or features or the number of candidates differ.
    """
    requests = [checked(request) for request in requests]
    if not requests or any(set(request) != set(requests[0]) for request in requests):
        raise ValueError(
            "`requests` must be at least one, all with the same features. "
            f"Received: {[sorted(request) for request in requests]}"
        )
    stacked = {}
    for name in requests[0]:
        parts = [request[name] for request in requests]
        shapes = [part.shape for part in parts]
        if name.startswith(HISTORY) and name != LENGTH:
            if len({shape[2:] for shape in shapes}) > 1:
                raise ValueError(
                    "`requests` must have equally many values of a feature. "
                    f"Received: {name} of shapes {shapes}"
                )
            width = max(shape[1] for shape in shapes)
            parts = [_widened(part, width) for part in parts]
        elif len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(
                "`requests` must have equally many candidates, and values of a feature. "
                f"Received: {name} of shapes {shapes}"
            )
        stacked[name] = np.concatenate(parts)
    return stacked


def checked(requests: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mapping with the dtypes that the signatures ask for, an empty history one column wide.

    Raises:
        ValueError: a name, a dtype or a shape is not that of a request mapping.
    """
    features = {name[len(TARGET) :] for name in requests if name.startswith(TARGET)}
    wanted = {HISTORY + name for name in features} | {TARGET + name for name in features}
    optional = {name for name in requests if name == TIME_GAP or name.startswith(CONTEXT)}
    if not features or set(requests) - optional != wanted | {LENGTH}:
        raise ValueError(
            f"Requests must hold {LENGTH}, and history_<feature> and target_<feature> for every "
            f"feature; {TIME_GAP} and context_<name> may come besides. Received: {sorted(requests)}"
        )
    inputs = {name: _typed(name, np.asarray(value)) for name, value in requests.items()}
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
        if shape[:1] != users or len(shape) > 1 + (inputs[name].dtype == np.int64):
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
    if width == 0:  # a server that batches cannot pad a history without any column
        for name in behaviors:
            inputs[name] = _widened(inputs[name], 1)
    return inputs


def score_inputs(
    requests: Mapping[str, np.ndarray], behavior_index: np.ndarray, attention_score: np.ndarray
) -> dict[str, np.ndarray]:
    """Inputs of the signature ``score``: candidates, context, and the behaviors that search kept.

    Where ``behavior_index`` is -1 there is no behavior: position 0, ids and time gap padding.

    Args:
        requests: mapping of name to array, as search received it, and the context.
        behavior_index: int ``[U, C, K]``. Index into the history, -1 for none.
        attention_score: float ``[U, C, K]``.

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
    there = index >= 0
    rows = np.arange(users)[:, None, None]
    for name, value in requests.items():
        if name.startswith(HISTORY) and name != LENGTH:
            found = value[rows, np.where(there, index, 0)]
            real = there if found.ndim == 3 else there[..., None]
            inputs[BEHAVIOR + name[len(HISTORY) :]] = np.where(real, found, _padding(value))
    inputs["behavior_position"] = np.where(there, length - index, 0).astype(np.int32)
    inputs["attention_score"] = score
    return inputs


def split_candidates(
    inputs: Mapping[str, np.ndarray], size: int | None
) -> list[Mapping[str, np.ndarray]]:
    """Inputs of a signature in parts of up to ``size`` candidates each, histories repeated.

    Args:
        inputs: mapping of name to array.
        size: int or None. None: one part.
    """
    names = [name for name in inputs if _by_candidate(name)]
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


def _by_candidate(name: str) -> bool:
    return name.startswith((TARGET, BEHAVIOR)) or name == "attention_score"


def search_inputs(requests: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs of the signature ``search``: the requests without their context."""
    return {
        name: value for name, value in checked(requests).items() if not name.startswith(CONTEXT)
    }


def _typed(name, array):
    if name == TIME_GAP and array.size and array.dtype.kind in "iu":
        return np.clip(array, 0, MAX_GAP).astype(np.int32)
    if name.startswith(CONTEXT) and array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.size and array.dtype.kind not in "iu":
        numbers = "integers or floats" if name.startswith(CONTEXT) else "integers"
        raise ValueError(f"`{name}` must hold {numbers}. Received: dtype={array.dtype}")
    return array.astype(np.int32 if name in (LENGTH, TIME_GAP) else np.int64, copy=False)


def _filled(feature, ids, size):
    """A behavior's values, filled up to L."""
    if np.ndim(ids) != 1 or len(ids) > size:
        raise ValueError(
            f"Feature {feature!r} must have lists of up to {size} ids. Received: {ids}"
        )
    return [*ids, *([NO_VALUE] * (size - len(ids)))]


def _padding(array):
    return np.array(NO_VALUE if array.ndim == 3 else PADDING_ID, array.dtype)


def _widened(array, width):
    missing = [(0, 0)] * array.ndim
    missing[1] = (0, width - array.shape[1])
    return np.pad(array, missing, constant_values=_padding(array))
