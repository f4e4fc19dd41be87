"""Intervals of AUCs, of ratios, and of their differences, over users (bootstrap) and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.special import stdtrit

_BLOCK = 16  # resamples at once, few enough for their arrays to stay in the cache


class WeightedAUC:
    """AUC of one set of predictions under weights of users; the predictions are sorted once.

    Each target counts with its user's weight; ties count half.

    Args:
        label: ``[n]``, 1 clicked, 0 not.
        score: ``[n]``, higher is more likely, finite.
        user: int ``[n]``, 0 to users - 1.

    Raises:
        ValueError: lengths differ, or a score is not finite.

    Example:
        >>> auc = WeightedAUC([1, 0, 0], [0.5, 0.4, 0.9], [0, 0, 1])
        >>> auc(np.array([[1, 1], [1, 0], [1, 3]])).round(2).tolist()
        [0.5, 1.0, 0.25]
    """

    def __init__(self, label, score, user):
        label, score, user = np.asarray(label) > 0.5, np.asarray(score), np.asarray(user)
        if not label.shape == score.shape == user.shape:
            raise ValueError(
                "`label`, `score` and `user` must have one shape. "
                f"Received: {label.shape}, {score.shape}, {user.shape}"
            )
        if not np.isfinite(score).all():
            raise ValueError(f"`score` must be finite. Received: {score[~np.isfinite(score)][:3]}")
        order = np.argsort(score[~label], kind="stable")
        others, clicked = score[~label][order], score[label]
        self._other_user, self._clicked_user = user[~label][order], user[label]
        # How many of the others have a lower score than each click, and a lower or equal one.
        self._below = np.searchsorted(others, clicked, "left")
        self._level = np.searchsorted(others, clicked, "right")
        self._ties = bool((self._below != self._level).any())

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Computes the AUC under each row of weights.

        Args:
            weights: ``[B, users]``, not negative.

        Returns:
            float64 ``[B]``; NaN where a class has no weight.
        """
        aucs = np.empty(len(weights))
        with np.errstate(invalid="ignore"):
            for row, weight in enumerate(np.asarray(weights, np.float64)):
                below = np.empty(self._other_user.size + 1)
                below[0] = 0.0
                np.cumsum(weight[self._other_user], out=below[1:])
                clicked = weight[self._clicked_user]
                # Not `@`: BLAS would use all its threads for every one of these short products.
                wins = np.sum(clicked * below[self._below])
                if self._ties:
                    wins = (wins + np.sum(clicked * below[self._level])) / 2
                aucs[row] = np.divide(wins, clicked.sum() * below[-1])
        return aucs


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval.

    Attributes:
        estimate: float. From the data, not resampled.
        low: float. Lower end.
        high: float. Upper end.
    """

    estimate: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above zero, -1 if below, 0 if it contains zero."""
        return int(self.low > 0) - int(self.high < 0)

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Interval:
        """Reads `estimate`, `low` and `high` of a mapping, where None stands for NaN."""
        ends = (numbers[field.name] for field in fields(cls))
        return cls(*(np.nan if end is None else end for end in ends))

    def __format__(self, spec: str) -> str:
        """Formats each number by `spec`.

        Example:
            >>> f"{Interval(0.7, 0.65, 0.75):.2f}"
            '0.70 [0.65, 0.75]'
        """
        if not np.isfinite(self.estimate):
            return "n/a"
        if not np.isfinite(self.low):
            return format(self.estimate, spec)
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


