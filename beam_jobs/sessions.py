"""Negatives from the target's own session: the other items that the user turned to then."""

from __future__ import annotations

import numpy as np

from beam_jobs.hashing import combine

_PAIRS = 1 << 22  # (request, event of its session) looked at together


def draw_from_sessions(
    session: np.ndarray, item: np.ndarray, event: np.ndarray, key: np.ndarray, count: int
) -> np.ndarray:
    """Different items of each target's session, all alike, other than the target.

    Args:
        session: int64 ``[E]``. Session of every event, never falling.
        item: int64 ``[E]``. Catalog index of every event's item, -1: unknown.
        event: int64 ``[R]``. The targets.
        key: uint64 ``[R]``. A hash of every request.
        count: int. For each request.

    Returns:
        int64 ``[R, count]`` catalog indices, -1 after the last one that the session has.
    """
    drawn = np.full((len(event), count), -1, np.int64)
    first = np.searchsorted(session, session[event])
    size = np.searchsorted(session, session[event], side="right") - first
    start = 0
    while start < len(event):
        within = np.searchsorted(np.cumsum(size[start:]), _PAIRS, side="right")
        stop = start + max(int(within), 1)
        _draw(
            drawn[start:stop],
            first[start:stop],
            size[start:stop],
            item,
            item[event[start:stop]],
            key[start:stop],
        )
        start = stop
    return drawn


def sessions(user: np.ndarray, time: np.ndarray, gap: int) -> np.ndarray:
    """Session of every event of users, int64 ``[E]``, rising from 0: a pause longer than ``gap``
    ends one."""
    fresh = np.zeros(len(user), bool)
    fresh[1:] = (user[1:] != user[:-1]) | (time[1:] - time[:-1] > gap)
    return np.cumsum(fresh)


def _draw(drawn, first, size, item, target, key) -> None:
    request = np.repeat(np.arange(len(size)), size)
    place = np.arange(len(request)) - np.repeat(np.cumsum(size) - size, size)
    found = item[first[request] + place]
    fine = (found >= 0) & (found != target[request])
    request, found = request[fine], found[fine]
    order = np.lexsort((found, combine(key[request], found), request))
    request, found = request[order], found[order]
    again = np.zeros(len(found), bool)  # one item has one hash: repeats are neighbors
    again[1:] = (request[1:] == request[:-1]) & (found[1:] == found[:-1])
    request, found = request[~again], found[~again]
    rank = np.arange(len(request)) - np.searchsorted(request, request)
    kept = rank < drawn.shape[1]
    drawn[request[kept], rank[kept]] = found[kept]
