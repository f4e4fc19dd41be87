"""What :mod:`tfdare.simulate` plants, and the events that grow from it, user by user."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple

import numpy as np

BEHAVIORS = ("pv", "buy", "cart", "fav")
"""Names of the behavior codes of :class:`Events`, in the order of the codes."""

_OTHER_SHARE = (0.20, 0.52, 0.28)  # buy, cart and fav among what is not a page view
_COHORT_EVENTS = 1 << 17  # page views that are made at a time
_USER_IDS = 999_999_883  # a prime, 3 modulo 4: see World.user_ids
_INTERESTS, _EVENTS, _WORLD, BAD = range(4)  # one random stream each

RANGES = {
    "users": (1, _USER_IDS // 8),
    "items": (2, 10**8),
    "categories": (2, 10**7),
    "mean_events": (1, 10**7),
    "spread": (0, 2),
    "seed": (0, 2**63 - 1),
    "days": (1, 36_500),
    "start": (0, 2**40),
    "category_zipf": (0, 5),
    "item_zipf": (0, 5),
    "lifelong_categories": (1, 1000),
    "lifelong": (0, 1),
    "drift": (0, 1),
    "era_events": (1, math.inf),
    "session_events": (1, math.inf),
    "noise": (0, 1),
    "relation": (0, 1),
    "lag_low": (1, 10**6),
    "lag_high": (1, 10**6),
    "favorites": (1, 1000),
    "favorite": (0, 1),
    "other_behaviors": (0, 1),
}


@dataclass(frozen=True)
class SimulatorOptions:
    """What to simulate; equal options give equal bytes.

    Args:
        users: int. Users in the log. Defaults to 2000.
        items: int. Items that exist. Defaults to 5000.
        categories: int. Categories that exist; at most ``items``. Defaults to 100.
        mean_events: float. Mean page views of a user. Defaults to 300.
        spread: float. Standard deviation of the logarithm of page views. Defaults to 0.25, which
            leaves nine users in ten with 210 page views or more.
        seed: int. Defaults to 1.
        days: int. The days that the log covers. Defaults to 9.
        start: int. Unix seconds of its first moment. Defaults to 2017-11-25 in China.
        category_zipf: float. Exponent of the popularity of categories. Defaults to 0.8.
        item_zipf: float. Exponent of the popularity of items in a category. Defaults to 0.7.
        lifelong_categories: int. Lifelong categories of a user, drawn with replacement.
            Defaults to 4.
        lifelong: float. Share of sessions in a lifelong category. Defaults to 0.6.
        drift: float. Share of sessions in the category of the user's present era; the others
            follow popularity. Defaults to 0.2.
        era_events: float. Mean page views until interest drifts on. Defaults to 60.
        session_events: float. Mean page views of a session. Defaults to 4.
        noise: float. Share of page views that follow popularity alone. Defaults to 0.1.
        relation: float. Probability that an event pulls the event ``lag`` page views later into
            its partner category; of two pulls at one place the nearer one counts, so that with
            the defaults 43% arrive. Defaults to 0.5.
        lag_low: int. Smallest lag of a category. Defaults to 3.
        lag_high: int. Greatest lag of a category. Defaults to 6.
        favorites: int. Favorite items of a user in a category. Defaults to 3.
        favorite: float. Share of page views that go to a favorite. Defaults to 0.5.
        other_behaviors: float. Rows that are not page views, per page view. Defaults to 0.11.

    Raises:
        ValueError: a value is out of range.
    """

    users: int = 2000
    items: int = 5000
    categories: int = 100
    mean_events: float = 300.0
    spread: float = 0.25
    seed: int = 1
    days: int = 9
    start: int = 1_511_539_200
    category_zipf: float = 0.8
    item_zipf: float = 0.7
    lifelong_categories: int = 4
    lifelong: float = 0.6
    drift: float = 0.2
    era_events: float = 60.0
    session_events: float = 4.0
    noise: float = 0.1
    relation: float = 0.5
    lag_low: int = 3
    lag_high: int = 6
    favorites: int = 3
    favorite: float = 0.5
    other_behaviors: float = 0.11

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            whole = isinstance(getattr(SimulatorOptions, name), int)
            kinds = (int, np.integer) if whole else (int, float, np.number)
            number = isinstance(value, kinds) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(
                    f"`{name}` must be {'an integer' if whole else 'a number'} between {low} and "
                    f"{high}. Received: {name}={value!r}"
                )
        if self.lifelong + self.drift > 1 + 1e-9:
            raise ValueError(
                "`lifelong` and `drift` are shares of all sessions and must not exceed 1 together. "
                f"Received: lifelong={self.lifelong!r}, drift={self.drift!r}"
            )
        if self.items < self.categories:
            raise ValueError(
                "Every category needs an item: `items` must be at least `categories`. "
                f"Received: items={self.items!r}, categories={self.categories!r}"
            )
        if self.lag_low > self.lag_high:
            raise ValueError(
                "`lag_low` must not exceed `lag_high`. "
                f"Received: lag_low={self.lag_low!r}, lag_high={self.lag_high!r}"
            )


class Events(NamedTuple):
    """Rows of whole users, grouped by user, each user's oldest first.

    Attributes:
        user: int64 ``[R]``. Raw user id.
        item: int64 ``[R]``. Raw item id.
        category: int64 ``[R]``. Raw category id.
        behavior: int8 ``[R]``. Index into :data:`BEHAVIORS`.
        time: int64 ``[R]``. Unix seconds, rising strictly within a user.
    """

    user: np.ndarray
    item: np.ndarray
    category: np.ndarray
    behavior: np.ndarray
    time: np.ndarray


class World:
    """Everything that all users share: ids, popularity, partners and lags."""

    def __init__(self, options: SimulatorOptions):
        self.options = options
        rng = np.random.default_rng([options.seed, _WORLD])
        number = options.categories
        # Categories are indexed by falling popularity, items by category, then popularity.
        self.popularity = np.arange(1, number + 1, dtype=np.float64) ** -options.category_zipf
        self.popularity = np.cumsum(self.popularity / self.popularity.sum())
        share = np.arange(1, number + 1) ** -0.5  # popular categories hold more items
        bounds = np.floor(np.cumsum(share / share.sum()) * (options.items - number) + 1e-9)
        bounds[-1] = options.items - number
        self.starts = np.concatenate([[0], bounds.astype(np.int64) + np.arange(1, number + 1)])
        of_item = np.repeat(np.arange(number), np.diff(self.starts))
        rank = np.arange(options.items) - self.starts[of_item] + 1
        total = np.cumsum(rank**-options.item_zipf)
        before = np.concatenate([[0.0], total])[self.starts]
        # One sorted array for all categories: category c owns the interval from c to c + 1.
        inside = (total - before[of_item]) / np.diff(before)[of_item]
        self.item_cdf = of_item + np.minimum(inside, 1.0)
        ring = rng.permutation(number)  # r is one ring through all categories: r(c) != c
        self.partner = np.empty(number, np.int64)
        self.partner[ring] = np.roll(ring, -1)
        self.lag = rng.integers(options.lag_low, options.lag_high + 1, number)
        self.item_ids = rng.choice(8 * options.items, options.items, replace=False) + 1
        self.category_ids = rng.choice(50 * number, number, replace=False) + 1
        self.user_factor, self.user_offset = rng.integers(_USER_IDS // 3, _USER_IDS, 2).tolist()
        self.salt = rng.integers(0, 2**63, dtype=np.uint64)

    def user_ids(self, users: np.ndarray) -> np.ndarray:
        """Raw ids of user numbers; no two alike.

        An affine map, then squares with the sign of the half they come from: modulo a prime that
        is 3 modulo 4, both are one to one. All products stay below 2**63.
        """
        mixed = (users * self.user_factor + self.user_offset) % _USER_IDS
        square = mixed * mixed % _USER_IDS
        return np.where(mixed <= _USER_IDS // 2, square, _USER_IDS - square) + 1

    def popular_categories(self, uniform: np.ndarray) -> np.ndarray:
        found = np.searchsorted(self.popularity, uniform, side="right")
        return np.minimum(found, self.partner.size - 1)

    def items(self, category: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Item of ``category`` at the quantile ``uniform`` of its popularity."""
        found = np.searchsorted(self.item_cdf, category + uniform, side="right")
        return np.minimum(found, self.starts[category + 1] - 1)

    def favorites(self, user, category, slot) -> np.ndarray:
        """A user's favorite item of a category: a hash, so that none has to be remembered."""
        number = self.partner.size
        key = (user * number + category) * self.options.favorites + slot
        bits = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self.salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
        return self.items(category, (bits >> np.uint64(11)) * 2.0**-53)

    def cohorts(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number, users and lifelong categories of the groups in which users are made."""
        options = self.options
        size = int(min(max(_COHORT_EVENTS // options.mean_events, 1), 1024))
        for number, first in enumerate(range(0, options.users, size)):
            users = np.arange(first, min(first + size, options.users))
            rng = np.random.default_rng([options.seed, _INTERESTS, number])
            uniform = rng.random((users.size, options.lifelong_categories))
            yield number, users, self.popular_categories(uniform)


def _categories(world: World, rng, lifelong: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Category of every page view of a cohort, users one after the other."""
    options = world.options
    size, start = int(length.sum()), np.cumsum(length) - length
    first = np.zeros(size, bool)
    first[start] = True
    row = np.arange(size)
    user = np.repeat(np.arange(length.size), length)

    def run(mean):  # the row at which the run that a row belongs to began
        begins = (rng.random(size) < 1 / mean) | first
        return np.maximum.accumulate(np.where(begins, row, 0))

    session, era = run(options.session_events), run(options.era_events)
    popular = world.popular_categories(rng.random(size))
    slot = rng.integers(0, options.lifelong_categories, size)
    kind = rng.random(size)
    category = np.where(
        kind < options.lifelong,
        lifelong[user, slot],
        np.where(kind < options.lifelong + options.drift, popular[era], popular),
    )[session]
    category = np.where(
        rng.random(size) < options.noise, world.popular_categories(rng.random(size)), category
    )
    # An event may pull a later one that pulls another: one step a position, for all users at once.
    pulls = rng.random(size) < options.relation
    pulled = np.full(size, -1, np.int64)
    longest_first = np.argsort(-length, kind="stable")
    start, end = start[longest_first], (start + length)[longest_first]
    active = np.searchsorted(-length[longest_first], -np.arange(length.max()), side="left")
    for position, alive in enumerate(active):
        here = start[:alive] + position
        now = pulled[here]
        now = np.where(now < 0, category[here], now)
        category[here] = now
        there = here + world.lag[now]
        does = pulls[here] & (there < end[:alive])
        pulled[there[does]] = world.partner[now[does]]
    return category


def _cohort(world: World, number: int, users: np.ndarray, lifelong: np.ndarray) -> Events:
    options = world.options
    rng = np.random.default_rng([options.seed, _EVENTS, number])
    drawn = rng.normal(-(options.spread**2) / 2, options.spread, users.size)
    length = np.maximum(np.rint(options.mean_events * np.exp(drawn)), 1).astype(np.int64)
    category = _categories(world, rng, lifelong, length)
    user = np.repeat(users, length)
    slot = rng.integers(0, options.favorites, user.size)
    item = np.where(
        rng.random(user.size) < options.favorite,
        world.favorites(user, category, slot),
        world.items(category, rng.random(user.size)),
    )
    # Rows that are no page views follow the page view whose item they are about.
    rows = 1 + (rng.random(user.size) < options.other_behaviors)
    source = np.repeat(np.arange(user.size), rows)
    is_view = np.diff(source, prepend=-1) > 0
    other = np.searchsorted(np.cumsum(_OTHER_SHARE)[:-1], rng.random(source.size), side="right")
    user, item, category = user[source], item[source], category[source]
    behavior = np.where(is_view, 0, 1 + other).astype(np.int8)
    return Events(
        world.user_ids(user),
        world.item_ids[item],
        world.category_ids[category],
        behavior,
        _times(options, rng, user),
    )


def _times(options: SimulatorOptions, rng, user: np.ndarray) -> np.ndarray:
    """Seconds with heavy-tailed pauses, rising strictly within a user and within the days."""
    pause = rng.standard_exponential(user.size) ** 3
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    count = np.diff(np.append(starts, user.size))
    index = np.arange(user.size) - np.repeat(starts, count)
    clock = np.cumsum(pause)
    since = clock - np.repeat(clock[starts] - pause[starts], count)
    whole = np.add.reduceat(pause, starts) + rng.standard_exponential(starts.size)
    room = options.days * 86_400 - count
    if room.min() < 0:
        raise ValueError(
            f"`days` leaves no room for a user of {count.max()} rows at a row a second. "
            f"Received: days={options.days!r}"
        )
    seconds = np.floor(np.clip(since / np.repeat(whole, count), 0, 1) * np.repeat(room, count))
    return options.start + index + seconds.astype(np.int64)


def blocks(options: SimulatorOptions, block_users: int | None) -> Iterator[Events]:
    """The events of ``block_users`` users at a time, or of as many as are made at once."""
    world = World(options)
    waiting: list[Events] = []
    missing = block_users
    for number, users, lifelong in world.cohorts():
        events = _cohort(world, number, users, lifelong)
        if block_users is None:
            yield events
            continue
        starts = np.append(np.flatnonzero(np.diff(events.user, prepend=-1)), events.user.size)
        taken = 0
        while taken < users.size:
            take = min(missing, users.size - taken)
            part = slice(starts[taken], starts[taken + take])
            waiting.append(Events(*(column[part] for column in events)))
            taken, missing = taken + take, missing - take
            if not missing:
                yield Events(*map(np.concatenate, zip(*waiting)))
                waiting, missing = [], block_users
    if waiting:
        yield Events(*map(np.concatenate, zip(*waiting)))


def world_truth(world: World) -> dict[str, Any]:
    """Options, and each category's partner, lag and number of items, ready for JSON."""
    ids = world.category_ids.tolist()
    return {
        "options": dataclasses.asdict(world.options),
        "categories": {
            str(ids[index]): {"partner": ids[partner], "lag": lag, "items": items}
            for index, (partner, lag, items) in enumerate(
                zip(world.partner.tolist(), world.lag.tolist(), np.diff(world.starts).tolist())
            )
        },
    }


def user_truth(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each user with the lifelong categories and the favorite items in them."""
    slots = np.arange(world.options.favorites)
    for _, users, lifelong in world.cohorts():
        items = world.favorites(users[:, None, None], lifelong[:, :, None], slots)
        items = world.item_ids[items].tolist()
        categories = world.category_ids[lifelong].tolist()
        for row, user in enumerate(world.user_ids(users).tolist()):
            favorites = {
                str(category): sorted(set(found))
                for category, found in zip(categories[row], items[row])
            }
            lived = sorted(set(categories[row]))
            yield str(user), {"lifelong_categories": lived, "favorite_items": favorites}
