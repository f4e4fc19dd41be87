"""Negatives: items the user never touched, drawn in proportion to how often items came.

Every draw is a hash of (user, position, slot, attempt, seed), so the runner, the buckets and the
order of work change nothing.
"""

from __future__ import annotations

import numpy as np

from beam_jobs.catalog import Catalog
from beam_jobs.hashing import uniform

_ATTEMPTS = 48


def draw_negatives(
    catalog: Catalog,
    seed: int,
    count: int,
    user_hash: np.ndarray,
    event_user: np.ndarray,
    event_item: np.ndarray,
    user: np.ndarray,
    position: np.ndarray,
) -> np.ndarray:
    """Draws ``count`` negatives for every request of a bucket.

    Args:
        catalog: Catalog. Items and how often each came in the training period.
        seed: int.
        count: int. Negatives of a request.
        user_hash: uint64 ``[U]``. A stable hash of every user.
        event_user, event_item: int64. User and catalog index (-1: unknown) of every event of the
            whole log of these users; none of a user's items is drawn for it.
        user, position: int64 ``[R]``. The requests.

    Returns:
        int64 ``[R, count]`` catalog indices, -1 where the user has touched every item. The
        negatives of a request differ, unless fewer items than ``count`` are left for the user.
    """
    requests, items = len(user), len(catalog)
    drawn = np.full((requests, count), -1, np.int64)
    if not requests or not items:
        return drawn
    known = event_item >= 0
    touched = np.unique(event_user[known] * items + event_item[known])
    total = int(catalog.cumulative[-1])
    for slot in range(count):
        open_ = np.arange(requests)
        for attempt in range(_ATTEMPTS):
            point = uniform(user_hash[user[open_]], position[open_], slot, attempt, seed) * total
            item = np.searchsorted(catalog.cumulative, point.astype(np.int64), side="right")
            fine = ~_contains(touched, user[open_] * items + item)
            fine &= (drawn[open_, :slot] != item[:, None]).all(axis=1)
            drawn[open_[fine], slot] = item[fine]
            open_ = open_[~fine]
            if not len(open_):
                break
        else:
            _draw_exactly(catalog, touched, seed, slot, user_hash, user, position, open_, drawn)
    return drawn


def _draw_exactly(catalog, touched, seed, slot, user_hash, user, position, requests, drawn):
    """The same for users who touched nearly everything: draws among what is left for them."""
    items = len(catalog)
    for person in np.unique(user[requests]).tolist():
        first, last = np.searchsorted(touched, [person * items, (person + 1) * items])
        left = np.ones(items, bool)
        left[touched[first:last] - person * items] = False
        left = np.flatnonzero(left)
        if not len(left):
            continue
        for request in requests[user[requests] == person].tolist():
            fresh = left[~np.isin(left, drawn[request, :slot])]
            choice = fresh if len(fresh) else left
            running = np.cumsum(catalog.counts[choice])
            point = uniform(user_hash[person], position[request], slot, _ATTEMPTS, seed)
            place = np.searchsorted(running, int(point * running[-1]), side="right")
            drawn[request, slot] = choice[place]


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[place] == keys
