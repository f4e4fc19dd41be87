"""Protocols: which events of a user become requests, and of which split.

A request at position ``p`` has event ``p`` as its target and the events ``0 .. p - 1`` as its
history. All functions take the lengths of many users' histories at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdare.sequences import SPLITS

TRAIN, VALIDATION, TEST = SPLITS


@dataclass(frozen=True)
class Cuts:
    """Requests of one split: user ``user[r]`` (index into the lengths), position ``position[r]``.

    Sorted by user, then position.
    """

    user: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class LeaveLast:
    """The paper's protocol: the last event is test, the one before is validation.

    Training targets lie ``train_stride``, ``2 * train_stride``, ... events before the validation
    event, ``train_targets`` of them.
    """

    train_targets: int = 19
    train_stride: int = 5
    name: str = dataclasses.field(default="leave_last", init=False)
    min_events: int = dataclasses.field(default=210, init=False, repr=False)

    def held_out(self, length: np.ndarray, time=None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first validation and the first test position."""
        return np.maximum(length - 2, 0), np.maximum(length - 1, 0)

    def training(self, length: np.ndarray, time=None) -> Cuts:
        """Returns the requests to train on."""
        back = np.arange(self.train_targets, 0, -1) * self.train_stride
        position = (length - 2)[:, None] - back[None, :]
        user = np.broadcast_to(np.arange(len(length))[:, None], position.shape)
        keep = position >= 1
        return Cuts(user[keep], position[keep])


@dataclass(frozen=True)
class LastFraction:
    """The last events of every user are test, and a third as many before them are validation.

    Test has ``test_fraction`` of a user's events, at least ``min_test`` and at most ``max_test``.
    Training has every ``train_stride``th event before both, from position ``train_start`` on.
    """

    test_fraction: float = 0.1
    min_test: int = 3
    max_test: int = 30
    train_start: int = 20
    train_stride: int = 3
    name: str = dataclasses.field(default="last_fraction", init=False)
    min_events: int = dataclasses.field(default=60, init=False, repr=False)

    def held_out(self, length: np.ndarray, time=None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first validation and the first test position."""
        tests = np.floor(length * self.test_fraction + 1e-9).astype(np.int64)
        tests = np.clip(tests, self.min_test, self.max_test)
        test = np.maximum(length - tests, 0)
        return np.maximum(test - np.maximum(tests // 3, 1), 0), test

    def training(self, length: np.ndarray, time=None) -> Cuts:
        """Returns the requests to train on."""
        return _strided(self.held_out(length)[0], self.train_start, self.train_stride)


@dataclass(frozen=True)
class ByTime:
    """Validation has the events from ``validation_from`` on, test those from ``test_from`` on.

    Training has every ``train_stride``th event before both, from position ``train_start`` on.
    """

    validation_from: int = 0
    test_from: int = 0
    train_start: int = 1
    train_stride: int = 1
    name: str = dataclasses.field(default="by_time", init=False)
    min_events: int = dataclasses.field(default=2, init=False, repr=False)

    def held_out(
        self, length: np.ndarray, time: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first validation and the first test position.

        Args:
            length: int64 ``[U]``. Events of every user.
            time: int64 ``[E]``. Time of every event, user by user.
        """
        assert time is not None
        user = np.repeat(np.arange(len(length)), length)
        validation = np.bincount(user[time < self.validation_from], minlength=len(length))
        return validation, np.bincount(user[time < self.test_from], minlength=len(length))

    def training(self, length: np.ndarray, time: np.ndarray | None = None) -> Cuts:
        """Returns the requests to train on."""
        return _strided(self.held_out(length, time)[0], self.train_start, self.train_stride)

    def split_of(self, time: np.ndarray) -> np.ndarray:
        """Returns, for each time, the index in ``SPLITS`` of its split."""
        return np.searchsorted([self.validation_from, self.test_from], time, side="right")


Protocol = LeaveLast | LastFraction | ByTime
PROTOCOLS: Mapping[str, type] = {
    "leave_last": LeaveLast,
    "last_fraction": LastFraction,
    "by_time": ByTime,
}


def options(protocol: Protocol) -> dict[str, Any]:
    """Returns the protocol's options, for ``schema.json``."""
    return {
        field.name: getattr(protocol, field.name)
        for field in dataclasses.fields(protocol)
        if field.init
    }


def training_period(
    protocol: Protocol, length: np.ndarray, time: np.ndarray | None = None
) -> np.ndarray:
    """Counts the events of every user before its first held-out event."""
    return protocol.held_out(length, time)[0]


def training_events(
    protocol: Protocol, length: np.ndarray, time: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the counts of :func:`training_period`, and which events they count: bool ``[E]``."""
    period = training_period(protocol, length, time)
    position = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return period, position < np.repeat(period, length)


def cuts(protocol: Protocol, length: np.ndarray, time: np.ndarray | None = None) -> dict[str, Cuts]:
    """Returns the requests of every split; positions start at 1, so that an event precedes each.

    Args:
        protocol: Protocol.
        length: int ``[U]``. Events of every user.
        time: int64 ``[E]``. Time of every event, user by user; only :class:`ByTime` needs it.
    """
    length = np.asarray(length, np.int64)
    validation, test = protocol.held_out(length, time)
    return {
        TRAIN: protocol.training(length, time),
        VALIDATION: _between(validation, test),
        TEST: _between(test, length),
    }


def _strided(stop: np.ndarray, first: int, stride: int) -> Cuts:
    """Returns every ``stride``th position from ``first`` to each user's ``stop``."""
    first = max(first, 1)
    user, index = _ranges(np.maximum(-(-(stop - first) // stride), 0))
    return Cuts(user, first + index * stride)


def _between(start: np.ndarray, stop: np.ndarray) -> Cuts:
    start = np.maximum(start, 1)
    user, index = _ranges(np.maximum(stop - start, 0))
    return Cuts(user, start[user] + index)


def _ranges(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns every user ``u``, ``count[u]`` times, and the numbers ``0 .. count[u] - 1``."""
    user = np.repeat(np.arange(len(count)), count)
    return user, np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
