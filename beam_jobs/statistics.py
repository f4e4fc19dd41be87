"""Statistics of a folder of sequences: ``python -m beam_jobs.statistics --help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam

from beam_jobs.output.publish import staged
from beam_jobs.reports.counts import Measures, measure
from beam_jobs.reports.describe import describe, drift, plain
from beam_jobs.reports.html import charts, page, table
from beam_jobs.shared.errors import exit_code
from beam_jobs.shared.parser import JobParser, parse_job
from beam_jobs.shared.pipeline import run_pipeline
from beam_jobs.shared.progress import Progress, labeled
from beam_jobs.shared.storage import write_file
from tfdare.schema import Schema
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.record import context_dtypes, decode, read_records

_EXAMPLE = "python -m beam_jobs.statistics --sequences build/sequences --output build/statistics"
_HELP = """\
Counts a folder of sequences: users, histories, requests, repeats, frequencies and shares out of
vocabulary; with --before also how its distributions differ from an earlier folder's. Writes
statistics.json and statistics.html. Options of Beam are passed on (--runner,
--direct_num_workers, ...).
"""
_MEASURES = "measures.pickle"
OF_HISTORIES = "test"
"""The split whose records have the longest histories; drift is measured on it."""


class _MeasureFile(beam.DoFn):
    def process(self, element) -> Iterator[tuple[tuple[str, str], Measures]]:
        key, schema, path = element
        schema = Schema.from_json(schema)
        context = context_dtypes(schema.context)
        records = (decode(data, schema.names, context) for data in read_records(path))
        yield key, measure(records, schema)


class _AddMeasures(beam.CombineFn):
    def create_accumulator(self) -> Measures:
        return Measures()

    def add_input(self, total: Measures, more: Measures) -> Measures:
        return total + more

    def merge_accumulators(self, parts) -> Measures:
        return sum(parts, Measures())

    def extract_output(self, total: Measures) -> Measures:
        return total


class MeasureSequences(beam.PTransform):
    """((run, split), schema as JSON, file) -> Measures by (run, split)."""

    def expand(self, files):
        return (
            files
            | "SpreadFiles" >> beam.Reshuffle()
            | "MeasureFile"
            >> beam.ParDo(_MeasureFile()).with_output_types(tuple[tuple[str, str], Any])
            | "AddMeasures" >> beam.CombinePerKey(_AddMeasures())
        )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job and returns what it wrote as ``statistics.json``.

    Raises:
        InputError: an option cannot be used. Nothing is published; an earlier output stays.
        SchemaError: a folder is not a finished folder of sequences.
    """
    args, beam_args = parse_job(make_parser(), argv)
    folders = {"now": open_sequences(args.sequences)}
    if args.before is not None:
        folders["before"] = open_sequences(args.before)
    progress = Progress()
    with staged(args.output, args.overwrite, [_MEASURES]) as folder:
        progress.say(f"counting {', '.join(sequences.path for sequences in folders.values())}")
        measures = _measure(folders, f"{folder}/{_MEASURES}", beam_args, progress)
        statistics = summarize(folders, measures)
        text = json.dumps(statistics, indent=2, sort_keys=True) + "\n"
        write_file(f"{folder}/statistics.json", text.encode())
        write_file(f"{folder}/statistics.html", to_html(statistics).encode())
    return statistics


def _measure(
    folders: Mapping[str, Sequences], path: str, beam_args: list[str], progress: Progress
) -> dict[tuple[str, str], Measures]:
    """Runs the pipeline; returns the measures by (run, split)."""
    files = [
        ((name, split), sequences.schema.to_json(), file)
        for name, sequences in folders.items()
        for split in SPLITS
        if sequences.requests(split)
        for file in sequences.files(split)
    ]
    measure = MeasureSequences() | "All" >> beam.combiners.ToDict()
    return run_pipeline(files, measure, path, beam_args, progress)


