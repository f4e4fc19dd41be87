"""Options of :mod:`tfdare.simulation.simulator` and their ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

USER_IDS = 999_999_883  # a prime, 3 modulo 4: see World.user_ids
_COHORT_EVENTS = 1 << 17  # page views that are simulated together

RANGES = {
    "users": (1, USER_IDS // 8),
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
    "conflict": (0, 1),
    "favorites": (1, 1000),
    "favorite": (0, 1),
    "other_behaviors": (0, 1),
    "category_shift": (0, 10**6),
    "length_shape": (0, 1000),
    "kinship": (0, 1),
    "returns": (0, 1),
    "return_growth": (0, 5),
    "return_spread": (0, 3),
    "return_decay": (0, 5),
    "return_low": (1, 10**6),
    "pause": (0, 86_400),
    "pause_spread": (0, 5),
    "visit_events": (1, math.inf),
    "break_power": (0.1, 6),
    "stay": (0, 10),
    "daily": (0, 1),
    "peak_hour": (0, 24),
    "resolution": (1, 86_400),
}


@dataclass(frozen=True)
class SimulatorOptions:
    """Options of a simulated log; equal options give equal bytes.

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
        drift: float. Share of sessions in the category of the user's current era, a period with
            one drifting interest; the others follow popularity. Defaults to 0.2.
        era_events: float. Mean page views of an era. Defaults to 60.
        session_events: float. Mean page views of a session. Defaults to 4.
        noise: float. Share of page views that follow popularity alone. Defaults to 0.1.
        relation: float. Probability that an event pulls the event ``lag`` page views later into
            its partner category; of two events that pull the same one the nearer counts, so that
            with the defaults 43% succeed. Defaults to 0.5.
        lag_low: int. Smallest lag of a category. Defaults to 3.
        lag_high: int. Greatest lag of a category. Defaults to 6.
        conflict: float. Probability that a pulled page view is of an item of the other kind than
            the one that pulled it. Items are of two hidden kinds, in every category: which
            behaviors matter for a target is in the categories, but a behavior of the target's own
            kind makes the click less likely. Defaults to 0: kinds say nothing.
        favorites: int. Favorite items of a user in a category. Defaults to 3.
        favorite: float. Share of page views that go to a favorite. Defaults to 0.5.
        other_behaviors: float. Rows that are not page views, per page view. Defaults to 0.11.
        category_shift: float. Added to the rank of each category before its Zipf exponent is
            taken, so that the most popular ones stand out less (Mandelbrot's form). Defaults to 0.
        length_shape: float. Shape of a gamma distribution of page views, with a heavier lower tail
            than the log-normal one of `spread`; 0 keeps the log-normal one. Defaults to 0.
        kinship: float. Probability that a user's next lifelong category is the partner of the
            previous one: a lasting interest in both, at any lag. Defaults to 0.
        returns: float. Probability that a page view goes back to the item of an earlier one, early
            in a history. Defaults to 0.
        return_growth: float. The share of new items after ``n`` page views falls with ``n **
            -return_growth``: the longer a history, the more of it are returns. Defaults to 0.
        return_spread: float. How users differ in this: standard deviation of the logarithm of the
            power that a user's share of new items is raised to. Defaults to 0: no differences.
        return_decay: float. The distance to the page view to return to is drawn from ``distance **
            -return_decay`` over the user's past. Defaults to 1.
        return_low: int. Smallest such distance in page views. Defaults to 1.
        pause: float. Median seconds between rows of one visit; 0 means no visits: rows are spread
            over the days with heavy-tailed pauses. Defaults to 0.
        pause_spread: float. Standard deviation of the logarithm of pauses in a visit. Defaults to
            1.2.
        visit_events: float. Mean rows of a visit. Defaults to 10.
        break_power: float. Breaks between visits are exponential variables raised to this power:
            the greater, the more unequal. Defaults to 3.
        stay: float. With visits, a user is active for a uniformly drawn share of the days, raised
            to this power; 0: all days, for every user. Defaults to 0.
        daily: float. Strength of the daily rhythm of visits, whose rate is ``1 + daily *
            cos(...)`` around `peak_hour`. Defaults to 0.
        peak_hour: float. Hours after the time of day of `start`. Defaults to 21.
        resolution: int. Seconds: times are rounded down to multiples of it, so that times of a
            user may be equal. Defaults to 1.

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
    conflict: float = 0.0
    favorites: int = 3
    favorite: float = 0.5
    other_behaviors: float = 0.11
    category_shift: float = 0.0
    length_shape: float = 0.0
    kinship: float = 0.0
    returns: float = 0.0
    return_growth: float = 0.0
    return_spread: float = 0.0
    return_decay: float = 1.0
    return_low: int = 1
    pause: float = 0.0
    pause_spread: float = 1.2
    visit_events: float = 10.0
    break_power: float = 3.0
    stay: float = 0.0
    daily: float = 0.0
    peak_hour: float = 21.0
    resolution: int = 1

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

    @property
    def cohort_users(self) -> int:
        """Users of a cohort, which are simulated together, from separate random streams."""
        return int(min(max(_COHORT_EVENTS // self.mean_events, 1), 1024))

    @property
    def cohorts(self) -> int:
        """Number of cohorts that the users form."""
        return -(-self.users // self.cohort_users)
