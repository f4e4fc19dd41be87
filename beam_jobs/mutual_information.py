"""Mutual information of behaviors and clicks: ``python -m beam_jobs.mutual_information --help``."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam

import numpy as np

from beam_jobs.output.publish import staged
from beam_jobs.reports.heat_maps import heat_maps
from beam_jobs.shared.errors import InputError, exit_code
from beam_jobs.shared.parser import JobParser, check_bounds, parse_job
from beam_jobs.shared.pipeline import run_pipeline
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import write_file
from tfdare.schema import FIRST_ID
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.mutual_information import InterestCounts, InterestTable, top_categories
from tfdare.sequences.raw_ids import readable
from tfdare.sequences.record import UserRecord, decode, read_records

_EXAMPLE = (
    "python -m beam_jobs.mutual_information --sequences build/sequences "
    "--output build/mutual_information"
)
_HELP = """\
Counts, over a folder of sequences, how much a behavior of category c at position p (1: the newest)
tells about a click on a target of category t: their mutual information in nats. Writes
mutual_information.json (all counts), .csv (a line for every t, c, p that occurs) and .png (heat
maps). Options of Beam are passed on (--runner, --direct_num_workers, ...).
"""
_COUNTS = "counts.pickle"
_BATCH = 128  # records counted at once
_BOUNDS = (  # option, least, most
    ("categories", 1, math.inf),
    ("positions", 1, math.inf),
    ("min_count", 1, math.inf),
    ("smoothing", 0, math.inf),
)


def count_records(records: Sequence[UserRecord], name: str, counts: InterestCounts) -> None:
    """Adds the requests of users to the counts of feature ``name``."""
    windows: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    width = max((int(record.target_length.max(initial=0)) for record in records), default=0)
    back = np.arange(1, counts.positions + 1)
    for record in records:
        if not record.position.size:
            continue
        history = record.history[name]
        index = record.position[:, None] - back
        nothing = np.zeros(index.shape, np.int32)
        windows.append(history[np.maximum(index, 0)] if history.size else nothing)
        lengths.append(record.position)
        mask = np.arange(width) < record.target_length[:, None]
        for columns, values in ((targets, record.target[name]), (labels, record.label)):
            column = np.zeros(mask.shape, np.int32)
            column[mask] = values
            columns.append(column)
    if windows:
        window, length, target, label = map(np.concatenate, (windows, lengths, targets, labels))
        counts.add_newest_first(window, length, target, label)  # row 0 is padding, not counted


class _CountFile(beam.DoFn):
    def __init__(self, names: tuple[str, ...], name: str, categories, edges):
        self._names, self._name = names, name
        self._categories, self._edges = categories, edges

    def process(self, path: str) -> Iterator[InterestCounts]:
        counts, batch = InterestCounts(self._categories, self._edges), []
        for data in read_records(path):
            batch.append(decode(data, self._names))
            if len(batch) == _BATCH:
                count_records(batch, self._name, counts)
                batch = []
        count_records(batch, self._name, counts)
        yield counts


class _AddCounts(beam.CombineFn):
    def __init__(self, categories, edges):
        self._categories, self._edges = categories, edges

    def create_accumulator(self) -> InterestCounts:
        return InterestCounts(self._categories, self._edges)

    def add_input(self, total: InterestCounts, more: InterestCounts) -> InterestCounts:
        return total.merge(more)

    def merge_accumulators(self, parts) -> InterestCounts:
        total = self.create_accumulator()
        for part in parts:
            total.merge(part)
        return total

    def extract_output(self, total: InterestCounts) -> InterestCounts:
        return total


class CountInterests(beam.PTransform):
    """Files of sequences -> one :class:`~tfdare.sequences.mutual_information.InterestCounts`.

    Args:
        names: tuple of str. Features of the records.
        name: str. The feature whose values are counted.
        categories: int ``[M]``. Row ids of the values that are counted.
        edges: int ``[B + 1]``. Edges of the buckets of positions.
    """

    def __init__(self, names: tuple[str, ...], name: str, categories, edges):
        super().__init__()
        self._count = _CountFile(names, name, categories, edges)
        self._add = _AddCounts(categories, edges)

    def expand(self, files):
        return (
            files
            | "SpreadFiles" >> beam.Reshuffle()
            | "CountFile" >> beam.ParDo(self._count).with_output_types(Any)
            | "AddCounts" >> beam.CombineGlobally(self._add)
        )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job and returns what it wrote as ``mutual_information.json``.

    Raises:
        InputError: an option cannot be used. Nothing is published; an earlier output stays.
        SchemaError: the folder is not a finished folder of sequences.
    """
    args, beam_args = parse_job(make_parser(), argv)
    _check(args)
    sequences = open_sequences(args.sequences)
    name = _feature(sequences, args.feature)
    raw = sequences.vocabulary(name)
    categories = top_categories(sequences.frequencies(name), args.categories)
    if not categories.size:
        raise InputError(f"The vocabulary of {name!r} in {sequences.path!r} is empty")
    edges = InterestCounts(categories.tolist(), args.position_edges or args.positions).edges
    files = sequences.files(args.split) if sequences.requests(args.split) else []
    if not files:
        raise InputError(f"--split {args.split}: {sequences.path!r} has no requests there")
    progress = Progress()
    with staged(args.output, args.overwrite, [_COUNTS]) as folder:
        progress.say(f"counting {sequences.requests(args.split):,} requests")
        path = f"{folder}/{_COUNTS}"
        count = CountInterests(sequences.schema.names, name, categories, edges)
        counts = run_pipeline(files, count, path, beam_args, progress)
        table = counts.table(args.smoothing, args.min_count)
        ids = readable(raw[categories - FIRST_ID])
        content = {
            "schema_digest": sequences.schema.digest,
            "split": args.split,
            "feature": name,
            "ids": ids.tolist(),
            "smoothing": args.smoothing,
            "min_count": args.min_count,
            "counts": counts.to_dict(),
        }
        text = json.dumps(content, sort_keys=True) + "\n"
        write_file(f"{folder}/mutual_information.json", text.encode())
        write_file(f"{folder}/mutual_information.csv", to_csv(table, ids).encode())
        write_file(f"{folder}/mutual_information.png", heat_maps(table, ids, name))
    return content


