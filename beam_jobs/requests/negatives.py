"""Negatives: items without an event of the user, or other items of the target's session.

Every draw is a hash of (user, position, slot, seed), so that it does not depend on the runner, the
buckets or the order of work. No draw is rejected: the weights of all items of the catalog are laid
end to end on a line, the user's own items are cut out of it, and a draw is an offset into the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from beam_jobs.shared.hashing import combine, unit_interval
from beam_jobs.vocabulary.catalog import Catalog

CATALOG, CATEGORY, SESSION = ORIGINS = ("catalog", "category", "session")
"""Where negatives come from: all items, those of the target's category, or the other items of the
target's session."""
_PAIRS = 1 << 22  # pairs of (request, event of its session) that are processed at once


@dataclass(frozen=True)
class Sampling:
    """Options of requests: their negatives, and the behaviors that they see.

    Attributes:
        negatives: int. For each request.
        seed: int.
        alpha: float. Items are drawn in proportion to their counts to this power.
        origin: str. One of ``ORIGINS``.
        session_gap: int. A pause longer than this ends a session, by the clock of the log.
        coarse_clock: bool. Whether the order of the log decides among events of the same time.
        max_candidates: int. A request of impressions with more candidates is split.
    """

    negatives: int
    seed: int
    alpha: float = 1.0
    origin: str = CATALOG
    session_gap: int = 1800
    coarse_clock: bool = False
    max_candidates: int = 100


