"""BuildRequests: histories and the catalog -> one record per user and split.

Where there are impressions, requests are built from these, with their candidates and labels.
Otherwise the protocol chooses events as targets, and negatives are drawn. A record holds all
requests of a user that belong to one split, and the one history that they share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from beam_jobs.cooccurrence.behaviors import training_behaviors
from beam_jobs.cooccurrence.count import PairCounter
from beam_jobs.cooccurrence.facts import RowFacts, facts_of_catalog
from beam_jobs.histories.histories import Histories, Impressions, seen_before
from beam_jobs.histories.impressions import behaviors_before, request_starts
from beam_jobs.histories.splits import ByTime, Protocol, cuts
from beam_jobs.reading.formats import Format
from beam_jobs.requests.negatives import (
    CATEGORY,
    SESSION,
    Negatives,
    Sampling,
    draw_from_sessions,
    sessions,
)
from beam_jobs.shared.hashing import combine, hash_strings
from beam_jobs.shared.storage import open_file, read_file
from beam_jobs.shared.tallies import TALLY, tagged
from beam_jobs.shared.vocabulary_file import Vocabulary
from beam_jobs.vocabulary.catalog import Catalog, Hashed
from beam_jobs.vocabulary.context import context_of
from tfdare.schema import PACKED
from tfdare.sequences import SPLITS
from tfdare.sequences.record import UserRecord, encode

RECORDS, CELLS, FACTS = "records", "cells", "facts"
LONGEST_REQUEST = "longest_request"
"""Name of the tally for the largest number of candidates of a request of impressions."""
WEIGHT_MILLIONTHS = "weight_millionths"
"""Name of the tally for the sum of sample weights, in millionths, rounded up by bucket."""


@dataclass(frozen=True)
class Shard:
    """Records of one file, sorted by user."""

    split: str
    number: int
    records: list[bytes]


@dataclass(frozen=True)
class Learned:
    """Catalog of items and vocabularies of the context, learned from the training period.

    ``facts`` are those of the features that get vectors.
    """

    catalog: Catalog
    context: Mapping[str, Vocabulary | Hashed] = field(default_factory=dict)
    facts: RowFacts | None = None


@dataclass(frozen=True)
class Requests:
    """Requests of one split, sorted by user and time.

    Attributes:
        user: int64 ``[R]``. Index into the users of the bucket.
        seen: int64 ``[R]``. Number of behaviors that the request sees; rises within a user.
        time: int64 ``[R]``.
        size: int32 ``[R]``. Candidates of each.
        target: mapping of feature to int32 ``[T]``, or ``[T, V]``. Row ids of all candidates.
        label: uint8 ``[T]``.
        context: mapping of context feature to ``[R]``.
        weight: float ``[T]`` or None. Sample weights; None: all weigh 1.
    """

    user: np.ndarray
    seen: np.ndarray
    time: np.ndarray
    size: np.ndarray
    target: Mapping[str, np.ndarray]
    label: np.ndarray
    context: Mapping[str, np.ndarray]
    weight: np.ndarray | None = None


def build_requests(
    histories: Histories,
    learned: Learned,
    form: Format,
    protocol: Protocol,
    sampling: Sampling,
    located: tuple[np.ndarray, dict[str, np.ndarray]] | None = None,
) -> Iterator[tuple[str, list[UserRecord], dict[str, int]]]:
    """Builds the requests of a bucket of users.

    Args:
        histories: Histories. Where they have impressions, requests are built from these.
        learned: Learned.
        form: Format. Format of what holds the context: the log, or the impressions.
        protocol: Protocol.
        sampling: Sampling.
        located: what :func:`locate` returns for these histories. Defaults to calling it.

    Yields:
        For every split its name, the records, and their tally.
    """
    index, rows = located or locate(histories, learned)
    if histories.impressions is not None:
        assert isinstance(protocol, ByTime)
        splits = _requests_of_impressions(
            histories, histories.impressions, learned, form, protocol, sampling
        )
    else:
        splits = _requests_of_events(histories, learned, form, protocol, sampling, index, rows)
    for split, requests, counts in splits:
        records, tally = make_records(histories, rows, requests)
        tally |= counts
        yield split, records, {f"{split}/{name}": value for name, value in tally.items()}


def locate(histories: Histories, learned: Learned) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the index of every event's item in the catalog, and row ids of its features."""
    columns = {name: histories.columns[name] for name in learned.catalog.features}
    return learned.catalog.rows(columns)


