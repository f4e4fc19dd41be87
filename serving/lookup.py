"""A user's newest request out of a folder of sequences, in the raw ids that a server takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Mapping, Sequence

import numpy as np

from tfdare.record import UserRecord
from tfdare.schema import FIRST_ID, SchemaError
from tfdare.sequences import SPLITS, Sequences

UNKNOWN_ID = -1
"""Raw id sent for a row that stands for no single id; the model takes it as out of vocabulary."""


class UnknownUser(LookupError):
    """The split holds no such user."""


@dataclass(frozen=True)
class UserRequest:
    """One user's history and candidates, as raw ids.

    Attributes:
        user: str. The raw user id.
        history: mapping of feature to int64 ``[N]``, oldest first.
        target: mapping of feature to int64 ``[C]``.
        label: uint8 ``[C]`` or None. 1 clicked, 0 not, where the log knows it.
    """

    user: str
    history: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]
    label: np.ndarray | None


class RawIds:
    """Row ids to raw ids and back, by the vocabulary files of ``sequences``."""

    def __init__(self, sequences: Sequences):
        self._raw = {name: sequences.vocabulary(name) for name in sequences.schema.names}

    def raw(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Raw ids of ``rows`` of feature ``name``; -1 for padding and out of vocabulary."""
        rows = np.asarray(rows, np.int64)
        known = (rows >= FIRST_ID) & (rows < FIRST_ID + len(self._raw[name]))
        found = np.full(rows.shape, UNKNOWN_ID, np.int64)
        found[known] = self._raw[name][rows[known] - FIRST_ID]
        return found

    def row(self, name: str, raw: int) -> int | None:
        """Row of one raw id of feature ``name``, or None."""
        (found,) = np.nonzero(self._raw[name] == raw)
        return int(found[0]) + FIRST_ID if len(found) else None


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


def _request(sequences: Sequences, record: UserRecord, ids: RawIds) -> UserRequest:
    if len(record.position) == 0:  # a user with a history and nothing to rank
        end, first, last = len(record.history_time), 0, 0
    else:
        request = int(np.flatnonzero(record.position == record.position.max())[-1])
        end = int(record.position[request])
        last = int(record.target_length[: request + 1].sum())
        first = last - int(record.target_length[request])
    start = max(0, end - sequences.schema.window)
    return UserRequest(
        record.user,
        {name: ids.raw(name, rows[start:end]) for name, rows in record.history.items()},
        {name: ids.raw(name, rows[first:last]) for name, rows in record.target.items()},
        record.label[first:last],
    )


def candidates(
    sequences: Sequences, split: str, items: Sequence[int], ids: RawIds
) -> dict[str, np.ndarray]:
    """Raw item ids with their other features, from the first record that carries each item.

    Features of an item that the sequences do not know are -1. The given split is read first.
    """
    names = sequences.schema.names
    item = names[0]
    found = {name: np.full(len(items), UNKNOWN_ID, np.int64) for name in names}
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
            for name in names[1:]:
                found[name][found[item] == raw] = ids.raw(name, side[name][hit])
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
