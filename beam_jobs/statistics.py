"""What a folder of sequences holds: ``python -m beam_jobs.statistics --help``."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.output.publish import staged
from beam_jobs.reports.counts import Measures, measure
from beam_jobs.reports.describe import describe, drift, plain
from beam_jobs.reports.html import charts, page, table
from beam_jobs.shared.errors import exit_code
from beam_jobs.shared.parser import JobParser, parse_job
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file, write_file
from tfdare.schema import Schema
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.record import context_dtypes, decode, read_records

_EXAMPLE = "python -m beam_jobs.statistics --sequences build/sequences --output build/statistics"
_HELP = """\
Counts a folder of sequences: users, histories, requests, repeats, frequencies and what is out of
vocabulary; with --before also how far it lies from an earlier folder. Writes statistics.json and
statistics.html. Options of Beam pass through (--runner, --direct_num_workers, ...).
"""
_MEASURES = "measures.pickle"
OF_HISTORIES = "test"
"""The split whose records hold the longest histories; drift is measured on it."""


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
        InputError: an option cannot be used. No output is left, an earlier one stays.
        SchemaError: a folder is no finished folder of sequences.
    """
    asked, rest = parse_job(make_parser(), argv)
    folders = {"now": open_sequences(asked.sequences)}
    if asked.before is not None:
        folders["before"] = open_sequences(asked.before)
    progress = Progress()
    with staged(asked.output, asked.overwrite, [_MEASURES]) as folder:
        progress.say(f"counting {', '.join(one.path for one in folders.values())}")
        measures = _measured(folders, f"{folder}/{_MEASURES}", rest, progress)
        found = summarize(folders, measures)
        text = json.dumps(found, indent=2, sort_keys=True) + "\n"
        write_file(f"{folder}/statistics.json", text.encode())
        write_file(f"{folder}/statistics.html", to_html(found).encode())
    return found


def _measured(folders, path, beam_options, progress) -> dict[tuple[str, str], Measures]:
    files = [
        ((name, split), one.schema.to_json(), file)
        for name, one in folders.items()
        for split in SPLITS
        if one.requests(split)
        for file in one.files(split)
    ]
    options = PipelineOptions(list(beam_options))
    with progress.stages(options.view_as(StandardOptions).runner):
        pipeline = beam.Pipeline(options=options)
        (
            pipeline
            | "Files" >> beam.Create(files)
            | MeasureSequences()
            | "All" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Write" >> beam.Map(lambda pairs: write_file(path, pickle.dumps(pairs)))
        )
        pipeline.run().wait_until_finish()
    return dict(pickle.loads(read_file(path)))  # written by the pipeline above


def summarize(
    folders: Mapping[str, Sequences], measures: Mapping[tuple[str, str], Measures]
) -> dict[str, Any]:
    """The content of ``statistics.json``: by ``now`` and ``before`` the facts of every split
    (:func:`beam_jobs.reports.describe.describe`), and ``drift`` between the two."""
    found: dict[str, Any] = {
        name: {
            split: describe(measures[name, split], one)
            for split in SPLITS
            if (name, split) in measures
        }
        for name, one in folders.items()
    }
    if "before" in folders and all((name, OF_HISTORIES) in measures for name in folders):
        found["drift"] = drift(
            measures["before", OF_HISTORIES],
            folders["before"],
            measures["now", OF_HISTORIES],
            folders["now"],
        )
    return found


def to_html(found: Mapping[str, Any]) -> str:
    """The page."""
    names = [name for name in ("now", "before") if name in found]
    parts = []
    if "drift" in found:
        parts += _drift(found["drift"])
    for split in SPLITS:
        have = [name for name in names if split in found[name]]
        if not have:
            continue
        parts.append(f"<h2>{split}</h2>")
        totals = [found[name][split]["totals"] for name in have]
        parts.append(table(["", *have], [[key, *(t[key] for t in totals)] for key in totals[0]]))
        features = found[have[0]][split]["features"]
        parts.append(
            table(
                [
                    "feature",
                    "ids",
                    "ids seen",
                    "share out of vocabulary",
                    "of clicks",
                    "clicks that repeat",
                ],
                [
                    [
                        name,
                        one["ids"],
                        one["ids_seen"],
                        one["out_of_vocabulary"],
                        one["out_of_vocabulary_clicks"],
                        one.get("repeat_rate"),
                    ]
                    for name, one in features.items()
                ],
            )
        )
        parts.append(
            charts(
                [
                    (
                        "Histories that requests see",
                        "behaviors",
                        "requests",
                        {name: found[name][split]["history_length"]["histogram"] for name in have},
                    ),
                    (
                        "Requests of a user",
                        "requests",
                        "users",
                        {name: found[name][split]["user_requests"]["histogram"] for name in have},
                    ),
                    (
                        "From behavior to behavior",
                        "time, by the clock of the log",
                        "behaviors",
                        {name: found[name][split]["time_between_behaviors"] for name in have},
                    ),
                ],
                logarithmic=False,
            )
        )
        parts.append(
            charts(
                [
                    (
                        f"How often each {feature} comes",
                        "rank",
                        "behaviors",
                        {
                            name: found[name][split]["features"][feature]["curve"]
                            for name in have
                            if feature in found[name][split]["features"]
                        },
                    )
                    for feature in list(features)[:3]
                ],
                logarithmic=True,
            )
        )
    return page("Statistics of sequences", parts)


def _drift(found: Mapping[str, Any]) -> list[str]:
    rows = [
        ["history length", found["history_length"], None, None, None],
        ["requests of a user", found["user_requests"], None, None, None],
    ]
    rows += [
        [name, one["divergence"], one["new_ids"], one["gone_ids"], one["behaviors_of_new_ids"]]
        for name, one in found["features"].items()
    ]
    return [
        "<h2>now against before</h2>",
        f"<p>Jensen-Shannon divergence in bits, on the {OF_HISTORIES} split: 0 is the same, 1 has "
        "nothing in common.</p>",
        table(["", "divergence", "new ids", "gone ids", "share of behaviors of new ids"], rows),
    ]


def make_parser() -> JobParser:
    """The parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.statistics", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", required=True, metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add("--before", metavar="FOLDER", help="earlier folder of sequences to set it against")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: 0, or 2 with a message on stderr."""

    def action():
        found = run(argv)
        for split in SPLITS:
            if split in found["now"]:
                print("\n".join(plain(found["now"][split], split)))
        for name, one in found.get("drift", {}).get("features", {}).items():
            print(
                f"drift       {name}: divergence {one['divergence']:.4f} bits, "
                f"{one['new_ids']:,} new ids"
            )

    return exit_code(action)


if __name__ == "__main__":
    sys.exit(main())
