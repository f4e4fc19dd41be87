"""Generates the events of a simulated log, cohort by cohort of users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.times import times_of
from tfdare.simulation.world import CONFLICT, EVENTS, RETURNS, World

BEHAVIORS = ("pv", "buy", "cart", "fav")
"""Names of the behavior codes of :class:`Events`, in the order of the codes."""

CAUSES = ("relation", "return", "lifelong", "drift", "popularity", "noise")
"""Names of the codes of :class:`Causes`, in the order of the codes."""

_OTHER_SHARE = (0.20, 0.52, 0.28)  # buy, cart and fav among other behaviors
_RELATION, _RETURN, _LIFELONG, _DRIFT, _POPULARITY, _NOISE = range(len(CAUSES))


class Events(NamedTuple):
    """Rows of whole users, grouped by user, each user's oldest first.

    Attributes:
        user: int64 ``[R]``. Raw user id.
        item: int64 ``[R]``. Raw item id.
        category: int64 ``[R]``. Raw category id.
        behavior: int8 ``[R]``. Index into :data:`BEHAVIORS`.
        time: int64 ``[R]``. Unix seconds, strictly ascending within a user unless `resolution` is
            above 1.
    """

    user: np.ndarray
    item: np.ndarray
    category: np.ndarray
    behavior: np.ndarray
    time: np.ndarray


class Causes(NamedTuple):
    """Causes of page views: one entry per page view, in the order of the log.

    Attributes:
        user: int64 ``[V]``. Raw user id.
        position: int64 ``[V]``. The page view's index among the user's, from 0.
        cause: int8 ``[V]``. Index into :data:`CAUSES`: what chose its category (and, for
            ``return``, its item).
        distance: int64 ``[V]``. Number of page views back to the one that pulled it or that it
            returns to; 0 where no single one caused it.
        favorite: bool ``[V]``. Whether its item was drawn from the user's favorites.
    """

    user: np.ndarray
    position: np.ndarray
    cause: np.ndarray
    distance: np.ndarray
    favorite: np.ndarray


class _Views(NamedTuple):
    """Page views of a cohort as indices into the world's tables, before raw ids and times."""

    user: np.ndarray
    item: np.ndarray
    category: np.ndarray
    cause: np.ndarray
    distance: np.ndarray
    favorite: np.ndarray


def cohort_events(world: World, number: int) -> Events:
    """Generates the rows of one cohort."""
    views, rng = _views(world, number)
    # Rows of other behaviors follow the page view of the same item.
    rows = 1 + (rng.random(views.user.size) < world.options.other_behaviors)
    source = np.repeat(np.arange(views.user.size), rows)
    is_view = np.diff(source, prepend=-1) > 0
    other = np.searchsorted(np.cumsum(_OTHER_SHARE)[:-1], rng.random(source.size), side="right")
    user = views.user[source]
    return Events(
        world.user_ids(user),
        world.item_ids[views.item[source]],
        world.category_ids[views.category[source]],
        np.where(is_view, 0, 1 + other).astype(np.int8),
        times_of(world.options, number, rng, user),
    )


def cohort_causes(world: World, number: int) -> Causes:
    """Returns the causes of one cohort's page views."""
    views, _ = _views(world, number)
    starts = np.flatnonzero(np.diff(views.user, prepend=-1))
    position = np.arange(views.user.size)
    position -= np.repeat(starts, np.diff(np.append(starts, views.user.size)))
    return Causes(world.user_ids(views.user), position, views.cause, views.distance, views.favorite)


def blocks(options: SimulatorOptions, block_users: int | None) -> Iterator[Events]:
    """Generates the events of ``block_users`` users at a time; None: of a cohort at a time."""
    world = World(options)
    cohorts = (cohort_events(world, number) for number in range(options.cohorts))
    if block_users is None:
        yield from cohorts
        return
    waiting: list[Events] = []
    missing = block_users
    for events in cohorts:
        starts = np.append(np.flatnonzero(np.diff(events.user, prepend=-1)), events.user.size)
        taken, users = 0, starts.size - 1
        while taken < users:
            take = min(missing, users - taken)
            part = slice(starts[taken], starts[taken + take])
            waiting.append(Events(*(column[part] for column in events)))
            taken, missing = taken + take, missing - take
            if not missing:
                yield Events(*map(np.concatenate, zip(*waiting)))
                waiting, missing = [], block_users
    if waiting:
        yield Events(*map(np.concatenate, zip(*waiting)))


def _views(world: World, number: int) -> tuple[_Views, np.random.Generator]:
    """Generates the page views of a cohort; also returns the random stream, for its rows."""
    options = world.options
    users, lifelong = world.cohort(number)
    rng = np.random.default_rng([options.seed, EVENTS, number])
    length = _lengths(options, rng, users.size)
    back = _returns(options, number, length)
    category, cause, distance = _categories(world, rng, lifelong, length, back)
    user = np.repeat(users, length)
    slot = rng.integers(0, options.favorites, user.size)
    favorite = rng.random(user.size) < options.favorite
    item = np.where(
        favorite,
        world.favorites(user, category, slot),
        world.items(category, rng.random(user.size)),
    )
    if options.conflict:
        moves = _of_wrong_kind(world, number, item, category, cause, distance)
        item = np.where(moves, world.of_other_kind(item, category), item)
        favorite &= ~moves
    if back.any():
        # A return may go back to a return: follows them, doubling the steps, to their origin.
        origin = np.arange(user.size) - np.where(cause == _RETURN, distance, 0)
        while not np.array_equal(further := origin[origin], origin):
            origin = further
        item, favorite = item[origin], favorite[origin]
    return _Views(user, item, category, cause, distance, favorite), rng