def _requests_of_events(
    histories: Histories, learned: Learned, form, protocol, sampling: Sampling, index, rows
) -> Iterator[tuple[str, Requests, dict[str, int]]]:
    """Yields the requests of every split whose targets are events, with negatives drawn."""
    catalog, columns, count = learned.catalog, histories.columns, sampling.negatives
    event_user = np.repeat(np.arange(len(histories.users)), histories.length)
    user_hash = hash_strings(pa.array(histories.users, pa.string()))
    group = None
    if sampling.origin == CATEGORY:
        group = catalog.others[catalog.features[1]]
    sampler = Negatives(catalog, user_hash, event_user, index, sampling.seed, sampling.alpha, group)
    if sampling.origin == SESSION:
        session = sessions(event_user, columns["time"], sampling.session_gap)
    seen = seen_before(histories, sampling.coarse_clock)
    for split, targets in cuts(protocol, histories.length, columns["time"]).items():
        event = histories.start[targets.user] + targets.position
        keep = seen[event] > 0
        user, position, event = targets.user[keep], targets.position[keep], event[keep]
        drawn = sampler.draw(user, position, count, None if group is None else index[event])
        if sampling.origin == SESSION:
            key = combine(user_hash[user], position, sampling.seed)
            near = draw_from_sessions(session, index, event, key, count)
            drawn = np.where(near >= 0, near, drawn)
        short = int((drawn < 0).any(axis=1).sum()) if count else 0
        counts = {
            "requests_short_of_negatives": short,
            "requests_without_history": int((~keep).sum()),
        }
        exists = np.concatenate([np.ones((len(drawn), 1), bool), drawn >= 0], axis=1)
        target = {}
        for name in catalog.features:
            positive = rows[name][event][:, None]
            negative = (
                catalog.item_rows[name][drawn]
                if len(catalog)
                else np.zeros((*drawn.shape, *positive.shape[2:]), np.int32)
            )
            target[name] = np.concatenate([positive, negative], axis=1)[exists].astype(np.int32)
        label = np.zeros(exists.shape, np.uint8)
        label[:, 0] = 1
        context = context_of(form, learned.context, columns, event)
        size = exists.sum(axis=1, dtype=np.int32)
        time = columns["time"][event]
        weight = np.repeat(columns["weight"][event], size) if form.weighted else None
        requests = Requests(user, seen[event], time, size, target, label[exists], context, weight)
        yield split, requests, counts


def _requests_of_impressions(
    histories: Histories,
    impressions: Impressions,
    learned: Learned,
    form: Format,
    protocol: ByTime,
    sampling: Sampling,
) -> Iterator[tuple[str, Requests, dict[str, int]]]:
    """Yields the requests of every split whose candidates are impressions."""
    user, columns, most = impressions.user, impressions.columns, sampling.max_candidates
    first = request_starts(impressions)
    position = np.arange(len(user)) - np.repeat(first, np.diff(first, append=len(user)))
    first = np.flatnonzero(position % most == 0)  # requests with too many candidates are split
    size = np.diff(first, append=len(user)).astype(np.int32)
    time = columns["time"][first]
    seen = behaviors_before(histories, user[first], time, sampling.coarse_clock)
    split_number = protocol.split_of(time)
    _, rows = learned.catalog.rows({name: columns[name] for name in learned.catalog.features})
    for number, split in enumerate(SPLITS):
        keep = (split_number == number) & (seen > 0)
        dropped = (split_number == number) & (seen == 0)
        candidates = np.repeat(keep, size)
        counts = {
            "requests_short_of_negatives": 0,
            "requests_without_history": int(dropped.sum()),
            "candidates_without_history": int(size[dropped].sum()),
            LONGEST_REQUEST: int(size[keep].max(initial=0)),
        }
        requests = Requests(
            user[first[keep]],
            seen[keep],
            time[keep],
            size[keep],
            {name: values[candidates].astype(np.int32) for name, values in rows.items()},
            columns["label"][candidates].astype(np.uint8),
            context_of(form, learned.context, columns, first[keep]),
            columns["weight"][candidates] if form.weighted else None,
        )
        yield split, requests, counts


