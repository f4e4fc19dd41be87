"""Offline search and score with a SavedModel: ``python -m beam_jobs.batch_rank --help``.

The only job whose workers import TensorFlow, and they only where they load the model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.ml.inference.base import ModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

import numpy as np
import pyarrow as pa

from beam_jobs.output.publish import staged
from beam_jobs.reading.inputs import find_paths
from beam_jobs.requests.ranked import Asked, from_json, from_record, laid_out
from beam_jobs.shared.errors import InputError, exit_code
from beam_jobs.shared.parser import JobParser, parse_job
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file, write_file
from beam_jobs.shared.tallies import TALLY, AddTallies, tagged
from tfdare.schema import Schema
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import context_dtypes, decode, read_records

_EXAMPLE = (
    "python -m beam_jobs.batch_rank --sequences build/sequences --split test "
    "--model build/servables/dare/1 --output build/ranked"
)
_HELP = """\
Ranks the requests of a folder of sequences, or of JSON lines, with an exported model: search and
score in one, through Beam's RunInference and the loader that TensorFlow Serving takes. Writes
ranked/*.parquet (or .jsonl): user, request, time, items, probabilities, labels where they are
known; what could not be ranked is kept with the reason in failed/*.jsonl. Options of Beam pass
through (--runner, --direct_num_workers, ...).

A line of JSON holds the inputs of the signature for one request, without the axis of requests:
  {"user": "u1", "history_item": [11, 12], "history_category": [1, 1], "target_item": [21],
   "target_category": [1], "context_hour": 7}
"""
SIGNATURE = "serving_default"
RANKED, FAILED = "ranked", "failed"
_TALLY_FILE = "tally.json"
_COLUMNS = pa.schema(
    [
        ("user", pa.string()),
        ("request", pa.int64()),
        ("time", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("probabilities", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int8())),
        ("behavior_index", pa.list_(pa.list_(pa.int32()))),
        ("attention_score", pa.list_(pa.list_(pa.float32()))),
    ]
)
_FOUND = ("behavior_index", "attention_score")


class SavedModelHandler(ModelHandler[Asked, tuple[Asked, Any], Any]):
    """Requests -> (request, outputs by name), or (request, why it could not be ranked).

    Args:
        path: str. A version of a servable: the folder with ``saved_model.pb``.
        most: int. Requests of a batch.
    """

    def __init__(self, path: str, most: int):
        super().__init__(min_batch_size=1, max_batch_size=most)
        self._path = path

    def load_model(self):
        from tfdare.quiet import quiet as without_chatter

        with without_chatter():
            from tfdare.session import SavedModelSession

            return SavedModelSession(self._path)

    def run_inference(self, batch: Sequence[Asked], model, inference_args=None):
        kinds = {
            name: (
                np.dtype(_NUMPY[info.dtype]),
                tuple(dim.size for dim in info.tensor_shape.dim[1:]),
            )
            for name, info in model.signatures[SIGNATURE].inputs.items()
        }
        ready, answers = [], [None] * len(batch)
        for place, asked in enumerate(batch):
            try:
                ready.append((place, laid_out(asked, kinds)))
            except ValueError as error:
                answers[place] = asked, str(error)
        try:
            self._answer(batch, ready, answers, model)
        except Exception:  # one of them may spoil it for all: each by itself says which
            for one in ready:
                try:
                    self._answer(batch, [one], answers, model)
                except Exception as error:
                    answers[one[0]] = batch[one[0]], f"{type(error).__name__}: {error}"[:500]
        return answers

    def _answer(self, batch, ready, answers, model) -> None:
        if not ready:
            return
        outputs = model.run(SIGNATURE, stack([inputs for _, inputs in ready]))
        for row, (place, inputs) in enumerate(ready):
            candidates = len(next(v for k, v in inputs.items() if k.startswith("target_")))
            answers[place] = (
                batch[place],
                {name: values[row, :candidates] for name, values in outputs.items()},
            )

    def get_num_bytes(self, batch) -> int:
        return sum(value.nbytes for one in batch for value in map(np.asarray, one.inputs.values()))

    def get_metrics_namespace(self) -> str:
        return "tfdare"


_NUMPY = {1: "float32", 3: "int32", 9: "int64"}
"""Numbers of TensorFlow's types (``types.proto``) that signatures take."""


def stack(several: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Inputs of requests, padded to the longest history and the most candidates, as one batch."""
    made = {}
    for name in several[0]:
        values = [inputs[name] for inputs in several]
        if not (name.startswith(("history_", "target_")) and values[0].ndim):
            made[name] = np.stack(values)
            continue
        width = max(1, max(len(value) for value in values))
        fill = 0 if values[0].dtype == np.int32 else -1
        shape = (len(values), width, *values[0].shape[1:])
        made[name] = np.full(shape, fill, values[0].dtype)
        for row, value in enumerate(values):
            made[name][row, : len(value)] = value
    return made


class _ReadSequences(beam.DoFn):
    """A TFRecord file -> requests."""

    def __init__(self, sequences: Sequences, row_ids: bool, newest: bool):
        self._folder, self._schema = sequences.path, sequences.schema.to_json()
        self._row_ids, self._newest = row_ids, newest

    def setup(self):
        self._parsed = Schema.from_json(self._schema)
        self._ids = None
        if not self._row_ids:
            self._ids = RawIds(Sequences(self._folder, self._parsed, {}), exact=True)

    def process(self, path: str) -> Iterator[Any]:
        context = context_dtypes(self._parsed.context)
        for data in read_records(path):
            record = decode(data, self._parsed.names, context)
            found = from_record(record, self._parsed, self._ids, self._newest)
            yield tagged({"requests_read": len(found)})
            yield from found


class _ReadLines(beam.DoFn):
    """A line of JSON -> a request, or why it is none."""

    def process(self, line: str) -> Iterator[Any]:
        if not line.strip():
            return
        yield tagged({"requests_read": 1})
        try:
            yield from_json(line)
        except ValueError as error:
            yield beam.pvalue.TaggedOutput(FAILED, {"reason": str(error), "request": line})


class _Sort(beam.DoFn):
    """(request, answer) -> rows of the output, and failures."""

    def __init__(self, behaviors: bool):
        self._behaviors = behaviors

    def process(self, answer) -> Iterator[Any]:
        asked, found = answer
        if isinstance(found, str):
            yield beam.pvalue.TaggedOutput(FAILED, {"reason": found, "request": asked.text()})
            return
        row = {
            "user": asked.user,
            "request": asked.number,
            "time": asked.time,
            "items": asked.items,
            "probabilities": found["probability"].tolist(),
            "labels": asked.labels,
        }
        for name in _FOUND if self._behaviors else ():
            row[name] = found[name].tolist()
        yield tagged({"requests_ranked": 1, "candidates_ranked": len(row["probabilities"])})
        yield row


class RankRequests(beam.PTransform):
    """Requests -> ``ranked`` rows, ``failed`` ones with the reason, ``tally``."""

    def __init__(self, model: str, batch: int, behaviors: bool):
        super().__init__()
        self._handler, self._sort = SavedModelHandler(model, batch), _Sort(behaviors)

    def expand(self, requests):
        return (
            requests
            | "SpreadRequests" >> beam.Reshuffle()
            | "Rank" >> RunInference(self._handler)
            | "Sort"
            >> beam.ParDo(self._sort)
            .with_outputs(FAILED, TALLY, main=RANKED)
            .with_output_types(Any)
        )


def run(argv: Sequence[str] | None = None) -> dict[str, int]:
    """Runs the job and returns its counts: read, ranked, failed requests, and candidates.

    Raises:
        InputError: an option cannot be used, or too much failed. No output is left, an earlier one
            stays.
        SchemaError: the folder is no finished folder of sequences.
    """
    asked, rest = parse_job(make_parser(), argv)
    _check(asked)
    sequences = None
    if asked.sequences:
        sequences = open_sequences(asked.sequences)
        if not asked.row_ids:
            RawIds(sequences, exact=True)  # refuses hashed features before anything runs
    progress = Progress()
    with staged(asked.output, asked.overwrite, [_TALLY_FILE]) as folder:
        progress.say(f"ranking with {asked.model}")
        options = PipelineOptions(list(rest))
        with progress.stages(options.view_as(StandardOptions).runner):
            pipeline = beam.Pipeline(options=options)
            _build(pipeline, asked, sequences, folder)
            pipeline.run().wait_until_finish()
        counts = {f"requests_{name}": 0 for name in ("read", "ranked", "failed")} | json.loads(
            read_file(f"{folder}/{_TALLY_FILE}")
        )
        _check_counts(counts, asked.max_failed_fraction, folder)
        text = json.dumps({"model": asked.model, "counts": counts}, indent=2) + "\n"
        write_file(f"{folder}/summary.json", text.encode())
    return counts


def _build(pipeline, asked, sequences: Sequences | None, folder: str) -> None:
    if sequences is not None:
        files = sequences.files(asked.split)
        read = (
            pipeline
            | "Files" >> beam.Create(files)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadSequences"
            >> beam.ParDo(_ReadSequences(sequences, asked.row_ids, asked.newest))
            .with_outputs(TALLY, FAILED, main="requests")
            .with_output_types(Any)
        )
    else:
        read = (
            pipeline
            | "Lines" >> beam.Create(find_paths(asked.requests, "requests"))
            | beam.io.ReadAllFromText()
            | "ReadLines"
            >> beam.ParDo(_ReadLines())
            .with_outputs(TALLY, FAILED, main="requests")
            .with_output_types(Any)
        )
    ranked = read["requests"] | RankRequests(asked.model, asked.batch_size, asked.behaviors)
    _write(ranked[RANKED], asked, f"{folder}/{RANKED}/part")
    failed = (read[FAILED], ranked[FAILED]) | "AllFailed" >> beam.Flatten()
    (
        failed
        | "AsText" >> beam.Map(json.dumps)
        | "WriteFailed"
        >> beam.io.WriteToText(f"{folder}/{FAILED}/part", ".jsonl", skip_if_empty=True)
    )
    counted = failed | "CountFailed" >> beam.Map(lambda _: {"requests_failed": 1})
    path = f"{folder}/{_TALLY_FILE}"
    (
        (read[TALLY], ranked[TALLY], counted)
        | "AllTallies" >> beam.Flatten()
        | "AddTallies" >> beam.CombineGlobally(AddTallies())
        | "WriteTally" >> beam.Map(lambda tally: write_file(path, json.dumps(tally).encode()))
    )


def _write(rows, asked, path: str) -> None:
    if asked.format == "jsonl":
        rows | "RowsAsText" >> beam.Map(json.dumps) | beam.io.WriteToText(path, ".jsonl")
        return
    names = [name for name in _COLUMNS.names if asked.behaviors or name not in _FOUND]
    schema = pa.schema([_COLUMNS.field(name) for name in names])
    rows | beam.io.WriteToParquet(path, schema, file_name_suffix=".parquet")


def _check(asked) -> None:
    if bool(asked.sequences) == bool(asked.requests):
        raise InputError("Give --sequences or --requests, and not both")
    if asked.split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}. Received: {asked.split!r}")
    if asked.format not in ("parquet", "jsonl"):
        raise InputError(f"--format must be parquet or jsonl. Received: {asked.format!r}")
    if asked.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1. Received: {asked.batch_size}")
    if not 0 <= asked.max_failed_fraction <= 1:
        raise InputError(
            f"--max_failed_fraction must be from 0 to 1. Received: {asked.max_failed_fraction}"
        )
    if not find_paths([f"{asked.model.rstrip('/')}/saved_model.pb"], "model"):
        raise InputError(f"--model {asked.model!r} holds no saved_model.pb")


def _check_counts(counts: dict[str, int], most: float, folder: str) -> None:
    read, ranked, failed = (counts[f"requests_{name}"] for name in ("read", "ranked", "failed"))
    if read != ranked + failed:
        raise RuntimeError(f"Counts do not add up: {json.dumps(counts)}")
    if not read:
        raise InputError("There are no requests to rank")
    if failed > most * read:
        reasons = []
        for path in find_paths([f"{folder}/{FAILED}/*"], "failed")[:1]:
            line = json.loads(read_file(path).split(b"\n", 1)[0])
            reasons.append(f"{line['reason']}: {line['request'][:120]}")
        text = f"{failed:,} of {read:,} requests failed; --max_failed_fraction is {most}"
        raise InputError("\n  ".join([text, *reasons]))


def make_parser() -> JobParser:
    """The parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.batch_rank", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add("--split", default="test", help=f"{', '.join(SPLITS)}; default test")
    add("--newest", action="store_true", help="only the newest request of each user")
    add("--requests", nargs="+", metavar="FILE", help="files of JSON lines instead; gzip is fine")
    add("--model", required=True, metavar="FOLDER", help="a version that `tfdare export` wrote")
    add("--row_ids", action="store_true", help="the model was exported with --row_ids")
    add("--batch_size", type=int, default=64, help="requests at once; default 64")
    add(
        "--behaviors",
        action="store_true",
        help="write what search found, too: behavior_index (-1: none) and attention_score",
    )
    add("--format", default="parquet", help="parquet (default) or jsonl")
    add(
        "--max_failed_fraction",
        type=float,
        default=1.0,
        help="share of failed requests beyond "
        "which the run fails and leaves an earlier output in place; default 1: never",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: 0, or 2 with a message on stderr."""

    def action():
        counts = run(argv)
        print(
            f"requests    {counts['requests_read']:,} read, {counts['requests_ranked']:,} "
            f"ranked, {counts['requests_failed']:,} failed; "
            f"{counts.get('candidates_ranked', 0):,} candidates"
        )

    return exit_code(action)


if __name__ == "__main__":
    sys.exit(main())
