"""Requests as arrays: one user's lists laid out, batches checked, what search found gathered.

A request mapping holds ``history_<feature>`` int64 ``[U, N]``, ``history_length`` int32 ``[U]``
and ``target_<feature>`` int64 ``[U, C]``. Only numpy is needed here.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np

from tfdare.schema import PADDING_ID

HISTORY, TARGET, BEHAVIOR, LENGTH = "history_", "target_", "behavior_", "history_length"


def one_request(
    history: Mapping[str, Sequence[int]], target: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """One user's lists as a request mapping with U = 1.

    Args:
        history: mapping of feature to raw ids, oldest first; may be empty lists.
        target: mapping of feature to raw ids of the candidates.

    Raises:
        ValueError: features differ, or lists of one side differ in length.

    Example:
        >>> one = one_request({"item": [7, 8]}, {"item": [9]})
        >>> one["history_item"].tolist(), one["history_length"].tolist()
        ([[7, 8]], [2])
    """
    if set(history) != set(target) or not history:
        raise ValueError(
            "`history` and `target` must have the same features, one at least. "
            f"Received: history={sorted(history)}, target={sorted(target)}"
        )
    for name, side in (("history", history), ("target", target)):
        lengths = {feature: len(values) for feature, values in side.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Lists of `{name}` must be equally long. Received: {lengths}")
    inputs = {HISTORY + name: np.asarray([values], np.int64) for name, values in history.items()}
    for name, values in target.items():
        inputs[TARGET + name] = np.asarray([values], np.int64)
    inputs[LENGTH] = np.array([len(next(iter(history.values())))], np.int32)
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
        if name.startswith(HISTORY) and name != LENGTH:
            width = max(part.shape[1] for part in parts)
            parts = [
                np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=PADDING_ID)
                for part in parts
            ]
        elif len({part.shape[1:] for part in parts}) > 1:
            raise ValueError(
                "`requests` must have equally many candidates. "
                f"Received: {name} of shapes {[part.shape for part in parts]}"
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
    if not features or set(requests) != wanted | {LENGTH}:
        raise ValueError(
            f"Requests must hold {LENGTH}, and history_<feature> and target_<feature> for every "
            f"feature. Received: {sorted(requests)}"
        )
    inputs = {}
    for name, value in requests.items():
        array = np.asarray(value)
        if array.size and array.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must hold integers. Received: dtype={array.dtype}")
        inputs[name] = array.astype(np.int32 if name == LENGTH else np.int64, copy=False)
    users = inputs[LENGTH].shape
    if len(users) != 1:
        raise ValueError(f"`{LENGTH}` must have shape [U]. Received: {users}")
    for prefix, axis in ((HISTORY, "N"), (TARGET, "C")):
        shapes = {prefix + name: inputs[prefix + name].shape for name in sorted(features)}
        first = next(iter(shapes.values()))
        if len(first) != 2 or first[:1] != users or len(set(shapes.values())) > 1:
            raise ValueError(f"`{prefix}<feature>` must have shape [{users[0]}, {axis}] each. "
                             f"Received: {shapes}")
    names = [HISTORY + name for name in features]
    width = inputs[names[0]].shape[1]
    length = inputs[LENGTH]
    if length.size and (length.min() < 0 or length.max() > width):
        raise ValueError(
            f"`{LENGTH}` must lie between 0 and the history's width {width}. "
            f"Received: {length.tolist()[:8]}"
        )
    if width == 0:  # a server that batches cannot pad a history without any column
        for name in names:
            inputs[name] = np.full((users[0], 1), PADDING_ID, np.int64)
    return inputs


def score_inputs(
    requests: Mapping[str, np.ndarray], behavior_index: np.ndarray, attention_score: np.ndarray
) -> dict[str, np.ndarray]:
    """Inputs of the signature ``score``: the candidates, and the behaviors that search kept.

    Where ``behavior_index`` is -1 there is no behavior: id 0, position 0.

    Args:
        requests: mapping of name to array, as search received it.
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
        if name.startswith(TARGET):
            inputs[name] = value
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
            inputs[BEHAVIOR + name[len(HISTORY) :]] = np.where(there, found, PADDING_ID)
    inputs["behavior_position"] = np.where(there, length - index, 0).astype(np.int32)
    inputs["attention_score"] = score
    return inputs