class UserBootstrap:
    """AUCs of several models on the same targets, with intervals over users and seeds.

    Users are drawn with replacement, each with all its targets: targets of one user are dependent,
    and drawing them one by one would make the interval too narrow. All models have the same draws,
    so that differences are paired. Of a model trained with several seeds the mean of their AUCs is
    taken; what another choice of seeds would change widens its intervals: Student's interval of
    that mean, or of the difference of two means with the deviations of both models pooled, is
    added to each side in quadrature. With one seed a model, intervals are over users alone.

    Args:
        label: ``[n]``, 1 clicked, 0 not.
        user: ``[n]``, integers or strings.
        scores: mapping of model to the scores ``[n]`` of its seeds, a sequence of arrays.
        resamples: int. Defaults to 1,000.
        seed: int. Seed of the resampling. Defaults to 0.

    Raises:
        ValueError: lengths differ, a score is not finite, or `resamples` is not positive.

    Example:
        >>> label, user = np.tile([1, 0], 50), np.repeat(np.arange(25), 4)
        >>> scores = {"good": [label * 0.9], "bad": [label * 0.0]}
        >>> UserBootstrap(label, user, scores).difference("good", "bad")
        Interval(estimate=0.5, low=0.5, high=0.5)

    References:
        - [Resampling methods for dependent data](https://doi.org/10.1007/978-1-4757-3803-2), for
          the idea of drawing whole clusters
        - [Construction of confidence limits about effect measures](
          https://doi.org/10.1002/sim.3095), for adding in quadrature
    """

    def __init__(self, label, user, scores, resamples: int = 1000, seed: int = 0):
        if resamples < 1:
            raise ValueError(f"`resamples` must be positive. Received: resamples={resamples}")
        user = np.unique(np.asarray(user), return_inverse=True)[1].reshape(-1)
        users = int(user.max()) + 1 if user.size else 0
        sorted_scores = {
            name: [WeightedAUC(label, score, user) for score in seeds]
            for name, seeds in scores.items()
        }
        everyone = np.ones((1, users))
        self._seeds = {
            name: np.array([auc(everyone)[0] for auc in seeds])
            for name, seeds in sorted_scores.items()
        }
        parts = [
            _mean_over_seeds(sorted_scores, drawn) for drawn in resamples_of(users, resamples, seed)
        ]
        self._drawn = {name: np.concatenate([part[name] for part in parts]) for name in scores}

    def auc(self, name, level: float = 0.95) -> Interval:
        """Returns the AUC of one model with its interval, which holds a share `level`."""
        seeds = self._seeds[name]
        return _with_seeds(interval(seeds.mean(), self._drawn[name], level), [seeds], level)

    def drawn(self, name) -> np.ndarray:
        """Returns the AUC of one model in every resample of users, float64 ``[resamples]``."""
        return self._drawn[name]

    def difference(self, first, second, level: float = 0.95) -> Interval:
        """Returns the AUC of the first model minus the second's, paired by users."""
        seeds = [self._seeds[first], self._seeds[second]]
        over_users = interval(
            seeds[0].mean() - seeds[1].mean(), self._drawn[first] - self._drawn[second], level
        )
        return over_users if first == second else _with_seeds(over_users, seeds, level)


def _mean_over_seeds(
    sorted_scores: Mapping[str, Sequence[WeightedAUC]], weights: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        name: np.mean([auc(weights) for auc in seeds], axis=0)
        for name, seeds in sorted_scores.items()
    }


def _with_seeds(over_users: Interval, aucs: Sequence[np.ndarray], level: float) -> Interval:
    """Widens an interval by what other seeds would change; `aucs` are of each model's seeds."""
    freedom = sum(of_model.size - 1 for of_model in aucs)
    if not freedom:
        return over_users
    variance = sum(of_model.var() * of_model.size for of_model in aucs) / freedom
    half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(
        variance * sum(1 / of_model.size for of_model in aucs)
    )
    estimate = over_users.estimate
    return Interval(
        estimate,
        estimate - float(np.hypot(estimate - over_users.low, half)),
        estimate + float(np.hypot(over_users.high - estimate, half)),
    )


def resamples_of(units: int, resamples: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Draws units with replacement; yields how often each is drawn, int ``[B, units]`` at a time.

    Equal arguments give equal draws, so that differences between models can be computed resample
    by resample.
    """
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        yield np.stack(
            [
                np.bincount(random.integers(0, units, units), minlength=units)
                for _ in range(min(_BLOCK, resamples - start))
            ]
        )


def resampled_ratios(above, below, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Computes ``sum(above) / sum(below)`` of resamples, float64 ``[resamples, ...]``.

    Args:
        above, below: ``[units, ...]``. Numerator and denominator of each unit.
        resamples: int. Defaults to 1,000.
        seed: int. Seed of the resampling. Defaults to 0.
    """
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate(
            [
                np.tensordot(drawn, above, 1) / np.tensordot(drawn, below, 1)
                for drawn in resamples_of(len(above), resamples, seed)
            ]
        )


def ratio_interval(above, below, resamples: int = 1000, seed: int = 0) -> Interval:
    """Computes ``sum(above) / sum(below)`` over units ``[units]``, and its 95% interval.

    Example:
        >>> ratio_interval([1, 1, 2], [2, 2, 4])
        Interval(estimate=0.5, low=0.5, high=0.5)
    """
    total = float(np.sum(below))
    if not total:
        return Interval(np.nan, np.nan, np.nan)
    return interval(np.sum(above) / total, resampled_ratios(above, below, resamples, seed))


def interval(estimate: float, drawn: np.ndarray, level: float = 0.95) -> Interval:
    """Returns an estimate with the interval that holds a share `level` of its resamples ``[B]``."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1). Received: level={level}")
    drawn = drawn[np.isfinite(drawn)]  # a resample of tiny data may lack a class
    low, high = (
        np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if drawn.size else (np.nan, np.nan)
    )
    return Interval(float(estimate), float(low), float(high))
