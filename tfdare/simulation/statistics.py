"""Statistics of a log: the curves by which a simulated log is fitted to a real one and compared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LAGS = (1, 2, 3, 5, 10, 20, 50, 100, 200)
PARTNER_LAGS = (1, 2, 3, 5, 10, 20)
POSITIONS = (1, 3, 10, 30, 100, 300, 1000)
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
VISIT_GAP = 1800  # a pause of more seconds ends a visit, as is usual in web analytics
_FEWEST = 50  # with fewer pairs a rate is left out


class Views(NamedTuple):
    """Page views of whole users, grouped by user, each user's oldest first.

    Attributes:
        user: int64 ``[V]``.
        item: int64 ``[V]``.
        category: int64 ``[V]``.
        time: int64 ``[V]``. Unix seconds.
    """

    user: np.ndarray
    item: np.ndarray
    category: np.ndarray
    time: np.ndarray


def measure(views: Views) -> dict[str, Any]:
    """Computes numbers and curves of a log, ready for JSON; None where there are too few rows.

    ==================  ======================================================================
    ``users`` ...       ``page_views``, ``items``, ``categories``: how many there are
    ``length``          quantiles of page views of a user (at ``QUANTILES``)
    ``repeat_rate``     share of page views whose item is that of the one ``lag`` before (`LAGS`)
    ``seen_before``     share of page views whose item the user viewed before, by how many page
                        views came before (from each of `POSITIONS` to the next)
    ``category_rate``   the same as ``repeat_rate`` for categories
    ``category_lift``   ``category_rate`` over ``category_chance``, the probability that two random
                        page views share their category (``item_chance`` is that of items)
    ``partner_lift``    how many times as often as by chance a category's partner follows it, by
                        lag (`PARTNER_LAGS`); the partner is the category that follows it most
                        above chance on one half of the users, measured on the other half
    ``item_share``      share of page views that go to the item of each rank (1, 2, 5, 10, ...)
    ``category_share``  the same for categories
    ``gap``             quantiles of seconds between page views of a user
    ``hour``            share of page views by hour of the day (UTC)
    ==================  ======================================================================

    Raises:
        ValueError: there are no page views.
    """
    if not views.user.size:
        raise ValueError("There are no page views to measure")
    user, item, category, time = views
    starts = np.flatnonzero(np.diff(user, prepend=user[0] - 1))
    length = np.diff(np.append(starts, user.size))
    position = np.arange(user.size) - np.repeat(starts, length)
    _, item, item_count = np.unique(item, return_inverse=True, return_counts=True)
    _, category, category_count = np.unique(category, return_inverse=True, return_counts=True)
    chance = float(((category_count / user.size) ** 2).sum())
    category_rate = _rates(category, position)
    gaps = np.diff(time)[position[1:] > 0]
    return {
        "users": int(starts.size),
        "page_views": int(user.size),
        "items": int(item_count.size),
        "categories": int(category_count.size),
        "length": np.quantile(length, QUANTILES).tolist(),
        "repeat_rate": _rates(item, position),
        "seen_before": _seen_before(np.repeat(np.arange(starts.size), length), item, position),
        "category_rate": category_rate,
        "category_chance": chance,
        "category_lift": [None if rate is None else rate / chance for rate in category_rate],
        "partner_lift": _partner_lift(
            category, position, np.repeat(np.arange(starts.size) % 2 == 0, length)
        ),
        "item_chance": float(((item_count / user.size) ** 2).sum()),
        "item_share": _share_by_rank(item_count),
        "category_share": _share_by_rank(category_count),
        "gap": np.quantile(gaps, QUANTILES).tolist() if gaps.size else None,
        "hour": (np.bincount(time // 3600 % 24, minlength=24) / user.size).tolist(),
    }


def ranks(count: int) -> np.ndarray:
    """Returns 1, 2, 5, 10, 20, 50, ... up to `count`."""
    steps = np.outer(10 ** np.arange(10), (1, 2, 5)).ravel()
    return steps[steps <= count]


def _rates(values, position) -> list[float | None]:
    rates = []
    for lag in LAGS:
        here = np.flatnonzero(position >= lag)
        enough = here.size >= _FEWEST
        rates.append(float((values[here] == values[here - lag]).mean()) if enough else None)
    return rates


def _seen_before(user, item, position) -> list[float | None]:
    _, first = np.unique(user * (item.max() + 1) + item, return_index=True)
    seen = np.ones(user.size, bool)
    seen[first] = False
    group = np.searchsorted(POSITIONS, position, side="right")
    total = np.bincount(group, minlength=len(POSITIONS) + 1)[1:]
    share = np.bincount(group, seen, minlength=len(POSITIONS) + 1)[1:] / np.maximum(total, 1)
    return [float(s) if t >= _FEWEST else None for s, t in zip(share, total)]


def _partner_lift(category, position, training) -> list[float | None]:
    """Chooses each category's partner on the `training` page views, measures on the others."""
    number = int(category.max()) + 1
    share = np.bincount(category, minlength=number) / category.size
    lifts: list[float | None] = []
    for lag in PARTNER_LAGS:
        here = np.flatnonzero(position >= lag)
        before, now, train = category[here - lag], category[here], training[here]
        pairs, count = np.unique(before[train] * number + now[train], return_counts=True)
        source, partner = np.divmod(pairs, number)
        expected = np.bincount(before[train], minlength=number)[source] * share[partner]
        above = np.where(source == partner, -np.inf, (count - expected) / np.sqrt(expected + 1))
        order = np.argsort(above, kind="stable")  # the greatest is written last
        best = np.full(number, -1)
        best[source[order]] = np.where(above > 0, partner, -1)[order]
        tested = ~train & (best[before] >= 0)
        if tested.sum() < _FEWEST:
            lifts.append(None)
            continue
        predicted = best[before[tested]]
        lifts.append(float((now[tested] == predicted).mean() / share[predicted].mean()))
    return lifts


def _share_by_rank(count) -> list[float]:
    falling = np.sort(count)[::-1] / count.sum()
    return falling[ranks(count.size) - 1].tolist()