def summarize(
    folders: Mapping[str, Sequences], measures: Mapping[tuple[str, str], Measures]
) -> dict[str, Any]:
    """Makes the content of ``statistics.json``.

    Returns:
        Under ``now`` and ``before`` the description of every split by
        :func:`beam_jobs.reports.describe.describe`; under ``drift`` the differences by
        :func:`beam_jobs.reports.describe.drift`.
    """
    statistics: dict[str, Any] = {
        name: {
            split: describe(measures[name, split], sequences)
            for split in SPLITS
            if (name, split) in measures
        }
        for name, sequences in folders.items()
    }
    if "before" in folders and all((name, OF_HISTORIES) in measures for name in folders):
        statistics["drift"] = drift(
            measures["before", OF_HISTORIES],
            folders["before"],
            measures["now", OF_HISTORIES],
            folders["now"],
        )
    return statistics


def to_html(statistics: Mapping[str, Any]) -> str:
    """Formats statistics as an HTML page of tables and charts."""
    parts = _drift_html(statistics["drift"]) if "drift" in statistics else []
    for split in SPLITS:
        runs = {
            name: statistics[name][split]
            for name in ("now", "before")
            if split in statistics.get(name, {})
        }
        if runs:
            parts += _split_html(split, runs)
    return page("Statistics of sequences", parts)


def _split_html(split: str, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Formats one split; ``runs`` holds its description by ``now`` and ``before``."""
    first = next(iter(runs.values()))
    totals = [[key, *(facts["totals"][key] for facts in runs.values())] for key in first["totals"]]
    shares = ["behaviors out of vocabulary", "clicks out of vocabulary", "clicks that repeat an id"]
    keys = ("ids", "ids_seen", "out_of_vocabulary", "out_of_vocabulary_clicks", "repeat_rate")
    features = [[name, *map(facts.get, keys)] for name, facts in first["features"].items()]
    histories = {name: facts["history_length"]["histogram"] for name, facts in runs.items()}
    requests = {name: facts["user_requests"]["histogram"] for name, facts in runs.items()}
    times = {name: facts["time_between_behaviors"] for name, facts in runs.items()}
    curves = {
        feature: {
            name: facts["features"][feature]["curve"]
            for name, facts in runs.items()
            if feature in facts["features"]
        }
        for feature in list(first["features"])[:3]
    }
    return [
        f"<h2>{split}</h2>",
        table(["", *runs], totals),
        table(["feature", "ids", "ids seen", *shares], features),
        charts(
            [
                ("Histories that requests see", "behaviors", "requests", histories),
                ("Requests of a user", "requests", "users", requests),
                ("Time between behaviors", "time, by the clock of the log", "behaviors", times),
            ],
            logarithmic=False,
        ),
        charts(
            [
                (f"Frequency of each {feature}", "rank", "behaviors", lines)
                for feature, lines in curves.items()
            ],
            logarithmic=True,
        ),
    ]


def _drift_html(facts: Mapping[str, Any]) -> list[str]:
    keys = ("divergence", "new_ids", "gone_ids", "behaviors_of_new_ids")
    rows = [
        ["history length", facts["history_length"], None, None, None],
        ["requests of a user", facts["user_requests"], None, None, None],
        *([name, *map(feature.get, keys)] for name, feature in facts["features"].items()),
    ]
    return [
        "<h2>now against before</h2>",
        f"<p>Jensen-Shannon divergence in bits, on the {OF_HISTORIES} split: 0 for equal "
        "distributions, 1 for disjoint ones.</p>",
        table(["", "divergence", "new ids", "gone ids", "share of behaviors of new ids"], rows),
    ]


def make_parser() -> JobParser:
    """Builds the parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.statistics", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", required=True, metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add("--before", metavar="FOLDER", help="earlier folder of sequences to compare with")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 with a message on stderr."""

    def action():
        statistics = run(argv)
        for split, facts in statistics["now"].items():
            print("\n".join(plain(facts, split)))
        for name, feature in statistics.get("drift", {}).get("features", {}).items():
            text = f"{name}: divergence {feature['divergence']:.4f} bits"
            print(labeled("drift", f"{text}, {feature['new_ids']:,} new ids"))

    return exit_code(action)


if __name__ == "__main__":
    sys.exit(main())