class Negatives:
    """Draws negatives for the users of a bucket.

    Args:
        catalog: Catalog. Items and their counts in the training period.
        user_hash: uint64 ``[U]``. A stable hash of every user.
        event_user, event_item: int64 ``[E]``. User, and catalog index of the item (-1: unknown),
            of every event of these users; no item of a user is drawn for that user.
        seed: int.
        alpha: float. Items are drawn in proportion to their counts to this power. Defaults to 1.
        group: int64 ``[I]`` or None. Group of every item, such as its category, to which
            :meth:`draw` can be limited.
    """

    def __init__(
        self,
        catalog: Catalog,
        user_hash: np.ndarray,
        event_user: np.ndarray,
        event_item: np.ndarray,
        seed: int,
        alpha: float = 1.0,
        group: np.ndarray | None = None,
    ):
        self._counts, self._order = catalog.weights(alpha), None
        if group is not None:  # a group's items lie side by side on the line
            self._order = np.argsort(group, kind="stable")
            self._rank = np.empty_like(self._order)
            self._rank[self._order] = np.arange(len(group))
            self._group = group[self._order]
            self._counts = self._counts[self._order]
            event_item = np.where(event_item >= 0, self._rank[event_item], -1)
        self._cumulative = np.cumsum(self._counts)
        self._user_hash, self._seed = user_hash, seed
        items, total = len(catalog), int(self._counts.sum())
        known = event_item >= 0
        touched = _distinct(event_user[known] * items + event_item[known])
        self._touched = touched
        owner, item = (touched // items, touched % items) if items else (touched, touched)
        width = self._counts[item]
        self._cut = np.concatenate([[0], np.cumsum(width)])
        self._first = np.searchsorted(owner, np.arange(len(user_hash)))  # each user's first cut
        after = np.append(self._first[1:], len(owner))[: len(self._first)]
        self._left = total - (self._cut[after] - self._cut[self._first])
        # where each cut lies once those before it are taken out; rises within a user
        before = self._cut[:-1] - self._cut[self._first][owner]
        self._stride = total + 1
        self._keys = owner * self._stride + self._cumulative[item] - width - before

    def draw(
        self, user: np.ndarray, position: np.ndarray, count: int, like: np.ndarray | None = None
    ) -> np.ndarray:
        """Draws negatives for the requests at ``position`` of ``user``.

        Args:
            user, position: int64 ``[R]``.
            count: int. For each request.
            like: int64 ``[R]`` or None. Catalog index of an item; negatives come from its group
                while that has new items without an event of the user, then from all items. -1:
                from all items.

        Returns:
            int64 ``[R, count]`` catalog indices, -1 where the user has events with every item. The
            negatives of a request differ, unless fewer items than ``count`` are left for the user.
        """
        drawn = np.full((len(user), count), -1, np.int64)
        if not drawn.size or not len(self._counts):
            return drawn
        key = combine(self._user_hash[user], position, self._seed)
        left = self._left[user]
        low, high = self._group_bounds(user, like)
        # the stretches of the line that this request's earlier negatives cover
        start, width = np.zeros(drawn.shape, np.int64), np.zeros(drawn.shape, np.int64)
        for slot in range(count):
            before, wide = start[:, :slot], width[:, :slot]
            near = (before >= low[:, None]) & (before < high[:, None])
            fresh = high - low - np.where(near, wide, 0).sum(axis=1)
            all_items = fresh <= 0
            least = np.where(all_items, 0, low)
            fresh = np.where(all_items, left - wide.sum(axis=1), fresh)
            repeat = fresh <= 0  # no new item is left: any item left for the user is drawn
            size = np.where(repeat, left, fresh)
            offset = least + (unit_interval(combine(key, slot)) * size).astype(np.int64)
            offset = np.minimum(offset, np.maximum(least + size - 1, 0))
            order = np.argsort(before, axis=1, kind="stable")
            for rank in range(slot):
                chosen = order[:, rank, None]
                first = np.take_along_axis(start, chosen, axis=1)[:, 0]
                skip = np.take_along_axis(width, chosen, axis=1)[:, 0]
                jump = ~repeat & (first >= least) & (offset >= first)
                offset = np.where(jump, offset + skip, offset)
            item, start[:, slot] = self._item_at(user, offset)
            drawn[:, slot] = np.where(left > 0, item, -1)
            width[:, slot] = np.where(repeat, 0, self._counts[item])
        return drawn if self._order is None else np.where(drawn >= 0, self._order[drawn], -1)

    def _group_bounds(
        self, user: np.ndarray, like: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the group of ``like`` begins and ends on the user's line; 0 for none."""
        nothing = np.zeros(len(user), np.int64)
        if like is None:
            return nothing, nothing
        items, group = len(self._counts), self._group[self._rank[like]]
        line = np.concatenate([[0], self._cumulative])
        ends = []
        sides: tuple[Literal["left", "right"], ...] = ("left", "right")
        for side in sides:
            item = np.searchsorted(self._group, group, side=side)
            cuts = np.searchsorted(self._touched, user * items + item)
            ends.append(line[item] - (self._cut[cuts] - self._cut[self._first[user]]))
        return np.where(like >= 0, ends[0], 0), np.where(like >= 0, ends[1], 0)

    def _item_at(self, user: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the item at an offset of each user's line, and where it begins on the line."""
        cuts = np.searchsorted(self._keys, user * self._stride + offset, side="right")
        shift = self._cut[cuts] - self._cut[self._first[user]]
        item = np.searchsorted(self._cumulative, offset + shift, side="right")
        item = np.minimum(item, len(self._counts) - 1)
        return item, self._cumulative[item] - self._counts[item] - shift


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorts and drops repeats; ``numpy.unique`` hashes, which is far slower here."""
    values = np.sort(values)
    if len(values):
        values = values[np.concatenate([[True], values[1:] != values[:-1]])]
    return values


def sessions(user: np.ndarray, time: np.ndarray, gap: int) -> np.ndarray:
    """Assigns events of users to sessions, int64 ``[E]``, rising from 0: a pause longer than
    ``gap`` ends a session."""
    fresh = np.zeros(len(user), bool)
    fresh[1:] = (user[1:] != user[:-1]) | (time[1:] - time[:-1] > gap)
    return np.cumsum(fresh)


def draw_from_sessions(
    session: np.ndarray, item: np.ndarray, event: np.ndarray, key: np.ndarray, count: int
) -> np.ndarray:
    """Draws distinct items of each target's session, uniformly, other than the target.

    Args:
        session: int64 ``[E]``. Session of every event, rising.
        item: int64 ``[E]``. Catalog index of every event's item, -1: unknown.
        event: int64 ``[R]``. The targets.
        key: uint64 ``[R]``. A hash of every request.
        count: int. For each request.

    Returns:
        int64 ``[R, count]`` catalog indices, -1 where the session has no more items.
    """
    drawn = np.full((len(event), count), -1, np.int64)
    first = np.searchsorted(session, session[event])
    size = np.searchsorted(session, session[event], side="right") - first
    start = 0
    while start < len(event):
        within = np.searchsorted(np.cumsum(size[start:]), _PAIRS, side="right")
        stop = start + max(int(within), 1)
        _fill(
            drawn[start:stop],
            first[start:stop],
            size[start:stop],
            item,
            item[event[start:stop]],
            key[start:stop],
        )
        start = stop
    return drawn


def _fill(drawn, first, size, item, target, key) -> None:
    """Fills ``drawn`` with the items of sessions, by the hash of (request, item)."""
    request = np.repeat(np.arange(len(size)), size)
    position = np.arange(len(request)) - np.repeat(np.cumsum(size) - size, size)
    candidate = item[first[request] + position]
    fine = (candidate >= 0) & (candidate != target[request])
    request, candidate = request[fine], candidate[fine]
    order = np.lexsort((candidate, combine(key[request], candidate), request))
    request, candidate = request[order], candidate[order]
    again = np.zeros(len(candidate), bool)  # one item has one hash: repeats are neighbors
    again[1:] = (request[1:] == request[:-1]) & (candidate[1:] == candidate[:-1])
    request, candidate = request[~again], candidate[~again]
    rank = np.arange(len(request)) - np.searchsorted(request, request)
    kept = rank < drawn.shape[1]
    drawn[request[kept], rank[kept]] = candidate[kept]
