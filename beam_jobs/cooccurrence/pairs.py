"""Pairs of behaviors that lie close together, and how much each of them weighs.

Events of a user that have the same time are a *basket*; where the clock is coarse, the order of
the log is the truth, and every event is a basket of its own. A *session* ends where the pause to
the next event is longer than a given gap. Two events make a pair if they lie in baskets of the
same session that are within reach of each other (:func:`find_baskets`). Weights are integers, so
that sums of them do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beam_jobs.cooccurrence.behaviors import Behaviors
from tfdare.schema import FIRST_ID
from tfdare.schema.id_hash import mix

NEAR_EVENTS = 10
"""Baskets with fewer events than this between them are within reach of each other."""
NEAR_BASKETS = 3
"""Baskets at most this many steps apart are within reach, however large they are."""
MOST_PAIRS = 16_000_000
"""Pairs of a log that are counted for a feature, about; of a larger number some are drawn."""
ENOUGH_PAIRS = 256
"""Pairs for each id of a feature that are enough, where these are more than ``FEW_PAIRS``."""
FEW_PAIRS = 4_000_000
"""Pairs that are counted whatever the number of ids."""
UNIT = 27_720
"""Weight of a pair inside a basket: divisible by 1 to 11."""
WEIGHTS = UNIT // (1 + np.arange(NEAR_EVENTS + 1))
"""Weight of a pair by the number of steps from one's basket to the other's."""
_SLICE = 1 << 15  # events whose pairs are listed at once
_HASH_BITS = 24
_BOUNDS = np.cumsum(WEIGHTS[1:])
# of each point below a bound
_DISTANCES = np.repeat(np.arange(1, NEAR_EVENTS + 1, dtype=np.int8), WEIGHTS[1:])


@dataclass(frozen=True)
class Baskets:
    """Baskets of events, in the order of the events.

    Attributes:
        of_event: int64 ``[E]``. The number of every event's basket; numbers rise by 1.
        last: int64 ``[B]``. The last basket that is within reach of each basket.
        code: uint64 ``[E]``. A hash of every event's user and position.
    """

    of_event: np.ndarray
    last: np.ndarray
    code: np.ndarray


def find_baskets(behaviors: Behaviors, coarse_clock: bool, gap: int | None) -> Baskets:
    """Groups the events of all users into baskets, and finds what is within reach of each.

    Args:
        behaviors: Behaviors.
        coarse_clock: bool. Whether every event is a basket of its own.
        gap: int or None. A longer pause starts a new session; None: a user has one session.
    """
    time, first = behaviors.time, behaviors.position == 0
    pause = np.diff(time, prepend=time[:1])
    session_starts = first | (pause > gap) if gap is not None else first
    starts = np.ones(len(time), bool) if coarse_clock else session_starts | (pause != 0)
    of_event = np.cumsum(starts) - 1
    start = np.flatnonzero(starts)
    session_start = np.append(np.flatnonzero(session_starts[start]), len(start))
    session_end = np.repeat(session_start[1:] - 1, np.diff(session_start))
    after = np.append(start[1:], len(time))[: len(start)]
    last = _last_within_reach(of_event, after)
    user_hash = np.repeat(behaviors.user_hash, behaviors.length)
    code = mix(user_hash ^ behaviors.position.astype(np.uint64))
    return Baskets(of_event, np.minimum(last, session_end), code)


def _last_within_reach(of_event: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns the last basket within reach of each, int64 ``[B]``, sessions left aside.

    Args:
        of_event: int64 ``[E]``. The basket of every event.
        after: int64 ``[B]``. The first event after each basket.
    """
    last_event = np.minimum(after + NEAR_EVENTS, len(of_event)) - 1
    return np.maximum(of_event[last_event], np.arange(len(after)) + NEAR_BASKETS)


@dataclass(frozen=True)
class Limits:
    """How many pairs of a log are counted.

    Attributes:
        most: int. Pairs of an event with later events at most.
        every: int. Of so many events one makes pairs with later ones, chosen by a hash.
    """

    most: int
    every: int = 1


