"""Requests of the users of a bucket -> one record per user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from beam_jobs.histories import Histories
from tfdare.record import UserRecord


@dataclass(frozen=True)
class Ranked:
    """Requests of one split, sorted by user and time.

    Attributes:
        user: int64 ``[R]``. Index into the users of the bucket.
        seen: int64 ``[R]``. Behaviors that the request sees, never falling within a user.
        time: int64 ``[R]``.
        size: int32 ``[R]``. Candidates of each.
        target: mapping of feature to int32 ``[T]``, or ``[T, V]``. Rows of all candidates.
        label: uint8 ``[T]``.
        context: mapping of context feature to ``[R]``.
    """

    user: np.ndarray
    seen: np.ndarray
    time: np.ndarray
    size: np.ndarray
    target: Mapping[str, np.ndarray]
    label: np.ndarray
    context: Mapping[str, np.ndarray]


def make_records(
    histories: Histories, rows: Mapping[str, np.ndarray], ranked: Ranked
) -> tuple[list[UserRecord], dict[str, int]]:
    """The records, sorted by user, and their tally.

    Args:
        histories: Histories.
        rows: mapping of feature to int32 ``[E]``, or ``[E, V]``. Rows of all behaviors.
        ranked: Ranked.
    """
    users, first = np.unique(ranked.user, return_index=True)
    last = np.append(first[1:], len(ranked.user))
    ends = np.concatenate([[0], np.cumsum(ranked.size)])
    start, time = histories.start.tolist(), histories.columns["time"]
    seen = ranked.seen.astype(np.int32)
    records = []
    for user, a, b in zip(users.tolist(), first.tolist(), last.tolist()):
        begin, low, high = start[user], ends[a], ends[b]
        known = slice(begin, begin + int(seen[b - 1]))
        records.append(
            UserRecord(
                user=histories.users[user],
                history={name: values[known].reshape(-1) for name, values in rows.items()},
                history_time=time[known],
                position=seen[a:b],
                target_length=ranked.size[a:b],
                target={
                    name: values[low:high].reshape(-1) for name, values in ranked.target.items()
                },
                label=ranked.label[low:high],
                request_time=ranked.time[a:b],
                context={name: values[a:b] for name, values in ranked.context.items()},
            )
        )
    positives = int(ranked.label.sum())
    tally = {
        "users": len(users),
        "requests": len(ranked.user),
        "candidates": len(ranked.label),
        "positives": positives,
        "negatives": len(ranked.label) - positives,
    }
    return records, tally