def _of_wrong_kind(world: World, number: int, item, category, cause, distance) -> np.ndarray:
    """Returns which items are not of the kind that the page view that pulled theirs asks for."""
    rng = np.random.default_rng([world.options.seed, CONFLICT, number])
    kind = world.kinds(item, category)
    has_both = np.diff(world.starts)[category] > 1
    opposes = (cause == _RELATION) & has_both & (rng.random(item.size) < world.options.conflict)
    # Pullers may be pulled, or return: follows them, doubling the steps, to the first of a chain.
    first = np.arange(item.size) - np.where(opposes | (cause == _RETURN), distance, 0)
    differs = opposes
    while not np.array_equal(further := first[first], first):
        differs, first = differs ^ differs[first], further
    return kind != kind[first] ^ differs


def _lengths(options: SimulatorOptions, rng, users: int) -> np.ndarray:
    """Draws how many page views each user has."""
    if options.length_shape:
        drawn = rng.gamma(options.length_shape, 1 / options.length_shape, users)
    else:
        drawn = np.exp(rng.normal(-(options.spread**2) / 2, options.spread, users))
    return np.maximum(np.rint(options.mean_events * drawn), 1).astype(np.int64)


def _returns(options: SimulatorOptions, number: int, length: np.ndarray) -> np.ndarray:
    """Draws how far back every page view returns, 0 for those that do not."""
    size = int(length.sum())
    if not (options.returns or options.return_growth):
        return np.zeros(size, np.int64)
    rng = np.random.default_rng([options.seed, RETURNS, number])
    position = np.arange(size) - np.repeat(np.cumsum(length) - length, length)
    past = np.maximum(position, 1).astype(np.float64)
    fresh = (1 - options.returns) * past**-options.return_growth
    if options.return_spread:
        taste = np.exp(options.return_spread * rng.standard_normal(length.size))
        fresh **= np.repeat(taste, length)
    does = (rng.random(size) >= fresh) & (position >= options.return_low)
    low, high, power = options.return_low, past + 1, 1 - options.return_decay
    uniform = rng.random(size)
    if abs(power) < 1e-6:
        distance = low * (high / low) ** uniform
    else:
        distance = (low**power + uniform * (high**power - low**power)) ** (1 / power)
    return np.where(does, np.clip(distance.astype(np.int64), low, position), 0)


def _categories(
    world: World, rng, lifelong: np.ndarray, length: np.ndarray, back: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws category, cause and distance of a cohort's page views, grouped by user."""
    options = world.options
    size, start = int(length.sum()), np.cumsum(length) - length
    first = np.zeros(size, bool)
    first[start] = True
    row = np.arange(size)
    user = np.repeat(np.arange(length.size), length)

    def run_starts(mean):  # of each row, the row at which its run began
        begins = (rng.random(size) < 1 / mean) | first
        return np.maximum.accumulate(np.where(begins, row, 0))

    session, era = run_starts(options.session_events), run_starts(options.era_events)
    popular = world.popular_categories(rng.random(size))
    slot = rng.integers(0, options.lifelong_categories, size)
    kind = rng.random(size)
    lasts, drifts = kind < options.lifelong, kind < options.lifelong + options.drift
    category = np.where(lasts, lifelong[user, slot], np.where(drifts, popular[era], popular))
    cause = np.where(lasts, _LIFELONG, np.where(drifts, _DRIFT, _POPULARITY)).astype(np.int8)
    noise = rng.random(size) < options.noise
    category = np.where(noise, world.popular_categories(rng.random(size)), category[session])
    cause = np.where(noise, np.int8(_NOISE), cause[session])
    # A pulled event may pull another: positions are processed in order, for all users at once.
    pulls = rng.random(size) < options.relation
    pulled = np.full(size, -1, np.int64)
    distance = np.zeros(size, np.int64)
    longest_first = np.argsort(-length, kind="stable")
    start, end = start[longest_first], (start + length)[longest_first]
    active = np.searchsorted(-length[longest_first], -np.arange(length.max()), side="left")
    for position, alive in enumerate(active):
        here = start[:alive] + position
        now = pulled[here]
        free = now < 0
        now = np.where(free, category[here - np.where(free, back[here], 0)], now)
        category[here] = now
        there = here + world.lag[now]
        does = pulls[here] & (there < end[:alive])
        there = there[does]
        pulled[there] = world.partner[now[does]]
        distance[there] = world.lag[now[does]]
    cause[pulled >= 0] = _RELATION
    returned = (pulled < 0) & (back > 0)
    cause[returned] = _RETURN
    return category, cause, np.where(returned, back, distance)
