"""The planted truth of a simulated log: what all users share, and the interests of each."""

from __future__ import annotations

import numpy as np

from tfdare.simulation.options import USER_IDS, SimulatorOptions

INTERESTS, EVENTS, WORLD, BAD, KINSHIP, RETURNS, TIMES, CONFLICT = range(8)
"""Numbers of the random streams."""


class World:
    """Everything that all users share: ids, popularity, partners and lags."""

    def __init__(self, options: SimulatorOptions):
        self.options = options
        rng = np.random.default_rng([options.seed, WORLD])
        number = options.categories
        # Categories are indexed by descending popularity, items by category, then popularity.
        rank = np.arange(1, number + 1, dtype=np.float64) + options.category_shift
        self.popularity = rank**-options.category_zipf
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
        ring = rng.permutation(number)  # partners form one cycle through all categories: r(c) != c
        self.partner = np.empty(number, np.int64)
        self.partner[ring] = np.roll(ring, -1)
        self.lag = rng.integers(options.lag_low, options.lag_high + 1, number)
        self.item_ids = rng.choice(8 * options.items, options.items, replace=False) + 1
        self.category_ids = rng.choice(50 * number, number, replace=False) + 1
        self.user_factor, self.user_offset = rng.integers(USER_IDS // 3, USER_IDS, 2).tolist()
        self.salt = rng.integers(0, 2**63, dtype=np.uint64)

    def user_ids(self, users: np.ndarray) -> np.ndarray:
        """Returns the raw ids of user numbers, all different.

        An affine map, then squares with the sign of the half they come from: modulo a prime that
        is 3 modulo 4, both are bijections. All products stay below 2**63.
        """
        mixed = (users * self.user_factor + self.user_offset) % USER_IDS
        square = mixed * mixed % USER_IDS
        return np.where(mixed <= USER_IDS // 2, square, USER_IDS - square) + 1

    def popular_categories(self, uniform: np.ndarray) -> np.ndarray:
        """Returns the category at each quantile ``uniform`` of the popularity of categories."""
        category = np.searchsorted(self.popularity, uniform, side="right")
        return np.minimum(category, self.partner.size - 1)

    def items(self, category: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Returns the item of ``category`` at the quantile ``uniform`` of their popularity."""
        item = np.searchsorted(self.item_cdf, category + uniform, side="right")
        return np.minimum(item, self.starts[category + 1] - 1)

    def kinds(self, item: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Returns the kinds of items, 0 or 1: they alternate with popularity in the category."""
        return (item - self.starts[category]) % 2

    def of_other_kind(self, item: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Returns the item next to each in popularity that is of the category's other kind."""
        other = item + 1 - 2 * self.kinds(item, category)
        return np.where(other < self.starts[category + 1], other, item - 1)

    def favorites(self, user, category, slot) -> np.ndarray:
        """Computes a user's favorite items of a category from a hash, so that none are stored."""
        number = self.partner.size
        key = (user * number + category) * self.options.favorites + slot
        bits = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self.salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
        return self.items(category, (bits >> np.uint64(11)) * 2.0**-53)

    def cohort(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns user numbers ``[U]`` and lifelong categories ``[U, lifelong_categories]``."""
        options = self.options
        first = number * options.cohort_users
        users = np.arange(first, min(first + options.cohort_users, options.users))
        rng = np.random.default_rng([options.seed, INTERESTS, number])
        lifelong = self.popular_categories(rng.random((users.size, options.lifelong_categories)))
        if options.kinship:
            rng = np.random.default_rng([options.seed, KINSHIP, number])
            follows = rng.random(lifelong.shape) < options.kinship
            for slot in range(1, options.lifelong_categories):
                lifelong[:, slot] = np.where(
                    follows[:, slot], self.partner[lifelong[:, slot - 1]], lifelong[:, slot]
                )
        return users, lifelong
