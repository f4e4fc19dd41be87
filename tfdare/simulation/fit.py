"""Fits the simulator's options to a log.

Some options are estimated from the log itself: lengths, clock, visits, rhythm, other behaviors. The
others are searched for by simulating: least squares make the curves of
:func:`tfdare.simulation.statistics.measure` come close to the log's (the simulated method of
moments).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import optimize, special

from tfdare.simulation.events import Events, blocks
from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.statistics import POSITIONS, VISIT_GAP, Views, measure

_DAY = 86_400
_LOWEST_SHARE = 1e-4  # below it a curve is noise
_STEPS = 6  # of least squares, for each block of options


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of :func:`fit`.

    Attributes:
        options: SimulatorOptions. With the number of users of the log.
        real: dict. Statistics of the log.
        simulated: dict. Statistics of a log simulated with the options, with as many users.
        error: dict. By curve the root mean square of the logarithm of the two logs' ratio; 0.1
            means off by about a tenth.
    """

    options: SimulatorOptions
    real: dict[str, Any]
    simulated: dict[str, Any]
    error: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Free:
    """An option that is searched for: `low` and `high` bound it, `log` says on which scale."""

    name: str
    low: float
    high: float
    log: bool = False

    def scaled(self, value: float) -> float:
        low, high, value = (
            math.log(v) if self.log else v
            for v in (self.low, self.high, min(max(value, self.low), self.high))
        )
        return (value - low) / (high - low)

    def value(self, scaled: float) -> float:
        if self.log:
            return self.low * (self.high / self.low) ** scaled
        return self.low + scaled * (self.high - self.low)


