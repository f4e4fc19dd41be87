"""Event log -> folder of sequences: ``python -m beam_jobs.build_sequences --help``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        StandardOptions,
    )

from beam_jobs.histories.earlier_run import Earlier, open_earlier
from beam_jobs.histories.impressions import IMPRESSIONS, JOINED, JoinImpressions
from beam_jobs.histories.sort import HISTORIES, SortHistories
from beam_jobs.options import Options, parse
from beam_jobs.output import manifest
from beam_jobs.output.publish import FOUND, REFUSED, Finish, Publish, Staging
from beam_jobs.output.write import TALLY_FILE, WriteRejected, WriteSequences, WriteTally
from beam_jobs.reading import inputs
from beam_jobs.reading.bigquery import BIGQUERY, ReadTable, as_files
from beam_jobs.reading.events import EVENTS, LINES, REJECTED, ReadEvents
from beam_jobs.requests.build import RECORDS, BuildRequests
from beam_jobs.shared.errors import exit_code
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file
from beam_jobs.shared.tallies import TALLY
from beam_jobs.vocabulary.learn import LearnVocabularies

_BUCKET_BYTES = 32 << 20
_OF_A_TABLE = 256  # whose size is not known here
_LEAST_BUCKETS, _MOST_BUCKETS = 4, 4096


class BuildSequences(beam.PTransform):
    """Chunks of a log -> all files of a folder of sequences but the schema and the manifest.

    Gives ``found``, the tally and what was learned, and ``refused``, how many rows every file of
    rejected ones holds: when both are there, all is written.
    """

    def __init__(
        self,
        options: Options,
        buckets: int,
        chunks: list[inputs.Chunk],
        folder: str,
        earlier: Earlier | None = None,
    ):
        super().__init__()
        self._options, self._buckets = options, buckets
        self._chunks, self._folder, self._earlier = chunks, folder, earlier

    def expand(self, both):
        """``both`` is the log's chunks, or (the log's chunks, those of impressions)."""
        chunks, shown = both if isinstance(both, tuple) else (both, None)
        asked, folder, buckets = self._options, self._folder, self._buckets
        since = self._earlier if asked.since else None
        before = since.chunks if since else 0
        if asked.form.kind == BIGQUERY:
            table = self._chunks[0].path
            read = chunks.pipeline | ReadTable(table, asked.form, buckets, before)
        else:
            read = chunks | ReadEvents(asked.form, buckets, asked.chunk_bytes, before)
        histories = read[EVENTS] | SortHistories(
            asked.form,
            buckets,
            asked.min_events,
            asked.max_events,
            asked.duplicates == "drop",
            since,
            folder if asked.keep_events else None,
        )
        kept, form = histories[HISTORIES], asked.form
        rejected, lines = [read[REJECTED], histories[REJECTED]], [read[LINES]]
        tallies = [read[TALLY], histories[TALLY]]
        if shown is not None:
            form = asked.impressions_form
            read = shown | "ReadImpressions" >> ReadEvents(
                form, buckets, asked.chunk_bytes, counted_as=IMPRESSIONS
            )
            joined = (kept, read[EVENTS]) | JoinImpressions(form, asked.form, asked.max_events)
            kept = joined[JOINED]
            rejected.append(read[REJECTED])
            lines.append(read[LINES])
            tallies += [read[TALLY], joined[TALLY]]
        refused = (
            rejected
            | "AllRejected" >> beam.Flatten()
            | WriteRejected(folder, self._chunks, lines | "LinesOfAll" >> beam.Flatten())
        )
        learned = kept | LearnVocabularies(
            form,
            asked.protocol,
            asked.min_count,
            buckets,
            folder,
            self._earlier,
            frozen=not asked.since,
            max_size=asked.max_size,
            features=asked.form.features,
            hashed=asked.hash_buckets,
            merge_ram=asked.merge_ram,
        )
        built = kept | BuildRequests(learned, form, asked.protocol, asked.sampling, asked.encoding)
        written = built[RECORDS] | WriteSequences(
            folder, buckets, asked.compression == "gzip", asked.shard_bytes
        )
        found = (
            (*tallies, built[TALLY], written)
            | "AllTallies" >> beam.Flatten()
            | WriteTally(folder, learned)
        )
        return {FOUND: found, REFUSED: refused}


def default_buckets(size: int) -> int:
    """Buckets for a log of ``size`` bytes of text: about 32 MiB of it each."""
    return min(max(-(-size // _BUCKET_BYTES), _LEAST_BUCKETS), _MOST_BUCKETS)


def open_base(asked: Options) -> Earlier | None:
    """The earlier folder that a run builds on, if it is asked to.

    Raises:
        InputError: it cannot be built on.
    """
    names = (*asked.form.features, *asked.context_form.context)
    same: dict[str, Any] = dict.fromkeys(("multi_hot", "context", "numeric", "hash_buckets"))
    if asked.since:
        same |= {
            "time_gap": None,
            "max_events": None,
            "max_size": None,
            "negative_alpha": None,
            "negatives_from": None,
            "session_gap": None,
            "coarse_clock": None,
            "impressions": None,
            "format": asked.form.kind,
            "columns": {name: list(found) for name, found in asked.form.columns.items()},
            **asked.split,
        }
        return open_earlier(asked.since, "since", same, names, events=True)
    if asked.vocabulary_from:
        same = {name: asked.split.get(name) for name in same}
        return open_earlier(asked.vocabulary_from, "vocabulary_from", same, names, events=False)
    return None


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job and returns its manifest.

    Raises:
        InputError: the log or an option cannot be used. No output is left, an earlier one stays.
    """
    return build(parse(argv, _prog()))


