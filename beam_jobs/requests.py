"""BuildRequests: histories and the catalog -> one record per user and split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from beam_jobs.catalog import Catalog, Vocabulary
from beam_jobs.context import context_of
from beam_jobs.formats import Format
from beam_jobs.hashing import hash_strings
from beam_jobs.histories import Histories
from beam_jobs.negatives import Negatives
from beam_jobs.splits import Cuts, Protocol, cuts
from beam_jobs.storage import open_file, read_file
from beam_jobs.tallies import TALLY, tagged
from tfdare.record import UserRecord, encode

RECORDS = "records"


@dataclass(frozen=True)
class Shard:
    """Records of one file, sorted by user."""

    split: str
    number: int
    records: list[bytes]


@dataclass(frozen=True)
class Learned:
    """What the training period taught: items, and the vocabularies of the context."""

    catalog: Catalog
    context: Mapping[str, Vocabulary] = field(default_factory=dict)


def build_requests(
    histories: Histories,
    learned: Learned,
    form: Format,
    protocol: Protocol,
    negatives: int,
    seed: int,
    alpha: float = 1.0,
) -> Iterator[tuple[str, list[UserRecord], dict[str, int]]]:
    """For every split its name, the records of a bucket, and their tally."""
    catalog = learned.catalog
    index, rows = catalog.rows({name: histories.columns[name] for name in catalog.features})
    event_user = np.repeat(np.arange(len(histories.users)), histories.length)
    user_hash = hash_strings(pa.array(histories.users, pa.string()))
    sampler = Negatives(catalog, user_hash, event_user, index, seed, alpha)
    for split, found in cuts(protocol, histories.length).items():
        drawn = sampler.draw(found.user, found.position, negatives)
        event = histories.start[found.user] + found.position
        context = context_of(form, learned.context, histories.columns, event)
        records, tally = _records(histories, catalog, rows, context, found, drawn)
        short = int((drawn < 0).any(axis=1).sum()) if negatives else 0
        tally["requests_short_of_negatives"] = short
        yield split, records, {f"{split}/{name}": value for name, value in tally.items()}


def _records(histories: Histories, catalog: Catalog, rows, context, found: Cuts, drawn):
    target_length = 1 + (drawn >= 0).sum(axis=1, dtype=np.int32)
    exists = np.concatenate([np.ones((len(drawn), 1), bool), drawn >= 0], axis=1)
    event = histories.start[found.user] + found.position
    target = {}
    for name in catalog.features:
        positive = rows[name][event][:, None]
        some = (
            catalog.item_rows[name][drawn]
            if len(catalog)
            else np.zeros((*drawn.shape, *positive.shape[2:]), np.int32)
        )
        target[name] = np.concatenate([positive, some], axis=1)[exists].astype(np.int32)
    label = np.zeros(exists.shape, np.uint8)
    label[:, 0] = 1
    label = label[exists]
    users, first = np.unique(found.user, return_index=True)
    last = np.append(first[1:], len(found.user))
    ends = np.concatenate([[0], np.cumsum(target_length)])
    start, time = histories.start.tolist(), histories.columns["time"]
    request_time = time[event]
    position = found.position.astype(np.int32)
    records = []
    for user, a, b in zip(users.tolist(), first.tolist(), last.tolist()):
        begin, low, high = start[user], ends[a], ends[b]
        seen = slice(begin, begin + int(position[b - 1]))
        records.append(
            UserRecord(
                user=histories.users[user],
                history={name: values[seen].reshape(-1) for name, values in rows.items()},
                history_time=time[seen],
                position=position[a:b],
                target_length=target_length[a:b],
                target={name: values[low:high].reshape(-1) for name, values in target.items()},
                label=label[low:high],
                request_time=request_time[a:b],
                context={name: values[a:b] for name, values in context.items()},
            )
        )
    tally = {
        "users": len(users),
        "requests": len(found.user),
        "candidates": int(target_length.sum()),
        "positives": len(found.user),
        "negatives": int((drawn >= 0).sum()),
    }
    return records, tally


def _vocabularies(paths: Mapping[str, str]) -> dict[str, Vocabulary]:
    return {name: Vocabulary.load(read_file(path)) for name, path in paths.items()}


class _BuildBucket(beam.DoFn):
    def __init__(
        self, form: Format, protocol: Protocol, negatives: int, seed: int, alpha: float
    ):
        self._form, self._protocol = form, protocol
        self._negatives, self._seed, self._alpha = negatives, seed, alpha
        self._shared = Shared()

    def process(self, histories: Histories, learned: dict[str, Any]) -> Iterator[Any]:
        path = learned["catalog"]

        def load() -> Learned:
            with open_file(path) as file:
                catalog = Catalog.load(file)
            if learned["given"]:
                catalog.given = _vocabularies(learned["given"])
            return Learned(catalog, _vocabularies(learned["context"]))

        for split, records, tally in build_requests(
            histories,
            self._shared.acquire(load, tag=path),  # once per worker
            self._form,
            self._protocol,
            self._negatives,
            self._seed,
            self._alpha,
        ):
            yield tagged(tally)
            yield Shard(split, histories.bucket, [encode(record) for record in records])


class BuildRequests(beam.PTransform):
    """Histories, with what LearnVocabularies gave -> ``records`` by shard and split, ``tally``."""

    def __init__(
        self, learned, form: Format, protocol: Protocol, negatives: int, seed: int,
        alpha: float = 1.0,
    ):
        super().__init__()
        self._learned = learned
        self._build = _BuildBucket(form, protocol, negatives, seed, alpha)

    def expand(self, histories):
        return (
            histories
            | "BuildBucket"
            >> beam.ParDo(self._build, beam.pvalue.AsSingleton(self._learned))
            .with_outputs(TALLY, main=RECORDS)
            .with_output_types(Any)
        )
