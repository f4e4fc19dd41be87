"""Event log -> folder of sequences: ``python -m beam_jobs.build_sequences --help``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        StandardOptions,
    )

from beam_jobs import dry_run
from beam_jobs.cooccurrence.count import PairCounter
from beam_jobs.cooccurrence.given import check_given
from beam_jobs.cooccurrence.learn import LearnVectors
from beam_jobs.histories.earlier_run import EVENTS_FOLDER, TEXTS_FILE, Earlier, open_earlier
from beam_jobs.histories.impressions import IMPRESSIONS, JOINED, JoinImpressions
from beam_jobs.histories.sort import HISTORIES, SortHistories
from beam_jobs.options import DATES, REJECTED_FRACTION, Options, parse
from beam_jobs.output import manifest
from beam_jobs.output.manifest import TIME_UNIT
from beam_jobs.output.publish import REJECTED_COUNTS, RESULTS, Finish, Publish, Staging
from beam_jobs.output.write import TALLY_FILE, WriteRejected, WriteSequences, WriteTally
from beam_jobs.reading import inputs
from beam_jobs.reading.bigquery import BIGQUERY, ReadTable, as_files
from beam_jobs.reading.clocks import AUTO, UNITS, Clock, clock_of
from beam_jobs.reading.events import EVENTS, LINES, REJECTED, TEXTS, ReadEvents
from beam_jobs.reading.first_rows import check_first_rows, find_text_ids, read_first_rows
from beam_jobs.reading.formats import with_text_ids
from beam_jobs.reading.text_ids import WriteTexts
from beam_jobs.requests.build import CELLS, FACTS, RECORDS, BuildRequests
from beam_jobs.shared.errors import InputError, exit_code, printable
from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file
from beam_jobs.shared.tallies import TALLY
from beam_jobs.vocabulary.learn import LearnVocabularies
from tfdare.sequences.vectors import VECTORS_FOLDER

_BUCKET_BYTES = 32 << 20
_TABLE_BUCKETS = 256  # for a table, whose size is unknown
_LEAST_BUCKETS, _MOST_BUCKETS = 4, 4096


class BuildSequences(beam.PTransform):
    """Chunks of a log -> all files of a folder of sequences except the schema and the manifest.

    Outputs ``results``, the tally and the description of the vocabularies, and
    ``rejected_counts``, the number of rows in every file of rejected rows. All files are written
    once both are complete.

    Args:
        options: Options.
        buckets: int. Buckets of users.
        chunks: list of Chunk. All of them, those of impressions included.
        folder: str. Where the files are written.
        earlier: Earlier or None. The earlier folder that the run builds on.
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

    def expand(self, sources):
        """Builds the graph; ``sources`` is the log's chunks, or (those, impressions' chunks)."""
        chunks, impressions = sources if isinstance(sources, tuple) else (sources, None)
        options, folder, buckets = self._options, self._folder, self._buckets
        form = options.form
        text_ids = options.text_ids
        since = self._earlier if options.since else None
        before = since.chunks if since else 0
        if form.kind == BIGQUERY:
            table = self._chunks[0].path
            read = chunks.pipeline | ReadTable(table, form, buckets, before)
        else:
            read = chunks | ReadEvents(form, buckets, options.chunk_bytes, before)
        every = [read]
        if impressions is not None:
            every.append(
                impressions
                | "ReadImpressions"
                >> ReadEvents(
                    options.impressions_form, buckets, options.chunk_bytes, tally_prefix=IMPRESSIONS
                )
            )
        texts = None
        if text_ids:
            path = (
                f"{folder}/{EVENTS_FOLDER}/{TEXTS_FILE}"
                if options.keep_events
                else (f"{folder}/{TEXTS_FILE}")
            )
            texts = (
                [part[TEXTS] for part in every]
                | "AllTexts" >> beam.Flatten()
                | WriteTexts(path, since.texts_file if since else None)
            )
        sort = read[EVENTS] | SortHistories(
            form,
            buckets,
            options.min_events,
            options.max_events,
            options.duplicates == "drop",
            since,
            folder if options.keep_events else None,
            texts,
        )
        histories = sort[HISTORIES]
        rejected = [*(part[REJECTED] for part in every), sort[REJECTED]]
        tallies = [*(part[TALLY] for part in every), sort[TALLY]]
        lines = [part[LINES] for part in every]
        if impressions is not None:
            join = (histories, every[1][EVENTS]) | JoinImpressions(
                options.impressions_form, form, options.max_events
            )
            histories = join[JOINED]
            tallies.append(join[TALLY])
        rejected_counts = (
            rejected
            | "AllRejected" >> beam.Flatten()
            | WriteRejected(folder, self._chunks, lines | "LinesOfAll" >> beam.Flatten())
        )
        learned = histories | LearnVocabularies(
            options.context_form,
            options.protocol,
            options.min_count,
            buckets,
            folder,
            self._earlier,
            frozen=not options.since,
            max_size=options.max_size,
            features=form.features,
            hashed=options.hash_buckets,
            merge_ram=options.merge_ram,
            text_ids=text_ids,
            texts=texts,
        )
        counter = None
        if options.vectors.features:
            counter = PairCounter(options.vectors, buckets, form.features[0])
        requests = histories | BuildRequests(
            learned,
            options.context_form,
            options.protocol,
            options.sampling,
            options.encoding,
            counter=counter,
        )
        vectors = None
        if counter:
            vectors = (requests[CELLS], requests[FACTS]) | LearnVectors(
                counter, folder, f"{VECTORS_FOLDER}/", folder
            )
        written = requests[RECORDS] | WriteSequences(
            folder, buckets, options.compression == "gzip", options.shard_bytes
        )
        results = (
            (*tallies, requests[TALLY], written)
            | "AllTallies" >> beam.Flatten()
            | WriteTally(folder, learned, vectors)
        )
        return {RESULTS: results, REJECTED_COUNTS: rejected_counts}


