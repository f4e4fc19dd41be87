"""Vectors of ids from a folder of sequences: ``python -m beam_jobs.vectors --help``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam

from beam_jobs.cooccurrence.behaviors import (
    Behaviors,
    behaviors_of_records,
    join,
    training_behaviors,
)
from beam_jobs.cooccurrence.count import CountPairs, PairCounter
from beam_jobs.cooccurrence.facts import facts_of_catalog, facts_of_rows
from beam_jobs.cooccurrence.given import check_given
from beam_jobs.cooccurrence.learn import LearnVectors, describe
from beam_jobs.cooccurrence.options import VectorOptions, add_vector_options, parse_vectors
from beam_jobs.histories import splits
from beam_jobs.histories.earlier_run import KEPT, Earlier
from beam_jobs.histories.histories import Histories, keep_events, sort_events
from beam_jobs.output.publish import staged
from beam_jobs.reading.formats import make_format
from beam_jobs.shared.errors import InputError, exit_code
from beam_jobs.shared.parser import JobParser, check_bounds, parse_job
from beam_jobs.shared.pipeline import run_pipeline
from beam_jobs.shared.progress import Progress, labeled
from beam_jobs.shared.storage import write_file
from beam_jobs.vocabulary.catalog import Catalog
from beam_jobs.vocabulary.learn import count_items, make_catalog, merge_counts
from tfdare.schema import STRING, Schema
from tfdare.sequences import Sequences, open_sequences
from tfdare.sequences.record import UserRecord, decode, read_records
from tfdare.sequences.vectors import VECTORS_FILE

_EXAMPLE = "python -m beam_jobs.vectors --sequences build/sequences --output build/vectors"
_HELP = """\
Writes, for a folder of sequences, vectors of ids from what occurs together in histories, as
`tfdare prepare` does: FEATURE.npz by the rows of the folder's vocabularies, and vectors.json. Only
events before a user's first held-out event count: all of them if the folder was prepared with
--keep_events, otherwise those before each user's last training request. Options of Beam are
passed on (--runner, --direct_num_workers, ...).
"""
_ENTRIES = "entries.pickle"
_FACTS, _BEHAVIORS = "facts", "behaviors"
_EVENTS = 1 << 20  # events of one element
_BOUNDS = (("gap", 0, math.inf),)  # option, least, most


class _LoadHistories(beam.DoFn):
    """Reads the kept events of a bucket -> Histories of users with enough events."""

    def __init__(self, earlier: Earlier, names: tuple[str, ...], multi_hot, min_events: int):
        self._earlier, self._names, self._multi_hot = earlier, names, multi_hot
        self._min_events = min_events

    def process(self, bucket: int) -> Iterator[Histories]:
        events = self._earlier.events(bucket)
        histories = sort_events(bucket, [events], (*self._names, "time"), self._multi_hot)
        keep = (histories.length >= self._min_events).repeat(histories.length)
        yield keep_events(histories, keep)


class BehaviorsOfEvents(beam.PTransform):
    """Numbers of buckets -> (Behaviors, RowFacts), from the kept events of a folder.

    Args:
        sequences: Sequences. Prepared with ``--keep_events``.
        features: tuple of str. Features to keep.
    """

    def __init__(self, sequences: Sequences, features: tuple[str, ...]):
        super().__init__()
        self._schema, self._features = sequences.schema, features
        self._protocol = protocol_of(sequences.schema)
        self._earlier = Earlier(sequences.path, sequences.manifest)

    def expand(self, buckets):
        schema, protocol, earlier = self._schema, self._protocol, self._earlier
        features, names = self._features, schema.names
        multi_hot = {f.name: f.max_values for f in schema.features if f.max_values > 1}
        hashed = hash_buckets(schema)
        form = make_format("csv", None, None)  # no context
        load = _LoadHistories(earlier, names, multi_hot, schema.split["min_events"])

        def to_catalog(element) -> Catalog:
            counts = merge_counts(element[1])
            catalog = make_catalog(counts, names, 1, hashed=hashed)
            catalog.extended = {n: earlier.vocabulary(n) for n in names if n not in hashed}
            return catalog

        def select(histories: Histories, catalog: Catalog) -> Behaviors:
            _, rows = catalog.rows({name: histories.columns[name] for name in names})
            return training_behaviors(histories, rows, protocol, features)

        histories = (
            buckets
            | "SpreadBuckets" >> beam.Reshuffle()
            | "LoadHistories" >> beam.ParDo(load).with_output_types(Any)
        )
        catalog = (
            histories
            | "CountItems"
            >> beam.Map(
                lambda part: (0, count_items(part, protocol, form, names))
            ).with_output_types(tuple[int, Any])
            | "GroupCounts" >> beam.GroupByKey()
            | "MergeCounts" >> beam.Map(to_catalog).with_output_types(Any)
        )
        return (
            histories
            | "Select" >> beam.Map(select, beam.pvalue.AsSingleton(catalog)).with_output_types(Any),
            catalog
            | "RowFacts"
            >> beam.Map(lambda part: facts_of_catalog(part, features)).with_output_types(Any),
        )


class _ReadRecords(beam.DoFn):
    def __init__(self, schema: Schema, features: tuple[str, ...]):
        self._schema, self._features = schema, features

    def process(self, path: str) -> Iterator[Any]:
        batch: list[UserRecord] = []
        size = 0
        for data in read_records(path):
            batch.append(decode(data, self._schema.names))
            size += len(batch[-1].history_time)
            if size >= _EVENTS:
                yield from self._outputs(batch)
                batch, size = [], 0
        yield from self._outputs(batch)

    def _outputs(self, batch: list[UserRecord]) -> Iterator[Any]:
        single = {f.name: f.vocabulary_size for f in self._schema.features if f.max_values == 1}
        behaviors = behaviors_of_records(batch, list(single))
        candidates = {name: join([record.target[name] for record in batch]) for name in single}
        second = self._schema.names[1:2]
        category = second[0] if second and second[0] in single else None
        yield beam.pvalue.TaggedOutput(
            _FACTS,
            facts_of_rows(single, self._features, behaviors.rows, candidates, category),
        )
        yield behaviors


class BehaviorsOfRecords(beam.PTransform):
    """Files of training records -> (Behaviors, RowFacts).

    Args:
        schema: Schema.
        features: tuple of str. Features to keep.
    """

    def __init__(self, schema: Schema, features: tuple[str, ...]):
        super().__init__()
        self._read = _ReadRecords(schema, features)

    def expand(self, files):
        read = (
            files
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadRecords"
            >> beam.ParDo(self._read).with_outputs(_FACTS, main=_BEHAVIORS).with_output_types(Any)
        )
        return read[_BEHAVIORS], read[_FACTS]


def protocol_of(schema: Schema) -> splits.Protocol:
    """Returns the protocol that cut the sequences of a schema."""
    protocol = splits.PROTOCOLS[schema.split["protocol"]]
    return protocol(**{name: schema.split[name] for name in splits.options(protocol())})


def hash_buckets(schema: Schema) -> dict[str, int]:
    """Returns the number of buckets of every hashed feature."""
    return {f.name: f.hash_buckets for f in schema.features if f.hash_buckets}


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job and returns what it wrote as ``vectors.json``.

    Raises:
        InputError: an option cannot be used. Nothing is published; an earlier output stays.
        SchemaError: the folder is not a finished folder of sequences.
    """
    args, beam_args = parse_job(make_parser(), argv)
    check_bounds(args, _BOUNDS)
    sequences = open_sequences(args.sequences)
    schema = sequences.schema
    single = [part.name for part in schema.features if part.max_values == 1]
    vectors = parse_vectors(args.vectors, single)
    if not vectors:
        raise InputError("--vectors none leaves nothing to write")
    coarse_clock = bool(schema.split.get("coarse_clock"))
    text_ids = frozenset(part.name for part in schema.features if part.dtype == STRING)
    options = VectorOptions(vectors, coarse_clock, args.gap, hash_buckets(schema), text_ids)
    for name, path in options.given.items():
        check_given(path, name, name in text_ids)
    kept = sequences.manifest.get(KEPT)
    if not kept and not sequences.requests("train"):
        raise InputError(
            f"{sequences.path!r} has no training requests, whose histories would be read: prepare "
            "it with --keep_events"
        )
    sources = list(range(kept["buckets"])) if kept else sequences.files("train")
    features = tuple(vectors)
    counter = PairCounter(options, len(sources), schema.item.name)
    progress = Progress()
    with staged(args.output, args.overwrite, [_ENTRIES]) as folder:
        progress.say(f"reading {'kept events' if kept else 'training records'}")
        path = f"{folder}/{_ENTRIES}"
        read = (
            BehaviorsOfEvents(sequences, features) if kept else BehaviorsOfRecords(schema, features)
        )
        learn = read | CountPairs(counter) | LearnVectors(counter, folder, "", sequences.path)
        entries = run_pipeline(sources, learn, path, beam_args, progress)
        content = {
            "schema_digest": schema.digest,
            "source": "events" if kept else "train",
            "coarse_clock": coarse_clock,
            "gap": args.gap,
            "vectors": {name: entries[name] for name in features},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_file(f"{folder}/{VECTORS_FILE}", text.encode())
    return content


def make_parser() -> JobParser:
    """Builds the parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.vectors", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", required=True, metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add_vector_options(add)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 with a message on stderr."""

    def action():
        for line in describe(run(argv)["vectors"]):
            print(labeled(*line))

    return exit_code(action)


if __name__ == "__main__":
    sys.exit(main())
