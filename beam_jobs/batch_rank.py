"""Offline search and score with a SavedModel: ``python -m beam_jobs.batch_rank --help``.

The only job whose workers import TensorFlow; they do so when they load the model.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.ml.inference.base import ModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

import numpy as np
import pyarrow as pa

from beam_jobs.output.publish import staged
from beam_jobs.reading.inputs import find_paths
from beam_jobs.requests.ranked import RankRequest, from_json, from_record, lay_out
from beam_jobs.shared.errors import InputError, exit_code
from beam_jobs.shared.parser import JobParser, check_bounds, parse_job
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file, write_file
from beam_jobs.shared.tallies import TALLY, AddTallies, tagged
from tfdare.schema import STRING, Schema
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.record import context_dtypes, decode, read_records
from tfdare.sequences.requests import TARGET, stack_padded

_EXAMPLE = (
    "python -m beam_jobs.batch_rank --sequences build/sequences --split test "
    "--model build/servables/dare/1 --output build/ranked"
)
_HELP = """\
Ranks the requests of a folder of sequences, or of JSON lines, with an exported model: search and
score in one call, through Beam's RunInference and the loader that TensorFlow Serving uses. Writes
ranked/*.parquet (or .jsonl): user, request, time, items, probabilities, labels where they are
known; requests that could not be ranked go to failed/*.jsonl with the reason. Options of Beam are
passed on (--runner, --direct_num_workers, ...).

A line of JSON holds the signature's inputs for one request, without the batch axis:
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
_BEHAVIORS = ("behavior_index", "attention_score")
_BOUNDS = (("batch_size", 1, math.inf), ("max_failed_fraction", 0, 1))
Answer: TypeAlias = tuple[RankRequest, Any]
"""A request with its outputs by name, or with the reason why it could not be ranked."""


class SavedModelHandler(ModelHandler[RankRequest, Answer, Any]):
    """Runs a SavedModel on batches of requests; gives an ``Answer`` for each.

    Args:
        path: str. A version of a servable: the folder with ``saved_model.pb``.
        most: int. Requests in a batch at most.
    """

    def __init__(self, path: str, most: int):
        super().__init__(min_batch_size=1, max_batch_size=most)
        self._path = path

    def load_model(self):
        """Loads the SavedModel into a session; imports TensorFlow."""
        from tfdare.quiet import quiet as without_chatter

        with without_chatter():
            from tfdare.session import SavedModelSession

            return SavedModelSession(self._path)

    def run_inference(
        self, batch: Sequence[RankRequest], model, inference_args=None
    ) -> list[Answer]:
        """Ranks the requests that fit the signature; the others get the reason why not."""
        specs = {
            name: (
                np.dtype(_NUMPY[info.dtype]),
                tuple(dim.size for dim in info.tensor_shape.dim[1:]),
            )
            for name, info in model.signatures[SIGNATURE].inputs.items()
        }
        ready: list[tuple[int, dict[str, np.ndarray]]] = []
        answers: dict[int, Answer] = {}
        for number, request in enumerate(batch):
            try:
                ready.append((number, lay_out(request, specs)))
            except ValueError as error:
                answers[number] = request, str(error)
        try:
            answers |= self._rank(batch, ready, model)
        except Exception:  # one bad request fails the whole batch: run each alone to find it
            for number, inputs in ready:
                try:
                    answers |= self._rank(batch, [(number, inputs)], model)
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}"[:500]
                    answers[number] = batch[number], reason
        return [answers[number] for number in range(len(batch))]

    def _rank(self, batch, ready, model) -> dict[int, Answer]:
        if not ready:
            return {}
        outputs = model.run(SIGNATURE, stack_padded([inputs for _, inputs in ready]))
        answers: dict[int, Answer] = {}
        for row, (number, inputs) in enumerate(ready):
            candidates = next(v.shape[1] for k, v in inputs.items() if k.startswith(TARGET))
            answers[number] = (
                batch[number],
                {name: values[row, :candidates] for name, values in outputs.items()},
            )
        return answers

    def get_num_bytes(self, batch: Sequence[RankRequest]) -> int:
        """Counts the bytes of the inputs, for Beam's metrics."""
        return sum(
            value.nbytes for request in batch for value in map(np.asarray, request.inputs.values())
        )

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of Beam's metrics."""
        return "tfdare"


_NUMPY = {1: "float32", 3: "int32", 7: "S1", 9: "int64"}
"""NumPy dtypes of the types that signatures take, by their number in ``types.proto``."""


class _ReadSequences(beam.DoFn):
    """Reads the requests of a TFRecord file."""

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
            requests = from_record(record, self._parsed, self._ids, self._newest)
            yield tagged({"requests_read": len(requests)})
            yield from requests


class _ReadLines(beam.DoFn):
    """Reads a request from each line of JSON; lines without one go to ``failed``."""

    def process(self, line: str) -> Iterator[Any]:
        if not line.strip():
            return
        yield tagged({"requests_read": 1})
        try:
            yield from_json(line)
        except ValueError as error:
            yield beam.pvalue.TaggedOutput(FAILED, {"reason": str(error), "request": line})


class _Sort(beam.DoFn):
    """Turns answers into output rows, or failed requests with the reason."""

    def __init__(self, behaviors: bool):
        self._behaviors = behaviors

    def process(self, answer: Answer) -> Iterator[Any]:
        request, outputs = answer
        if isinstance(outputs, str):
            yield beam.pvalue.TaggedOutput(FAILED, {"reason": outputs, "request": request.text()})
            return
        row = {
            "user": request.user,
            "request": request.number,
            "time": request.time,
            "items": request.items,
            "probabilities": outputs["probability"].tolist(),
            "labels": request.labels,
        }
        for name in _BEHAVIORS if self._behaviors else ():
            row[name] = outputs[name].tolist()
        yield tagged({"requests_ranked": 1, "candidates_ranked": len(row["probabilities"])})
        yield row


class RankRequests(beam.PTransform):
    """Requests to rank -> ``ranked`` rows, ``failed`` requests with the reason, ``tally``."""

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
        InputError: an option cannot be used, or too many requests failed. Nothing is published; an
            earlier output stays.
        SchemaError: the folder is not a finished folder of sequences, or hashes a feature whose
            raw ids are needed.
    """
    options, rest = parse_job(make_parser(), argv)
    _check(options)
    sequences = None
    if options.sequences:
        sequences = open_sequences(options.sequences)
        if not options.row_ids:
            RawIds(sequences, exact=True)  # refuses hashed features before anything runs
    progress = Progress()
    with staged(options.output, options.overwrite, [_TALLY_FILE]) as folder:
        progress.say(f"ranking with {options.model}")
        beam_options = PipelineOptions(list(rest))
        with progress.stages(beam_options.view_as(StandardOptions).runner):
            pipeline = beam.Pipeline(options=beam_options)
            _build(pipeline, options, sequences, folder)
            pipeline.run().wait_until_finish()
        counts = {f"requests_{name}": 0 for name in ("read", "ranked", "failed")} | json.loads(
            read_file(f"{folder}/{_TALLY_FILE}")
        )
        _check_counts(counts, options.max_failed_fraction, folder)
        text = json.dumps({"model": options.model, "counts": counts}, indent=2) + "\n"
        write_file(f"{folder}/summary.json", text.encode())
    return counts


def _build(pipeline, options, sequences: Sequences | None, folder: str) -> None:
    if sequences is not None:
        files = sequences.files(options.split)
        read = (
            pipeline
            | "Files" >> beam.Create(files)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadSequences"
            >> beam.ParDo(_ReadSequences(sequences, options.row_ids, options.newest))
            .with_outputs(TALLY, FAILED, main="requests")
            .with_output_types(Any)
        )
    else:
        read = (
            pipeline
            | "Lines" >> beam.Create(find_paths(options.requests, "requests"))
            | beam.io.ReadAllFromText()
            | "ReadLines"
            >> beam.ParDo(_ReadLines())
            .with_outputs(TALLY, FAILED, main="requests")
            .with_output_types(Any)
        )
    ranked = read["requests"] | RankRequests(options.model, options.batch_size, options.behaviors)
    _write(ranked[RANKED], options, f"{folder}/{RANKED}/part", _has_text_items(options))
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


def _has_text_items(options) -> bool:
    """Returns whether the items of the model are text."""
    path = f"{options.model.rstrip('/')}/assets.extra/schema.json"
    if options.row_ids or not FileSystems.exists(path):
        return False
    return Schema.from_json(read_file(path).decode()).item.dtype == STRING


def _write(rows, options, path: str, text_items: bool) -> None:
    if options.format == "jsonl":
        rows | "RowsAsText" >> beam.Map(json.dumps) | beam.io.WriteToText(path, ".jsonl")
        return
    names = [name for name in _COLUMNS.names if options.behaviors or name not in _BEHAVIORS]
    schema = pa.schema([_COLUMNS.field(name) for name in names])
    if text_items:
        index = schema.get_field_index("items")
        schema = schema.set(index, pa.field("items", pa.list_(pa.string())))
    rows | beam.io.WriteToParquet(path, schema, file_name_suffix=".parquet")


def _check(options) -> None:
    if bool(options.sequences) == bool(options.requests):
        raise InputError("Give --sequences or --requests, and not both")
    check_bounds(options, _BOUNDS)
    if not find_paths([f"{options.model.rstrip('/')}/saved_model.pb"], "model"):
        raise InputError(f"--model {options.model!r} holds no saved_model.pb")


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
    """Builds the parser of the job's own options."""
    parser = JobParser("python -m beam_jobs.batch_rank", _EXAMPLE, _HELP)
    add = parser.add_argument
    add("--sequences", metavar="FOLDER", help="folder that `tfdare prepare` wrote")
    add("--split", default="test", choices=SPLITS, help="default test")
    add("--newest", action="store_true", help="only the newest request of each user")
    add("--requests", nargs="+", metavar="FILE", help="files of JSON lines instead; may be gzipped")
    add("--model", required=True, metavar="FOLDER", help="a version that `tfdare export` wrote")
    add("--row_ids", action="store_true", help="the model was exported with --row_ids")
    add("--batch_size", type=int, default=64, help="requests in a batch at most; default 64")
    add(
        "--behaviors",
        action="store_true",
        help="also write the behaviors that search returned: behavior_index (-1: none) and "
        "attention_score",
    )
    add("--format", default="parquet", choices=("parquet", "jsonl"), help="default parquet")
    add(
        "--max_failed_fraction",
        type=float,
        default=1.0,
        help="share of failed requests beyond "
        "which the run fails and leaves an earlier output in place; default 1: never",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit code: 0, or 2 with a message on stderr."""

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
