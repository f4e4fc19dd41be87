"""Draws the times of the rows of a simulated log."""

from __future__ import annotations

import numpy as np

from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.world import TIMES

_DAY = 86_400


def times_of(options: SimulatorOptions, number: int, rng, user: np.ndarray) -> np.ndarray:
    """Draws unix seconds of a cohort's rows, within the days, ascending within a user.

    Args:
        options: SimulatorOptions.
        number: int. Number of the cohort, for its random stream; used with visits.
        rng: numpy Generator. The cohort's stream of events; used without visits.
        user: int64 ``[R]``. The user of each row, grouped.

    Raises:
        ValueError: a user has more rows than the days have seconds.
    """
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    count = np.diff(np.append(starts, user.size))
    index = np.arange(user.size) - np.repeat(starts, count)
    room = options.days * _DAY - count
    if room.min() < 0:
        raise ValueError(
            f"`days` leaves no room for a user of {count.max()} rows at a row a second. "
            f"Received: days={options.days!r}"
        )
    if options.pause:
        rng = np.random.default_rng([options.seed, TIMES, number])
        seconds = _in_visits(options, rng, starts, count, room)
    else:
        seconds = _spread(rng, starts, count, room)
    times = options.start + index + seconds
    return times - times % options.resolution if options.resolution > 1 else times


def _spread(rng, starts, count, room) -> np.ndarray:
    """Draws heavy-tailed pauses that fill the room, without visits."""
    pause = rng.standard_exponential(int(count.sum())) ** 3
    clock = np.cumsum(pause)
    since = clock - np.repeat(clock[starts] - pause[starts], count)
    whole = np.add.reduceat(pause, starts) + rng.standard_exponential(starts.size)
    seconds = np.clip(since / np.repeat(whole, count), 0, 1) * np.repeat(room, count)
    return np.floor(seconds).astype(np.int64)


def _in_visits(options: SimulatorOptions, rng, starts, count, room) -> np.ndarray:
    """Draws short pauses inside visits and heavy-tailed breaks between them that fill the room."""
    size = int(count.sum())
    first = np.zeros(size, bool)
    first[starts] = True
    begins = first | (rng.random(size) < 1 / options.visit_events)
    pause = options.pause * np.exp(rng.normal(0, options.pause_spread, size))
    pause[begins] = 0
    days = room
    room = room * rng.random(starts.size) ** options.stay
    arrival = (days - room) * rng.random(starts.size)
    # The pauses of a user shrink where they would fill more than half of the room.
    pause *= np.repeat(np.minimum(1, 0.5 * room / np.maximum(_sums(pause, starts), 1)), count)
    pauses = _sums(pause, starts)
    power = options.break_power
    long_break = np.where(begins, rng.standard_exponential(size) ** power, 0)
    whole = _sums(long_break, starts) + rng.standard_exponential(starts.size) ** power
    long_break *= np.repeat((room - pauses) / whole, count)
    visit = np.maximum.accumulate(np.where(begins, np.arange(size), 0))
    since = _since(pause + long_break, starts, count) + np.repeat(arrival, count)
    inside = since - since[visit]
    begun = _in_rhythm(options, since[visit])
    seconds = np.floor(np.minimum(begun + inside, np.repeat(days, count))).astype(np.int64)
    # The rhythm may make visits overlap; the later one then follows immediately.
    apart = np.repeat(np.arange(starts.size) * (options.days + 1) * _DAY, count)
    return np.maximum.accumulate(seconds + apart) - apart


def _sums(values, starts) -> np.ndarray:
    return np.add.reduceat(values, starts)


def _since(steps, starts, count) -> np.ndarray:
    clock = np.cumsum(steps)
    return clock - np.repeat(clock[starts] - steps[starts], count)


def _in_rhythm(options: SimulatorOptions, seconds: np.ndarray) -> np.ndarray:
    """Shifts times within their day so that they follow the daily rhythm."""
    if not options.daily:
        return seconds
    hours = np.linspace(0, 24, 481)
    turn = 2 * np.pi / 24
    share = hours + options.daily / turn * (
        np.sin(turn * (hours - options.peak_hour)) + np.sin(turn * options.peak_hour)
    )
    day, of_day = np.divmod(seconds, _DAY)
    return day * _DAY + np.interp(of_day / _DAY, share / 24, hours) * 3600
