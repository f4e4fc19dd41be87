"""JoinImpressions: labelled impressions of users joined with their histories.

A row is one candidate: user, time, item, label (1 clicked, 0 not), context. Rows of one user with
one time (and one request id, where the log has one) are the candidates of one request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import apache_beam as beam
import numpy as np

from beam_jobs.histories.histories import Histories, Impressions
from beam_jobs.histories.newest_events import NewestEvents
from beam_jobs.reading.formats import Format
from beam_jobs.reading.rows import Events
from beam_jobs.shared.tallies import TALLY, tagged
from beam_jobs.shared.vocabulary_file import MISSING

JOINED = "joined"
IMPRESSIONS = "impressions/"
"""Prefix of the tallies that count rows of impressions."""


def join(
    histories: Histories, parts: list[Events], features: tuple[str, ...], multi_hot: dict[str, int]
) -> tuple[Impressions, int]:
    """Joins impressions with the users of a bucket.

    Args:
        histories: Histories.
        parts: list of Events. Impressions of the bucket, in any order.
        features: tuple of str. Features that candidates need; those without a column are filled
            with ``MISSING``.
        multi_hot: mapping of multi-hot feature to its number of values.

    Returns:
        The impressions, and the number of rows of other users.
    """
    number = {user: index for index, user in enumerate(histories.users)}
    pieces: dict[str, list[np.ndarray]] = {}
    owners, strangers = [], 0
    for part in parts:
        user = part.user.dictionary_encode()
        index = np.array([number.get(name, -1) for name in user.dictionary.to_pylist()], np.int64)
        owner = index[user.indices.to_numpy(zero_copy_only=False)]
        known = owner >= 0
        strangers += int((~known).sum())
        owners.append(owner[known])
        for name, column in (*part.columns.items(), ("order", part.line)):
            pieces.setdefault(name, []).append(column[known])
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    columns = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
    for name in ("label", "request", "time", "order"):
        columns.setdefault(name, np.zeros(len(owner), np.int64))
    for name in features:
        shape = (len(owner), multi_hot[name]) if name in multi_hot else len(owner)
        columns.setdefault(name, np.full(shape, MISSING))
    order = np.lexsort((columns["order"], columns["request"], columns["time"], owner))
    columns = {name: column[order] for name, column in columns.items()}
    return Impressions(owner[order], columns), strangers


def request_starts(impressions: Impressions) -> np.ndarray:
    """Returns the index of every request's first candidate."""
    user, columns = impressions.user, impressions.columns
    fresh = np.ones(len(user), bool)
    fresh[1:] = user[1:] != user[:-1]
    for name in ("time", "request"):
        fresh[1:] |= columns[name][1:] != columns[name][:-1]
    return np.flatnonzero(fresh)


def behaviors_before(
    histories: Histories, user: np.ndarray, time: np.ndarray, coarse_clock: bool
) -> np.ndarray:
    """Counts the behaviors of each request's user before its time, int64 ``[R]``.

    Args:
        histories: Histories.
        user, time: int64 ``[R]``. Of each request.
        coarse_clock: bool. Whether behaviors of the same time count, too: the log has no order
            between behaviors and impressions, and behaviors are taken to come first.
    """
    every = np.unique(np.concatenate([histories.columns["time"], time]))
    stride = len(every) + 1
    owner = np.repeat(np.arange(len(histories.users)), histories.length)
    keys = owner * stride + np.searchsorted(every, histories.columns["time"])
    bounds = user * stride + np.searchsorted(every, time)
    side: Literal["left", "right"] = "right" if coarse_clock else "left"
    return np.searchsorted(keys, bounds, side=side) - histories.start[user]


class _Join(beam.DoFn):
    def __init__(self, form: Format, log: Format):
        extra = (*form.context, *form.numeric, "weight")
        self._extra = [name for name in extra if name in form.columns]
        self._features, self._multi_hot = log.features, dict(log.multi_hot)

    def process(self, element) -> Iterator[Any]:
        _, groups = element
        (histories,) = groups["histories"]
        gathered = list(groups["impressions"])
        parts = [part for events in gathered for part in events.parts]
        impressions, strangers = join(histories, parts, self._features, self._multi_hot)
        for name in self._extra:  # missing in a bucket without impressions
            impressions.columns.setdefault(name, np.full(len(impressions.user), MISSING))
        yield tagged(
            {
                f"{IMPRESSIONS}rows_cut": sum(events.cut for events in gathered),
                f"{IMPRESSIONS}rows_of_other_users": strangers,
                f"{IMPRESSIONS}rows_joined": len(impressions.user),
            }
        )
        yield dataclasses.replace(histories, impressions=impressions)


class JoinImpressions(beam.PTransform):
    """(Histories, (bucket, Events) of impressions) -> ``joined`` Histories, ``tally``.

    Args:
        form: Format. Of the impressions.
        log: Format. Of the log.
        most: int. Newest candidates of a user that are kept; bots may have millions.
    """

    def __init__(self, form: Format, log: Format, most: int):
        super().__init__()
        self._join, self._newest = _Join(form, log), NewestEvents(most, repeats=True)

    def expand(self, both):
        histories, impressions = both
        by_bucket = histories | "KeyByBucket" >> beam.Map(
            lambda element: (element.bucket, element)
        ).with_output_types(tuple[int, Any])
        gathered = (
            impressions
            | "KeyImpressions" >> beam.Map(lambda pair: pair).with_output_types(tuple[int, Any])
            | "GatherImpressions" >> beam.CombinePerKey(self._newest)
        )
        return (
            {"histories": by_bucket, "impressions": gathered}
            | "Together" >> beam.CoGroupByKey()
            | "Join"
            >> beam.ParDo(self._join).with_outputs(TALLY, main=JOINED).with_output_types(Any)
        )
