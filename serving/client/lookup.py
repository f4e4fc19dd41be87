"""A user's newest request out of a folder of sequences, in the raw ids that a server takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.client.requests import one_request
from tfdare.schema import MAX_GAP, PADDING_ID, NumericContext, Schema, SchemaError
from tfdare.sequences import SPLITS, Sequences
from tfdare.sequences.raw_ids import UNKNOWN_ID, RawIds
from tfdare.sequences.record import UserRecord


class UnknownUser(LookupError):
    """The split holds no such user."""


@dataclass(frozen=True)
class UserRequest:
    """One user's history and candidates, as raw ids.

    Attributes:
        user: str. The raw user id.
        history: mapping of feature to int64 ``[N]``, oldest first; ``[N, L]`` with several values,
            -1 where there is none.
        target: mapping of feature to int64 ``[C]``, or ``[C, L]``.
        label: uint8 ``[C]`` or None. 1 clicked, 0 not, where the log knows it.
        time_gap: int64 ``[N]`` or None. Time from each behavior to the request, where the schema
            has it; to the newest behavior for a user without a request.
        context: mapping of context feature to a raw id, int64 ``[L]`` of them, or a float; not
            known (-1, none, NaN) for a user without a request.
    """

    user: str
    history: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]
    label: np.ndarray | None
    time_gap: np.ndarray | None = None
    context: Mapping[str, Any] = field(default_factory=dict)


def newest_request(
    sequences: Sequences, split: str, user: str | None, ids: RawIds, shown: int = 5
) -> UserRequest:
    """The user's newest request of a split: the window of history before it, its candidates.

    Without a user, the first one of the split.

    Raises:
        UnknownUser: there is none; the message names ``shown`` users that exist.
    """
    others: list[str] = []
    for record in sequences.records(split):
        if user is None or record.user == user:
            return _request(sequences, record, ids)
        if len(others) <= shown:
            others.append(record.user)
    some = ", ".join(others[:shown]) + (", ..." if len(others) > shown else "")
    raise UnknownUser(
        f"No user {user!r} in split {split!r} of {sequences.path!r}. "
        + (f"Users there: {some}" if others else "The split holds no user.")
    )


def newest_requests(sequences: Sequences, split: str, ids: RawIds) -> Iterator[UserRequest]:
    """The newest request of every user of a split who has one, in the order of the files."""
    for record in sequences.records(split):
        if len(record.position):
            yield _request(sequences, record, ids)


def request_mapping(
    asked: UserRequest, schema: Schema, target: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """A user's request as the client takes it, its own candidates or others."""
    several = {
        part.name: part.max_values
        for part in (*schema.features, *schema.context)
        if getattr(part, "max_values", 1) > 1
    }
    target = asked.target if target is None else target
    return one_request(asked.history, target, asked.time_gap, asked.context, several)


def _request(sequences: Sequences, record: UserRecord, ids: RawIds) -> UserRequest:
    schema, times = sequences.schema, record.history_time
    if len(record.position) == 0:  # a user with a history and nothing to rank
        request, end, first, last = None, len(times), 0, 0
        now = times[-1] if end else 0
    else:
        request = int(np.flatnonzero(record.position == record.position.max())[-1])
        end = int(record.position[request])
        last = int(record.target_length[: request + 1].sum())
        first = last - int(record.target_length[request])
        now = None if record.request_time is None else record.request_time[request]
    start = max(0, end - schema.window)
    time_gap = None
    if schema.time_gap is not None:
        if now is None:
            raise ValueError(f"The record of user {record.user!r} has no time of its requests.")
        time_gap = np.clip(now - times[start:end], 0, MAX_GAP)
    return UserRequest(
        record.user,
        {name: ids.raw(name, rows)[start:end] for name, rows in record.history.items()},
        {name: ids.raw(name, rows)[first:last] for name, rows in record.target.items()},
        record.label[first:last],
        time_gap,
        {part.name: _context(part, record, request, ids) for part in schema.context},
    )


def _context(part, record: UserRecord, request: int | None, ids: RawIds):
    """One context feature of a request; not known where there is none."""
    if isinstance(part, NumericContext):
        return float("nan") if request is None else float(record.context[part.name][request])
    if request is None:
        nothing = np.full(part.max_values, PADDING_ID)
        value = ids.raw(part.name, nothing).reshape(-1, part.max_values)[0]
    else:
        value = ids.raw(part.name, record.context[part.name]).reshape(-1, part.max_values)[request]
    return value if part.max_values > 1 else int(value[0])


def candidates(
    sequences: Sequences, split: str, items: Sequence[int], ids: RawIds
) -> dict[str, np.ndarray]:
    """Raw item ids with their other features, from the first record that carries each item.

    Features of an item that the sequences do not know are -1. The given split is read first.
    """
    names, shape = sequences.schema.names, (len(items),)
    item = names[0]
    found = {
        feature.name: np.full(
            shape if feature.max_values == 1 else (*shape, feature.max_values), UNKNOWN_ID, np.int64
        )
        for feature in sequences.schema.features
    }
    found[item] = np.asarray(items, np.int64)
    wanted = {row: raw for raw in items if (row := ids.row(item, raw)) is not None}
    for side in _sides(sequences, split) if len(names) > 1 else ():
        if not wanted:
            break
        hits = np.flatnonzero(np.isin(side[item], list(wanted)))
        for hit in hits:
            raw = wanted.pop(int(side[item][hit]), None)
            if raw is None:  # the same item once more
                continue
            for feature in sequences.schema.features[1:]:
                values = slice(hit * feature.max_values, (hit + 1) * feature.max_values)
                found[feature.name][found[item] == raw] = ids.raw(
                    feature.name, side[feature.name][values]
                )[0]
    return found


def _sides(sequences: Sequences, first: str) -> Iterator[Mapping[str, np.ndarray]]:
    for split in (first, *(name for name in SPLITS if name != first)):
        try:
            sequences.files(split)
        except SchemaError:  # a folder need not have every split
            continue
        for record in sequences.records(split):
            yield record.history
            yield record.target
