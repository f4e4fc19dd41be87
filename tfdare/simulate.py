"""An event log in Taobao's published format whose interests are planted, and therefore known.

The real logs may not be handed on, and nobody knows what is true in them. This one can be made
anywhere in seconds, at any size, and comes with its truth:

* items and categories are popular by Zipf's law, and part of all events follows popularity alone;
* every user has lifelong categories that keep coming back, interests that drift from era to era,
  and favorite items in each category; events come in sessions, runs in one category;
* every category ``c`` has a partner ``r(c)`` and a lag: an event in ``c`` pulls, with probability
  ``relation``, the user's page view ``lag`` positions later into ``r(c)``. That is the
  semantic-temporal correlation which search has to find: neither popularity nor counts show it.

Lags count page views (``pv``), the behaviors that sequences are built of; ``buy``, ``cart`` and
``fav`` rows repeat the page view they follow. This module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, Iterator, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv
from tqdm import tqdm

from tfdare.command import Parser, UsageError, run

BEHAVIORS = ("pv", "buy", "cart", "fav")
"""Names of the behavior codes of :class:`Events`, in the order of the codes."""

_OTHER_SHARE = (0.20, 0.52, 0.28)  # buy, cart and fav among what is not a page view
_COHORT_EVENTS = 1 << 17  # page views that are made at a time
_USER_IDS = 999_999_883  # a prime, 3 modulo 4: see _World.user_ids
_INTERESTS, _EVENTS, _WORLD, _BAD = range(4)  # one random stream each

_RANGES = {
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
        for name, (low, high) in _RANGES.items():
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


@dataclass(frozen=True)
class LogCounts:
    """What :func:`write_log` wrote.

    Attributes:
        rows: int. Rows in the file, malformed ones included.
        bad_rows: int. Malformed rows.
        page_views: int. Rows with behavior ``pv``, malformed ones left out.
        users: int. Users in the log.
        long_users: int. Users with 210 page views or more, the paper's bound.
    """

    rows: int
    bad_rows: int
    page_views: int
    users: int
    long_users: int


def simulate(options: SimulatorOptions, *, block_users: int | None = None) -> Iterator[Events]:
    """The log, block by block; only a block is held in memory.

    Args:
        options: SimulatorOptions. What to simulate.
        block_users: int or None. Users of a block; the last one may hold fewer. None leaves the
            size to the simulator. The rows do not depend on it.

    Raises:
        ValueError: ``block_users`` is not positive.

    Example:
        >>> log = list(simulate(SimulatorOptions(users=30, mean_events=20), block_users=10))
        >>> [len(set(events.user.tolist())) for events in log]
        [10, 10, 10]
    """
    if block_users is not None and block_users < 1:
        raise ValueError(f"`block_users` must be positive. Received: block_users={block_users!r}")
    return _blocks(options, block_users)


def truth(options: SimulatorOptions) -> dict[str, Any]:
    """What was planted, in the raw ids of the log, ready for JSON.

    ``categories`` gives each category's ``partner``, ``lag`` (in page views) and number of
    ``items``; ``users`` each user's lifelong categories and the favorite items in them. Favorites
    in other categories, and the eras, are left out.
    """
    world = _World(options)
    return {**_world_truth(world), "users": dict(_user_truth(world))}


def write_truth(path: str | os.PathLike, options: SimulatorOptions) -> None:
    """Writes :func:`truth` as JSON, user by user and atomically."""
    world = _World(options)
    with _atomic(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(_world_truth(world), indent=1)[:-2] + ',\n "users": {')
        for number, (user, planted) in enumerate(_user_truth(world)):
            file.write(f"{',' if number else ''}\n  {json.dumps(user)}: {json.dumps(planted)}")
        file.write("\n }\n}\n")


def write_log(
    path: str | os.PathLike, options: SimulatorOptions, *, bad_rows: int = 0, progress: bool = True
) -> LogCounts:
    """Writes the log as CSV without a header: user, item, category, behavior, unix seconds.

    The file appears under its name only when it is complete.

    Args:
        path: str. Where to; compressed if it ends in ``.gz``.
        options: SimulatorOptions. What to simulate.
        bad_rows: int. Malformed rows to add, for trying out how a reader rejects them: a missing
            column, a time that is no number, a negative item, in turn. Defaults to 0.
        progress: bool. Whether to show a progress bar on a terminal's stderr. Defaults to True.

    Raises:
        ValueError: ``bad_rows`` is negative.
        OSError: the file cannot be written.
    """
    if bad_rows < 0:
        raise ValueError(f"`bad_rows` must not be negative. Received: bad_rows={bad_rows!r}")
    rng = np.random.default_rng([options.seed, _BAD])
    victims = np.sort(rng.integers(0, options.users, bad_rows))
    done = rows = page_views = long_users = 0
    with _atomic(path) as raw, contextlib.ExitStack() as stack:
        file = raw
        if os.fspath(path).endswith(".gz"):  # no name and no time inside: equal bytes
            file = stack.enter_context(gzip.GzipFile("", "wb", 4, fileobj=raw, mtime=0))
        bar = tqdm(
            total=options.users,
            unit="user",
            desc="simulate",
            file=sys.stderr,
            disable=None if progress else True,
        )
        stack.enter_context(bar)
        for events in simulate(options):
            starts = np.flatnonzero(np.diff(events.user, prepend=-1))
            views = np.add.reduceat((events.behavior == 0).astype(np.int64), starts)
            data = _csv(events)
            first, last = np.searchsorted(victims, [done, done + starts.size])
            if first < last:
                data = _with_bad_rows(data, starts[victims[first:last] - done], int(first))
            file.write(data)
            done += starts.size
            rows += events.user.size
            page_views += int(views.sum())
            long_users += int((views >= 210).sum())
            bar.update(starts.size)
    return LogCounts(rows + bad_rows, bad_rows, page_views, done, long_users)


def main(argv: list[str] | None = None) -> int:
    """``tfdare simulate``: writes a log and, beside it, its truth."""
    parser = Parser(
        "simulate",
        "tfdare simulate --output log.csv --users 2000 --items 5000 --categories 100 "
        "--mean_events 300 --seed 1 --bad_rows 20",
        "Writes an event log with planted interests in Taobao's format, and what was planted to "
        "OUTPUT.truth.json.",
    )
    parser.add_argument("--output", required=True, help="file to write; .gz compresses it")
    for field in dataclasses.fields(SimulatorOptions):
        kind = float if isinstance(field.default, float) else int
        low, high = _RANGES[field.name]
        shown = f"{low} or more" if high >= 10**6 else f"{low} to {high}"
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=shown)
    parser.add_argument("--bad_rows", type=int, default=0, help="malformed rows to add")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(parser, argv, _write)


def _write(arguments: argparse.Namespace) -> None:
    names = {field.name for field in dataclasses.fields(SimulatorOptions)}
    output = arguments.output
    if os.path.isdir(output):
        raise UsageError(f"`--output` must be a file, not a folder. Received: --output {output}")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    except OSError as error:
        raise UsageError(f"`--output` has no usable folder: {error}") from error
    try:
        options = SimulatorOptions(**{k: v for k, v in vars(arguments).items() if k in names})
        counts = write_log(
            output, options, bad_rows=arguments.bad_rows, progress=not arguments.quiet
        )
        write_truth(f"{output}.truth.json", options)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(
        f"{output}: {counts.rows:,} rows ({counts.page_views:,} page views, {counts.bad_rows} "
        f"malformed) of {counts.users:,} users, {counts.long_users:,} with 210 page views or more"
    )
    print(f"{output}.truth.json: what was planted")


class _World:
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


def _categories(world: _World, rng, lifelong: np.ndarray, length: np.ndarray) -> np.ndarray:
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


def _cohort(world: _World, number: int, users: np.ndarray, lifelong: np.ndarray) -> Events:
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


def _blocks(options: SimulatorOptions, block_users: int | None) -> Iterator[Events]:
    world = _World(options)
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


def _world_truth(world: _World) -> dict[str, Any]:
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


def _user_truth(world: _World) -> Iterator[tuple[str, dict[str, Any]]]:
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


def _csv(events: Events) -> bytes:
    table = pa.table(
        {
            "user": events.user,
            "item": events.item,
            "category": events.category,
            "behavior": pa.array(BEHAVIORS).take(pa.array(events.behavior)),
            "time": events.time,
        }
    )
    buffer = io.BytesIO()
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False, quoting_style="none"))
    return buffer.getvalue()


def _with_bad_rows(data: bytes, rows: np.ndarray, number: int) -> bytes:
    """Adds a spoiled copy after each of ``rows``, after ``number`` bad rows in earlier blocks."""
    lines = data.split(b"\n")
    for place, row in enumerate(rows.tolist(), start=number):
        fields = lines[row].partition(b"\n")[0].split(b",")
        spoiled = (
            fields[:4],
            [*fields[:4], b"yesterday"],
            [fields[0], b"-" + fields[1], *fields[2:]],
        )[place % 3]
        lines[row] += b"\n" + b",".join(spoiled)
    return b"\n".join(lines)


@contextlib.contextmanager
def _atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends, and vanishes if the block fails."""
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


if __name__ == "__main__":
    sys.exit(main())