def make_records(
    histories: Histories, rows: Mapping[str, np.ndarray], requests: Requests
) -> tuple[list[UserRecord], dict[str, int]]:
    """Makes one record of each user's requests; returns records, sorted by user, and their tally.

    Args:
        histories: Histories.
        rows: mapping of feature to int32 ``[E]``, or ``[E, V]``. Row ids of all behaviors.
        requests: Requests.
    """
    users, first = np.unique(requests.user, return_index=True)
    last = np.append(first[1:], len(requests.user))
    ends = np.concatenate([[0], np.cumsum(requests.size)])
    start, time = histories.start.tolist(), histories.columns["time"]
    seen = requests.seen.astype(np.int32)
    weight = None if requests.weight is None else requests.weight.astype(np.float32)
    records = []
    for user, a, b in zip(users.tolist(), first.tolist(), last.tolist()):
        begin, low, high = start[user], ends[a], ends[b]
        known = slice(begin, begin + int(seen[b - 1]))
        records.append(
            UserRecord(
                user=histories.users[user],
                history={name: values[known].reshape(-1) for name, values in rows.items()},
                history_time=time[known],
                position=seen[a:b],
                target_length=requests.size[a:b],
                target={
                    name: values[low:high].reshape(-1) for name, values in requests.target.items()
                },
                label=requests.label[low:high],
                request_time=requests.time[a:b],
                context={name: values[a:b] for name, values in requests.context.items()},
                weight=None if weight is None else weight[low:high],
            )
        )
    positives = int(requests.label.sum())
    tally = {
        "users": len(users),
        "requests": len(requests.user),
        "candidates": len(requests.label),
        "positives": positives,
        "negatives": len(requests.label) - positives,
    }
    if weight is not None:
        tally[WEIGHT_MILLIONTHS] = math.ceil(weight.sum(dtype=np.float64) * 1e6)
    return records, tally


def load_learned(learned: Mapping[str, Any], vector_features: Sequence[str] = ()) -> Learned:
    """Reads the catalog and the vocabularies that LearnVocabularies wrote."""
    with open_file(learned["catalog"]) as file:
        catalog = Catalog.load(file)

    def load(paths: Mapping[str, str]) -> dict[str, Vocabulary]:
        return {
            name: Vocabulary.load(read_file(path), name in learned["text_ids"])
            for name, path in paths.items()
        }

    if learned["given"]:
        catalog.extended = load(learned["given"])
    hashed = {name: Hashed(buckets) for name, buckets in learned["hashed"].items()}
    facts = facts_of_catalog(catalog, vector_features) if vector_features else None
    return Learned(catalog, {**load(learned["context"]), **hashed}, facts)


class _BuildBucket(beam.DoFn):
    def __init__(
        self,
        form: Format,
        protocol: Protocol,
        sampling: Sampling,
        encoding: str,
        counter: PairCounter | None,
    ):
        self._form, self._protocol, self._sampling = form, protocol, sampling
        self._encoding, self._counter = encoding, counter
        self._vector_features = tuple(counter.options.features) if counter else ()
        self._shared = Shared()

    def process(self, histories: Histories, paths: dict[str, Any]) -> Iterator[Any]:
        names = self._vector_features
        # once per worker
        learned = self._shared.acquire(lambda: load_learned(paths, names), tag=paths["catalog"])
        located = locate(histories, learned)
        if self._counter and learned.facts:
            # counted here, not in a stage of its own, so that no behaviors are written and read
            behaviors = training_behaviors(histories, located[1], self._protocol, names)
            for cells in self._counter.count(behaviors, learned.facts):
                yield beam.pvalue.TaggedOutput(CELLS, cells)
            if histories.bucket == 0:  # there is always one
                yield beam.pvalue.TaggedOutput(FACTS, learned.facts)
        for split, records, tally in build_requests(
            histories, learned, self._form, self._protocol, self._sampling, located
        ):
            longest = tally.pop(f"{split}/{LONGEST_REQUEST}", 0)
            yield tagged({**tally, LONGEST_REQUEST: longest})
            data = [encode(record, self._encoding) for record in records]
            yield Shard(split, histories.bucket, data)


class BuildRequests(beam.PTransform):
    """Histories -> ``records`` by shard and split, ``tally``, packed ``cells`` of pairs, ``facts``
    of the rows.

    Args:
        learned: PCollection. Output of LearnVocabularies.
        form: Format. Format of what holds the context: the log, or the impressions.
        protocol: Protocol.
        sampling: Sampling.
        encoding: str. Encoding of the records. Defaults to "packed".
        counter: PairCounter or None. Of the features that get vectors. Defaults to none: there are
            no cells and no facts.
    """

    def __init__(
        self,
        learned,
        form: Format,
        protocol: Protocol,
        sampling: Sampling,
        encoding: str = PACKED,
        counter: PairCounter | None = None,
    ):
        super().__init__()
        self._learned = learned
        self._build = _BuildBucket(form, protocol, sampling, encoding, counter)

    def expand(self, histories):
        return histories | "BuildBucket" >> beam.ParDo(
            self._build, beam.pvalue.AsSingleton(self._learned)
        ).with_outputs(TALLY, CELLS, FACTS, main=RECORDS).with_output_types(Any)