def limit_pairs(events: int, size: int) -> Limits:
    """Returns how many pairs of a feature are counted.

    Args:
        events: int. Events of the whole training period.
        size: int. Row ids of the feature.
    """
    pairs = min(max(size * ENOUGH_PAIRS, FEW_PAIRS), MOST_PAIRS)
    if pairs == MOST_PAIRS:  # many ids: a log of any length is needed
        return Limits(max(pairs // max(events, 1), 2))
    return Limits(max(pairs // max(events, 1), 1), max(events // pairs, 1))


def list_pairs(
    baskets: Baskets, keep: np.ndarray, limits: Limits
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lists the pairs of the events that are kept, each pair once.

    An event with more later events within reach than the limit draws as many, in proportion to
    their weights, by a hash of the user and the event's position; the weights of those left out
    are shared among them.

    Args:
        baskets: Baskets. Of all events.
        keep: int64 ``[K]``. Indices of the events to pair, rising.
        limits: Limits.

    Yields:
        Indices into ``keep`` of the earlier and of the later events, and the pairs' weights, int64.
    """
    basket, code = baskets.of_event[keep], baskets.code[keep]
    begin = np.append(0, np.cumsum(np.bincount(basket, minlength=len(baskets.last))))
    reach = baskets.last[basket] + 1
    end = begin[reach]
    # whether all baskets within reach of an event have a single event that is kept
    several = np.append(0, np.cumsum(np.diff(begin) != 1))
    single = several[reach] == several[basket]
    events, most = np.arange(len(keep)), limits.most
    if limits.every > 1:
        chosen = np.flatnonzero(code % np.uint64(limits.every) == 0)
        events, end, code, single = chosen, end[chosen], code[chosen], single[chosen]
    for low in range(0, len(events), _SLICE):
        part = slice(low, low + _SLICE)
        event, event_end = events[part], end[part]
        later = event_end - event - 1
        few = np.flatnonzero((later > 0) & (later <= most))
        distance = 1
        while len(few):
            first = event[few]
            other = first + distance
            yield first, other, WEIGHTS[basket[other] - basket[first]]
            distance += 1
            few = few[distance <= later[few]]
        for alone in (True, False):
            many = np.flatnonzero((later > most) & (single[part] == alone))
            if not len(many):
                continue
            first, turns = event[many], _turns(code[part][many], most)
            if alone:
                drawn = _draw_single(first, event_end[many], turns)
            else:
                drawn = _draw(first, basket, begin, baskets.last, turns)
            for other, weight in drawn:
                yield first, other, weight // most


def _turns(code: np.ndarray, most: int) -> list[np.ndarray]:
    """Returns where to draw: ``most`` integers an event, evenly spaced modulo ``2 ** _HASH_BITS``,
    the first by the event's hash."""
    first = (code >> np.uint64(64 - _HASH_BITS)).view(np.int64)
    return [
        (first + (number << _HASH_BITS) // most) & ((1 << _HASH_BITS) - 1) for number in range(most)
    ]


def _draw(
    event: np.ndarray,
    basket: np.ndarray,
    begin: np.ndarray,
    last: np.ndarray,
    turns: list[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws later events, in proportion to their weights.

    Args:
        event: int64 ``[D]``. Indices of kept events.
        basket: int64 ``[K]``. The basket of every kept event.
        begin: int64 ``[B + 1]``. The first kept event of every basket.
        last: int64 ``[B]``. The last basket within reach.
        turns: list of int64 ``[D]``. Where to draw, in fractions of ``2 ** _HASH_BITS``.

    Yields:
        For each of ``turns`` the events drawn, and the weight of all from which they were drawn.
    """
    own = basket[event]
    steps = int((last[own] - own).max())
    # by step and event: the first event of the basket, and the weight of the baskets before it
    first = np.empty((steps + 1, len(event)), np.int64)
    weight = np.zeros((steps + 2, len(event)), np.int64)
    first[0], end = event + 1, begin[own + 1]
    weight[1] = (end - first[0]) * WEIGHTS[0]
    for step in range(1, steps + 1):
        first[step], end = end, begin[np.minimum(own + step, last[own]) + 1]
        weight[step + 1] = weight[step] + (end - first[step]) * WEIGHTS[step]
    total, line = weight[-1], np.arange(len(event))
    for turn in turns:
        point = turn * total >> _HASH_BITS
        chosen = np.zeros(len(event), np.int8)
        for before in weight[1:-1]:
            chosen += point >= before
        cell = chosen * np.int64(len(event)) + line
        point -= weight.ravel()[cell]
        yield first.ravel()[cell] + point // WEIGHTS[chosen], total


def _draw_single(
    event: np.ndarray, end: np.ndarray, turns: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws as :func:`_draw` does, faster, where every basket within reach is a single event.

    Args:
        event, end: int64 ``[D]``. Indices of kept events, and of the first ones beyond reach.
        turns: list of int64 ``[D]``.
    """
    total = _BOUNDS[end - event - 2]
    for turn in turns:
        point = turn * total
        point >>= _HASH_BITS
        yield event + _DISTANCES[point], total


def events_to_pair(rows: np.ndarray, baskets: Baskets) -> np.ndarray:
    """Returns the indices of events with a known id, of equal ids in a basket only the first."""
    known = np.flatnonzero(rows >= FIRST_ID)
    basket = baskets.of_event[known]
    same = np.zeros(len(known), bool)
    same[1:] = basket[1:] == basket[:-1]
    if not same.any():
        return known
    shared = np.flatnonzero(same | np.append(same[1:], False))
    order = shared[np.lexsort((rows[known[shared]], basket[shared]))]
    repeat = (basket[order][1:] == basket[order][:-1]) & (
        rows[known[order]][1:] == rows[known[order]][:-1]
    )
    keep = np.ones(len(known), bool)
    keep[order[1:][repeat]] = False
    return known[keep]