def to_csv(table: InterestTable, ids: np.ndarray) -> str:
    """Formats a table as CSV, a line for every cell that occurs, with raw ids from ``ids``."""
    buckets, size = table.edges.size - 1, table.categories.size
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "target,behavior,first_position,last_position,observations,information,lift"
    writer.writerow(head.split(","))
    for cell, support, information, lift in zip(
        table.cells.tolist(),
        table.cell_support.tolist(),
        table.cell_information.tolist(),
        table.cell_lift.tolist(),
    ):
        pair, bucket = divmod(cell, buckets)
        target, behavior = divmod(pair, size)
        first, after = table.edges[bucket], table.edges[bucket + 1]
        writer.writerow([ids[target], ids[behavior], first, after - 1, support, information, lift])
    return text.getvalue()


def _check(args: argparse.Namespace) -> None:
    check_bounds(args, _BOUNDS)
    edges = args.position_edges
    if edges and (len(edges) < 2 or edges[0] != 1 or (np.diff(edges) <= 0).any()):
        raise InputError(f"--position_edges must rise from 1. Received: {edges}")


def _feature(sequences: Sequences, name: str) -> str:
    """Checks that feature ``name`` exists and has one value, and returns ``name``."""
    features = [part.name for part in sequences.schema.features if part.max_values == 1]
    if name not in features:
        raise InputError(
            f"--feature must be a feature of one value. Received: {name!r}; "
            f"{sequences.path!r} has {', '.join(features)}"
        )
    return name


def make_parser() -> JobParser:
    """Builds the parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.mutual_information", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", required=True, metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add("--split", default="train", choices=SPLITS, help="default train")
    add("--feature", default="category", help="feature of one value; default category")
    add("--categories", type=int, default=10, metavar="M", help="the M most frequent; default 10")
    add("--positions", type=int, default=20, metavar="P", help="positions 1 to P; default 20")
    add(
        "--position_edges",
        type=int,
        nargs="+",
        metavar="START",
        help="buckets of positions "
        "instead: where each starts and where the last one ends (1 2 3 5 9: 1, 2, 3-4, 5-8)",
    )
    add("--smoothing", type=float, default=0.0, help="added to each of the four counts; default 0")
    add(
        "--min_count",
        type=int,
        default=20,
        help="information is 0 where the behavior was observed fewer times; default 20",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 with a message on stderr."""

    def action():
        content = run(argv)
        counts = InterestCounts.from_dict(content["counts"])
        table = counts.table(content["smoothing"], content["min_count"])
        information, lift, ids = table.information, table.lift, content["ids"]
        for index, raw in enumerate(ids):
            best = np.unravel_index(information[index].argmax(), information[index].shape)
            print(
                f"{content['feature']} {raw:<12} {counts.total[index, 0].sum():>12,} candidates; "
                f"its own newest behavior tells {information[index, index, 0]:.4f} nats (lift "
                f"{lift[index, index, 0]:.2f}), most of all {ids[best[0]]} at position "
                f"{table.edges[best[1]]}: {information[index][best]:.4f}"
            )

    return exit_code(action)


if __name__ == "__main__":
    sys.exit(main())