def build(asked: Options) -> dict[str, Any]:
    """The same as :func:`run`, from options that are parsed already."""
    started = time.time()
    progress = Progress()
    staging = Staging(asked.output, asked.overwrite)
    earlier = open_base(asked)
    if asked.form.kind == BIGQUERY:
        files, chunks = as_files(asked.input)
    else:
        files = inputs.find_files(asked.input, asked.form)
        chunks = inputs.plan(files, asked.form, asked.chunk_bytes)
    shown: list[inputs.Chunk] = []
    if asked.impressions:
        more = inputs.find_files(asked.impressions, asked.impressions_form, "impressions")
        shown = inputs.plan(more, asked.impressions_form, asked.chunk_bytes, chunks)
        files = [*files, *more]
    buckets = asked.buckets or (
        _OF_A_TABLE if asked.form.kind == BIGQUERY else default_buckets(inputs.text_size(files))
    )
    if asked.since:
        buckets = earlier.buckets
    progress.say(
        f"reading {len(files)} file{'s' * (len(files) > 1)}, "
        f"{sum(file.size for file in files) / 1e6:,.1f} MB, {buckets} buckets"
    )
    before = earlier.chunks if asked.since else 0
    finish = Finish(asked, tuple(files), buckets, before + len(chunks), staging, started)
    options = PipelineOptions(list(asked.beam))
    template = options.view_as(GoogleCloudOptions).template_location
    try:
        if not template:
            staging.check()
        with progress.stages(options.view_as(StandardOptions).runner):
            pipeline = beam.Pipeline(options=options)
            source = pipeline | "Chunks" >> beam.Create(chunks)
            if shown:
                source = (source, pipeline | "ChunksOfImpressions" >> beam.Create(shown))
            built = source | "BuildSequences" >> BuildSequences(
                asked, buckets, [*chunks, *shown], staging.folder, earlier
            )
            if template:  # this process only hands the graph over: workers publish
                built | "Publish" >> Publish(finish)
                pipeline.run()
                progress.say(f"template written to {template}")
                return {}
            pipeline.run().wait_until_finish()
        made = finish(json.loads(read_file(f"{staging.folder}/{TALLY_FILE}")))
        progress.say("published")
    finally:
        if not template:
            staging.remove()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: 0, or 2 with a message on stderr."""

    def action():
        asked = parse(argv, _prog())
        if made := build(asked):
            print(manifest.summary(made, asked.output))

    return exit_code(action)


def _prog() -> str:
    called = os.path.basename(sys.argv[0])
    return "tfdare prepare" if called == "tfdare" else "python -m beam_jobs.build_sequences"


if __name__ == "__main__":
    sys.exit(main())
