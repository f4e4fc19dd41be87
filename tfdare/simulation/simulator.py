"""Simulates an event log in Taobao's published format whose interests are known.

Real logs may not be redistributed, and the interests behind their events are unknown. This log can
have any size. Its interests are *planted*: the simulator draws them and returns them as the truth
of the log.

* items and categories are popular by Zipf's law, and part of all events follows popularity alone;
* every user has lifelong categories that keep coming back, interests that drift from era to era,
  and favorite items in each category; events come in sessions, runs in one category;
* every category ``c`` has a partner ``r(c)`` and a lag: an event in ``c`` pulls, with probability
  ``relation``, the user's page view ``lag`` positions later into ``r(c)``. This is the
  semantic-temporal correlation that search must find; neither popularity nor counts show it;
* with ``conflict``, attention and representation want different things: every category has items of
  two hidden kinds, and an event pulls items of the kind that its own item is not of. The categories
  alone say which behaviors matter for a target, the kinds alone whether for the click or against.

Options can be fitted to your own log (``tfdare simulate --fit``), and sets fitted to two public
logs come with the package (``--like taobao``, ``--like checkins``): then users return to single
items, come in visits with a daily rhythm, and differ as the users of that log do.

Lags count page views (``pv``), the behaviors that sequences are built of; ``buy``, ``cart`` and
``fav`` rows repeat the page view they follow. :mod:`tfdare.simulation.planted` returns the planted
interests as arrays. This module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from tfdare.simulation import parameters
from tfdare.simulation.events import Events, blocks
from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.planted import user_truth, world_truth
from tfdare.simulation.world import World
from tfdare.simulation.writing import atomic


def simulate(options: SimulatorOptions, *, block_users: int | None = None) -> Iterator[Events]:
    """Simulates the log block by block; only a block is held in memory.

    Args:
        options: SimulatorOptions. What to simulate.
        block_users: int or None. Users of a block; the last block may hold fewer. None yields a
            cohort at a time. The rows do not depend on it.

    Raises:
        ValueError: ``block_users`` is not positive.

    Example:
        >>> log = list(simulate(SimulatorOptions(users=30, mean_events=20), block_users=10))
        >>> [len(set(events.user.tolist())) for events in log]
        [10, 10, 10]
    """
    if block_users is not None and block_users < 1:
        raise ValueError(f"`block_users` must be positive. Received: block_users={block_users!r}")
    return blocks(options, block_users)


def like(name: str | os.PathLike, **changes) -> SimulatorOptions:
    """Reads options fitted to a log: ``"taobao"``, ``"checkins"``, or a file of ``--fit``.

    Args:
        name: str. Name of the set, or a path.
        **changes: options to change, such as ``users``.

    Raises:
        ValueError: there is no set of this name, or a value is out of range.

    Example:
        >>> like("taobao", users=50).users
        50
    """
    return dataclasses.replace(parameters.read(name).options, **changes)


def truth(options: SimulatorOptions) -> dict[str, Any]:
    """Returns the planted interests, in the raw ids of the log, ready for JSON.

    ``categories`` gives each category's ``partner``, ``lag`` (in page views) and number of
    ``items``; ``users`` each user's lifelong categories and the favorite items in them. Favorites
    in other categories, and the eras, are left out. With ``conflict``, ``second_kind`` lists the
    items of one of the two kinds.
    """
    world = World(options)
    return {**world_truth(world), "users": dict(_users(world))}


def write_truth(path: str | os.PathLike, options: SimulatorOptions) -> None:
    """Writes :func:`truth` as JSON, user by user and atomically."""
    world = World(options)
    with atomic(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(world_truth(world), indent=1)[:-2] + ',\n "users": {')
        for number, (user, planted) in enumerate(_users(world)):
            file.write(f"{',' if number else ''}\n  {json.dumps(user)}: {json.dumps(planted)}")
        file.write("\n }\n}\n")


def _users(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(world.options.cohorts):
        yield from user_truth(world, number)