def default_buckets(size: int) -> int:
    """Returns the number of buckets for ``size`` bytes of text: one per 32 MiB, from 4 to 4096."""
    return min(max(-(-size // _BUCKET_BYTES), _LEAST_BUCKETS), _MOST_BUCKETS)


def open_base(options: Options) -> Earlier | None:
    """Opens the earlier folder that a run builds on; returns None if there is none.

    Raises:
        InputError: the run cannot build on it.
    """
    names = (*options.form.features, *options.context_form.context)
    if options.since:
        # the dates move from day to day, text ids are taken over
        moving = (*DATES, "text_ids")
        split = {name: value for name, value in options.split.items() if name not in moving}
        settings = {**options.optional_settings, **options.form.settings, **split}
        settings.pop("text_ids")
        return open_earlier(options.since, "since", settings, names, events=True)
    if options.vocabulary_from:
        features = ("multi_hot", "context", "numeric", "hash_buckets")
        settings = {name: options.optional_settings[name] for name in features}
        return open_earlier(
            options.vocabulary_from, "vocabulary_from", settings, names, events=False
        )
    return None


def set_text_ids(
    options: Options,
    chunks: Sequence[inputs.Chunk],
    impressions: Sequence[inputs.Chunk] = (),
    earlier: Earlier | None = None,
) -> Options:
    """Sets which ids are text: those of ``--text_ids``, of the earlier run, or by the first rows.

    Raises:
        InputError: ``--text_ids`` names others than the earlier run has.
    """
    form, shown = options.form, options.impressions_form
    most = max(options.max_rejected_fraction, REJECTED_FRACTION)
    if earlier:
        text_ids = earlier.text_ids
        if options.text_ids and options.text_ids != text_ids:
            raise InputError(
                f"--text_ids is {' '.join(sorted(options.text_ids))}, but the ids that are text in "
                f"{earlier.folder!r} are: {', '.join(sorted(text_ids)) or 'none'}"
            )
    else:
        text_ids = options.text_ids
        if form.kind != BIGQUERY:
            text_ids |= find_text_ids(chunks, form, most)
        if shown:
            others = frozenset(shown.ids) - frozenset(form.ids)
            text_ids |= find_text_ids(impressions, shown, most) & others
    hashed = options.hash_buckets
    return dataclasses.replace(
        options,
        form=with_text_ids(form, text_ids, hashed),
        impressions_form=shown and with_text_ids(shown, text_ids, hashed),
        vectors=dataclasses.replace(options.vectors, text_ids=text_ids),
    )


def set_clock(
    options: Options,
    chunks: Sequence[inputs.Chunk],
    impressions: Sequence[inputs.Chunk] = (),
    earlier: Earlier | None = None,
) -> Options:
    """Reads the first rows, and sets the clock of the log unless ``--time_unit`` gives it.

    Raises:
        InputError: none of the rows can be read, or the clocks of log, impressions and earlier run
            have different units.
    """
    form, shown = options.form, options.impressions_form
    check, by_range = options.max_rejected_fraction < 1, options.time_unit == AUTO
    units = {}
    if form.kind != BIGQUERY:
        first = read_first_rows(chunks, form)
        if check:
            check_first_rows(first, "row")
        if by_range:
            form = dataclasses.replace(form, clock=clock_of(first.times))
    if form.clock.known:
        units["--input"] = form.clock.name
    if shown:  # its dates and typed times are converted to the unit of the log
        shown = dataclasses.replace(shown, clock=Clock(form.clock.unit))
        first = read_first_rows(impressions, shown)
        if check:
            check_first_rows(first, "impression")
        if by_range and len(first.times):
            units["--impressions"] = clock_of(first.times).name
        shown = dataclasses.replace(shown, clock=form.clock)
    if options.since and earlier and TIME_UNIT in earlier.manifest["options"]:
        units[f"--since {earlier.folder!r}"] = earlier.manifest["options"][TIME_UNIT]
    if len(set(units.values())) > 1:
        text = ", ".join(f"{unit} in {option}" for option, unit in units.items())
        raise InputError(
            f"Times must be of one unit. Received: {text}"
            f"{', by the range of the first times' if by_range else ''}. Convert one of them, or "
            f"give --time_unit ({', '.join(UNITS)}) if the range misleads"
        )
    return dataclasses.replace(options, form=form, impressions_form=shown)


@dataclass(frozen=True)
class Plan:
    """What a run is about to read.

    Attributes:
        options: Options. With the clock of the log.
        files: list of InputFile. Of the log, then of the impressions.
        chunks, impressions: list of Chunk.
        earlier: Earlier or None. The earlier folder that the run builds on.
    """

    options: Options
    files: list[inputs.InputFile]
    chunks: list[inputs.Chunk]
    impressions: list[inputs.Chunk]
    earlier: Earlier | None


def make_plan(options: Options, check: bool = True) -> Plan:
    """Finds what a run reads, and reads the first rows.

    Args:
        options: Options.
        check: bool. Whether some of the first rows must be usable. Defaults to True.

    Raises:
        InputError: the run cannot build on the earlier folder, or a file cannot be read.
    """
    earlier = open_base(options)
    if options.form.kind == BIGQUERY:
        files, chunks = as_files(options.input)
    else:
        files = inputs.find_files(options.input, options.form)
        chunks = inputs.plan(files, options.form, options.chunk_bytes)
    impressions: list[inputs.Chunk] = []
    if options.impressions_form:
        more = inputs.find_files(options.impressions, options.impressions_form, "impressions")
        impressions = inputs.plan(more, options.impressions_form, options.chunk_bytes, chunks)
        files = [*files, *more]
    options = set_text_ids(options, chunks, impressions, earlier)
    if not check:
        options = dataclasses.replace(options, max_rejected_fraction=1)
    options = set_clock(options, chunks, impressions, earlier).with_dates()
    return Plan(options, files, chunks, impressions, earlier)


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job and returns its manifest.

    Raises:
        InputError: the log or an option cannot be used. Nothing is published; an earlier output
            stays.
        SystemExit: argparse refused an option, or ``--help`` was given.
    """
    return build(parse(argv, _prog()))


def build(options: Options) -> dict[str, Any]:
    """Runs the job with parsed options; see :func:`run`."""
    started = time.time()
    progress = Progress()
    staging = Staging(options.output, options.overwrite)
    plan = make_plan(options)
    options, files, chunks = plan.options, plan.files, plan.chunks
    for name, path in options.vectors.given.items():
        check_given(path, name, name in options.text_ids)
    impressions, earlier = plan.impressions, plan.earlier
    buckets = options.buckets or (
        _TABLE_BUCKETS
        if options.form.kind == BIGQUERY
        else default_buckets(inputs.text_size(files))
    )
    before = 0
    if options.since and earlier:
        buckets, before = earlier.buckets, earlier.chunks
    clock = options.form.clock
    progress.say(
        f"reading {len(files)} file{'s' * (len(files) > 1)}, "
        f"{sum(file.size for file in files) / 1e6:,.1f} MB, {buckets} buckets"
        + f", times in {clock.name} by their range (--time_unit)"
        * bool(clock.by_range and clock.unit)
        + f", text ids: {', '.join(sorted(options.text_ids))}" * bool(options.text_ids)
    )
    finish = Finish(options, tuple(files), buckets, before + len(chunks), staging, started)
    beam_options = PipelineOptions(list(options.beam))
    template = beam_options.view_as(GoogleCloudOptions).template_location
    try:
        if not template:
            staging.check()
        with progress.stages(beam_options.view_as(StandardOptions).runner):
            pipeline = beam.Pipeline(options=beam_options)
            source = pipeline | "Chunks" >> beam.Create(chunks)
            if impressions:
                source = (source, pipeline | "ChunksOfImpressions" >> beam.Create(impressions))
            outputs = source | "BuildSequences" >> BuildSequences(
                options, buckets, [*chunks, *impressions], staging.folder, earlier
            )
            if template:  # this process only stores the graph; a worker publishes
                outputs | "Publish" >> Publish(finish)
                pipeline.run()
                progress.say(f"template written to {template}")
                return {}
            pipeline.run().wait_until_finish()
        content = finish(json.loads(read_file(f"{staging.folder}/{TALLY_FILE}")))
        progress.say("published")
    finally:
        if not template:
            staging.remove()
    return content


def show(argv: Sequence[str], prog: str) -> None:
    """Prints what a run would understand of the start of its input, and the command for it.

    Raises:
        InputError: the input or an option cannot be used.
    """
    rows, argv = dry_run.take_rows(argv, prog)
    sources, added = dry_run.propose(argv, prog)
    dry_run.check_columns(sources)
    options = parse([*argv, *added], prog)
    plan = make_plan(dry_run.with_behavior(options, sources[0]), check=False)
    log = dataclasses.replace(plan.options.form, columns=options.form.columns)
    parts = [(log, plan.chunks)]
    if plan.options.impressions_form:
        parts.append((plan.options.impressions_form, plan.impressions))
    for source, (form, chunks) in zip(sources, parts):
        text = dry_run.describe(source, form, chunks, rows, options.max_rejected_fraction)
        print(printable(text), end="\n\n")
    print(dry_run.command_line(prog, argv, added))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 with a message on stderr."""

    def action():
        arguments = sys.argv[1:] if argv is None else list(argv)
        if "--dry_run" in arguments and not {"-h", "--help"} & set(arguments):
            show(arguments, _prog())
            return
        options = parse(arguments, _prog())
        if content := build(options):
            print(manifest.summary(content, options.output))

    return exit_code(action)


def _prog() -> str:
    name = os.path.basename(sys.argv[0])
    return "tfdare prepare" if name == "tfdare" else "python -m beam_jobs.build_sequences"


if __name__ == "__main__":
    sys.exit(main())
