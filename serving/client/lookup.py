"""Reads users' newest requests, and features of items, from a folder of sequences as raw ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tfdare.schema import PADDING_ID, STRING, NumericContext, Schema, SchemaError
from tfdare.sequences import SPLITS, Sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import UserRecord
from tfdare.sequences.requests import UserRequest, requests_of_record
from tfdare.sequences.users import UnknownUser, find_user

__all__ = ["UnknownUser", "candidates", "newest_request", "newest_requests"]


def newest_request(
    sequences: Sequences, split: str, user: str | None, ids: RawIds, examples: int = 5
) -> UserRequest:
    """Reads the user's newest request of a split, or the first user's where `user` is None.

    A user without a request gets one without candidates and with unknown context, at the time of
    the newest behavior.

    Raises:
        UnknownUser: there is no such user; the message names ``examples`` users that exist.
    """
    record = find_user(sequences, split, user, examples)
    if not len(record.position):
        record = _with_empty_request(record, sequences.schema)
    return _newest(record, sequences.schema, ids)


def newest_requests(sequences: Sequences, split: str, ids: RawIds) -> Iterator[UserRequest]:
    """Reads the newest request of every user of a split who has one, in the order of the files."""
    for record in sequences.records(split):
        if len(record.position):
            yield _newest(record, sequences.schema, ids)


def _newest(record: UserRecord, schema: Schema, ids: RawIds) -> UserRequest:
    return requests_of_record(record, schema, ids, newest=True)[-1]


def _with_empty_request(record: UserRecord, schema: Schema) -> UserRecord:
    times = record.history_time
    return replace(
        record,
        position=np.array([len(times)]),
        target_length=np.array([0]),
        request_time=times[-1:] if len(times) else np.array([0]),
        context={
            part.name: np.array([np.nan])
            if isinstance(part, NumericContext)
            else np.full(part.max_values, PADDING_ID)
            for part in schema.context
        },
    )


def candidates(
    sequences: Sequences, split: str, items: Sequence[int | bytes], ids: RawIds
) -> dict[str, np.ndarray]:
    """Finds the other features of raw item ids, in the first record that contains each item.

    Features of an item that is in no record are -1, or an empty text. `split` is read first.

    Returns:
        Mapping of feature to int64 or bytes ``[C]``, or ``[C, L]`` of a feature of several values.
    """
    names, shape = sequences.schema.names, (len(items),)
    item = names[0]
    columns = {
        feature.name: np.full(
            shape if feature.max_values == 1 else (*shape, feature.max_values),
            ids.unknown(feature.name),
            object,
        )
        for feature in sequences.schema.features
    }
    columns[item] = np.asarray(items, object)
    missing = {row: raw for raw in items if (row := ids.row(item, raw)) is not None}
    for side in _sides(sequences, split) if len(names) > 1 else ():
        if not missing:
            break
        for index in np.flatnonzero(np.isin(side[item], list(missing))):
            raw = missing.pop(int(side[item][index]), None)
            if raw is None:  # the same item once more
                continue
            for feature in sequences.schema.features[1:]:
                values = slice(index * feature.max_values, (index + 1) * feature.max_values)
                columns[feature.name][columns[item] == raw] = ids.raw(
                    feature.name, side[feature.name][values]
                )[0]
    return {
        feature.name: columns[feature.name].astype(bytes if feature.dtype == STRING else np.int64)
        for feature in sequences.schema.features
    }


def _sides(sequences: Sequences, first: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields histories and targets of all records, those of split `first` before the others."""
    for split in (first, *(name for name in SPLITS if name != first)):
        try:
            sequences.files(split)
        except SchemaError:  # a folder need not have every split
            continue
        for record in sequences.records(split):
            yield record.history
            yield record.target