def fit(
    views: Views,
    *,
    other_behaviors: float = 0.0,
    users: int | None = None,
    options: SimulatorOptions | None = None,
    rounds: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> Fit:
    """Finds options with which the simulator's log has the statistics of this one.

    Args:
        views: Views. Page views of the log, or of a sample of its users.
        other_behaviors: float. Rows of the log that are no page views, per page view.
        options: SimulatorOptions or None. Start of the search; None estimates it from the log.
        users: int or None. Users of the whole log, where `views` are a sample.
        rounds: int. Times that all options are searched, about 120 simulated logs each; 0 searches
            none. Defaults to 3.
        say: function that is called with each line of progress.

    Raises:
        ValueError: the log is too small to be fitted: fewer than 20 users or 1,000 page views.
    """
    real = measure(views)
    if real["users"] < 20 or real["page_views"] < 1000:
        raise ValueError(
            "A log of 20 users and 1,000 page views at least is needed to fit the simulator. "
            f"Received: {real['users']:,} users, {real['page_views']:,} page views"
        )
    options = options or _initial_options(views, real, other_behaviors)
    options = dataclasses.replace(options, users=real["users"])
    for sweep in range(rounds):
        for free, curves in _option_blocks(real, options):
            options = _search_options(options, free, real, curves, 0.1 / (1 + sweep), say)
    simulated = measure(views_of(blocks(options, None)))
    error = {
        name: _rms(_residuals([curve(real)], [curve(simulated)]), 1)
        for name, curve in CURVES.items()
    }
    return Fit(dataclasses.replace(options, users=users or options.users), real, simulated, error)


def views_of(log: Iterator[Events]) -> Views:
    """Selects the page views of simulated blocks."""
    parts = [
        [column[events.behavior == 0] for column in (*events[:3], events.time)] for events in log
    ]
    return Views(*map(np.concatenate, zip(*parts)))


def _initial_options(
    views: Views, real: dict[str, Any], other_behaviors: float
) -> SimulatorOptions:
    """Estimates the options that need no search, and initial values of the others."""
    user, time = views.user, views.time
    length = np.diff(np.flatnonzero(np.diff(user, prepend=user[0] - 1, append=user[-1] - 1)))
    lowest, highest = np.quantile(time, [0.001, 0.999])
    start = int(lowest) // 3600 * 3600
    days = max(math.ceil((highest - start) / _DAY), 1)
    resolution = min(int(np.gcd.reduce(time - time[0])) or 1, _DAY)
    gap = np.diff(time)[np.diff(user) == 0]
    short = gap[gap <= VISIT_GAP]
    inside = np.log(np.maximum(short, max(resolution / 4, 1))) if short.size else np.zeros(1)
    turn = np.exp(2j * np.pi * ((time - start) % _DAY) / _DAY).mean()
    low = 1
    if real["repeat_rate"][0] is not None and real["repeat_rate"][1]:
        low = 1 if real["repeat_rate"][0] > 0.5 * real["repeat_rate"][1] else 2
    fresh = np.log(np.maximum(1 - np.array(_known(real["seen_before"])), 0.01))
    slope, level = (
        np.polyfit(np.log(POSITIONS[: fresh.size]), fresh, 1) if fresh.size > 1 else (0.0, fresh[0])
    )
    returns, growth = max(1 - math.exp(level), 0.0), min(max(-slope, 0.0), 1.0)
    return SimulatorOptions(
        users=real["users"],
        items=_estimate_items(views.item),
        categories=max(real["categories"], 2),
        mean_events=float(length.mean()),
        length_shape=_gamma_shape(length),
        days=max(days, math.ceil(4 * length.max() / _DAY)),
        start=start,
        other_behaviors=min(other_behaviors, 1.0),
        pause=float(np.exp(np.median(inside))) if short.size else 60.0,
        pause_spread=float(min(inside.std(), 3)),
        visit_events=float(1 / max((gap > VISIT_GAP).mean(), 1e-3)) if gap.size else 1.0,
        daily=float(min(2 * abs(turn), 1)),
        peak_hour=float(np.angle(turn) / (2 * np.pi) * 24 % 24),
        resolution=resolution,
        favorite=0.0,
        return_low=low,
        lag_low=1,
        lag_high=10,
        category_shift=2.0,
        stay=0.3,
        relation=0.1,
        kinship=0.2,
        lifelong=0.4,
        drift=0.3,
        returns=returns,
        return_growth=growth,
        return_spread=0.5,
        return_decay=0.5,
        session_events=1 + 6 * _known(real["category_rate"])[0],
    )


def _estimate_items(item: np.ndarray) -> int:
    """Estimates how many items exist, by Chao's estimator from those seen once and twice."""
    count = np.unique(item, return_counts=True)[1]
    once, twice = (count == 1).sum(), (count == 2).sum()
    return int(count.size + once * (once - 1) / (2 * (twice + 1)))


def _known(curve) -> list[float]:
    return [value for value in curve if value is not None] or [0.0]


def _gamma_shape(length: np.ndarray) -> float:
    """Fits the shape of a gamma distribution by maximum likelihood."""
    gap = math.log(length.mean()) - np.log(length).mean()
    if gap < 1e-3:
        return 1000.0
    guess = (3 - gap + math.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)

    def slope(x):
        return x - special.digamma(math.exp(x)) - gap

    log_shape = optimize.brentq(slope, math.log(guess) - 3, math.log(guess) + 3)
    return float(min(math.exp(log_shape), 1000.0))


def _option_blocks(real, options) -> Iterator[tuple[list[_Free], tuple[str, ...]]]:
    """Yields options that are searched together, and the curves that depend on them most."""
    items, categories = real["items"], real["categories"]
    popularity = [
        _Free("items", items, min(100 * items, 10**8), log=True),
        _Free("item_zipf", 0.01, 2),
        _Free("categories", categories, min(10 * categories, items), log=True),
        _Free("category_zipf", 0.01, 2.5),
        _Free("category_shift", 0, 30),
    ]
    if not 2 < categories < items:
        popularity = popularity[:2]
    yield popularity, ("item_share", "category_share", "sizes")
    yield (
        [
            _Free("returns", 0.001, 1),
            _Free("return_growth", 0.001, 1),
            _Free("return_spread", 0, 2),
            _Free("return_decay", 0.01, 2.5),
        ],
        ("repeat_rate", "seen_before"),
    )
    yield (
        [
            _Free("lifelong_categories", 1, 16, log=True),
            _Free("lifelong", 0.02, 1),
            _Free("drift", 0.02, 1),
            _Free("era_events", 2, 500, log=True),
            _Free("session_events", 1, 40, log=True),
            _Free("noise", 0.001, 0.6),
            _Free("relation", 0.001, 0.9),
            _Free("kinship", 0.001, 0.9),
        ],
        ("category_rate", "partner_lift", "category_share"),
    )
    yield (
        [
            _Free("pause", 1, max(VISIT_GAP, options.resolution), log=True),
            _Free("pause_spread", 0.01, 3),
            _Free("visit_events", 1, 50, log=True),
            _Free("break_power", 0.3, 5),
            _Free("stay", 0, 4),
            _Free("daily", 0, 1),
        ],
        ("gap", "hour"),
    )


def _search_options(options, free, real, names, step, say) -> SimulatorOptions:
    """Searches values of the `free` options for which the named curves are near the real ones."""
    real_curves = [CURVES[name](real) for name in names]
    best, least = np.array([f.scaled(getattr(options, f.name)) for f in free]), math.inf

    def residuals(scaled) -> np.ndarray:
        nonlocal best, least
        simulated = measure(views_of(blocks(_replace_free(options, free, scaled), None)))
        differences = _residuals(real_curves, [CURVES[name](simulated) for name in names])
        if (error := _rms(differences, len(names))) < least:
            best, least = scaled.copy(), error
        return differences

    def slopes(scaled) -> np.ndarray:
        # Steps large enough for differences above the noise of simulating.
        here, columns = residuals(scaled), []
        for index, value in enumerate(scaled):
            there = scaled.copy()
            there[index] = value + step if value + step <= 1 else value - step
            columns.append((residuals(there) - here) / (there[index] - value))
        return np.stack(columns, axis=1)

    optimize.least_squares(
        residuals, np.clip(best, 0.01, 0.99), jac=slopes, bounds=(0, 1), max_nfev=_STEPS
    )
    say(f"off by {least:.2f} in {', '.join(names)}")
    return _replace_free(options, free, best)


def _replace_free(options: SimulatorOptions, free: list[_Free], scaled) -> SimulatorOptions:
    values: dict[str, Any] = {f.name: float(f.value(s)) for f, s in zip(free, scaled)}
    for name, value in values.items():
        if isinstance(getattr(SimulatorOptions, name), int):
            values[name] = int(round(value))
    if (both := values.get("lifelong", 0) + values.get("drift", 0)) > 1:
        values["lifelong"], values["drift"] = values["lifelong"] / both, values["drift"] / both
    if "items" in values:
        values["items"] = max(values["items"], values.get("categories", options.categories))
    return dataclasses.replace(options, **values)


def _curve(name: str) -> Callable[[dict[str, Any]], np.ndarray]:
    return lambda log: np.array(
        [np.nan if value is None else max(value, _LOWEST_SHARE) for value in log[name] or []]
    )


CURVES: dict[str, Callable[[dict[str, Any]], np.ndarray]] = {
    **{
        name: _curve(name)
        for name in (
            "repeat_rate",
            "seen_before",
            "category_rate",
            "partner_lift",
            "item_share",
            "category_share",
        )
    },
    "sizes": lambda log: np.array([log["items"] / log["page_views"], log["categories"]]),
    "gap": lambda log: np.array(log["gap"] or []) + 60,
    "hour": lambda log: np.array(log["hour"]) + 0.01,
}


def _residuals(real_curves, simulated_curves) -> np.ndarray:
    """Computes logarithms of ratios, all curves of equal weight; 0 where either has no value."""
    parts = []
    for curve, other in zip(real_curves, simulated_curves):
        padded = np.full(curve.size, np.nan)
        padded[: other.size] = other[: curve.size]
        ratio = np.log(padded / curve)
        parts.append(np.where(np.isnan(ratio), 0, ratio) / math.sqrt(max(curve.size, 1)))
    return np.concatenate(parts)


def _rms(residuals, curves: int) -> float:
    return float(np.sqrt((residuals**2).sum() / curves))
