"""The command line of ``build_sequences``: its options, their bounds, and how they fit together."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from apache_beam.io.filesystems import FileSystems

from beam_jobs.config_file import CONFIG_FILE, as_arguments, config_text, read_config
from beam_jobs.cooccurrence.options import VectorOptions, add_vector_options, parse_vectors
from beam_jobs.histories import splits
from beam_jobs.reading.clocks import AUTO, UNITS, Clock, ticks_of, time_or_date
from beam_jobs.reading.formats import (
    DAY,
    FILES,
    FORMATS,
    HOUR,
    OWN_NAMES,
    Format,
    make_format,
    make_impressions_format,
    pairs,
    parse_delimiter,
    with_context,
    with_text_ids,
)
from beam_jobs.reading.inputs import CHUNK_BYTES
from beam_jobs.reading.proposals import format_of
from beam_jobs.requests.negatives import CATALOG, CATEGORY, ORIGINS, SESSION, Sampling
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.parser import JobParser, check_bounds, parse_job
from tfdare.schema import ENCODINGS, FIRST_ID, PACKED, SchemaError, TimeGap

MAX_EVENTS = 100_000
REJECTED_FRACTION = 0.1
DRY_RUN_ROWS = 10_000
BEAMS_DRY_RUN = "--dry_run="
"""With a value, ``--dry_run`` is Beam's: Dataflow builds the graph and submits no job."""
_NOT_IN_FILES = ("config", "dry_run", "rows")
_OF_ONE_RUN = ("input", "impressions", "since", "vocabulary_from", "buckets", "keep_events")
"""Options that a run with ``--since`` does not take from the earlier one."""
_Add: TypeAlias = Callable[..., Any]
"""``add_argument`` of a group of options."""
_EXAMPLE = "{prog} --input UserBehavior.csv --format taobao --output sequences"
_HELP = """\
Turns an event log into a folder of sequences: every user's events sorted by time, and the
requests cut from them for train, validation and test. Open it with tfdare.sequences, train on it
with tfdare.data. Options of Beam are passed on (--runner, --direct_num_workers, --project, ...).
"""
_EPILOG = """\
A first look, which proposes the options for a log:
  %(prog)s --dry_run --input events.csv
The next day's log, with the options of the day before:
  %(prog)s --since yesterday --input today.csv --output today
A log with other column names, and a clock of whole hours:
  %(prog)s --input checkins.csv.gz --format csv --columns item=venue,time=timestamp \\
      --split last_fraction --duplicates keep --output sequences
Tags of items; price, city and hour of the request; the time since each behavior:
  %(prog)s ... --columns item=iid,tags=tag_ids --multi_hot tags=5 --numeric price=price \\
      --context hour=hour_of_day city=city_id --time_gap 60
All cores of this machine:
  %(prog)s ... --direct_num_workers=0 --direct_running_mode=multi_processing

Each line is a row, except that values in quotes may hold line ends. Blank lines and empty files are
skipped, and so are names that start with _ or . in a folder. Bad rows and repeated rows are left
out of the sequences and listed, with file, line and reason, in OUTPUT/rejected/*.jsonl. Time may be
any integer that grows, a date, a timestamp or ISO 8601 text (--time_unit). With tmall, a row
without seller or brand is kept, and that feature is out of vocabulary; so is an empty value of
--context. OUTPUT appears only when it is complete; on a remote file system, where a folder cannot
be renamed, its _SUCCESS is written last.
"""


_PROTOCOL_HELP = {
    "train_targets": "training targets of a user at most",
    "train_stride": "events from one training target to the next",
    "test_fraction": "share of a user's events that is test",
    "min_test": "test events of a user at least",
    "max_test": "test events of a user at most",
    "train_start": "position of a user's first training target",
    "validation_from": "time at which validation starts: a date or time (2024-03-08, ISO 8601, UTC "
    "without a zone), or a number by the clock of the log; for by_time",
    "test_from": "time at which test starts, the same way; for by_time",
}
DATES = ("validation_from", "test_from")
"""Options that take a date."""
_LARGEST = 2**31 - 1
_BOUNDS = (  # option, least, most
    ("train_targets", 0, math.inf),
    ("train_start", 1, math.inf),
    ("train_stride", 1, math.inf),
    ("test_fraction", 0, 1),
    ("min_test", 1, math.inf),
    ("max_test", 1, math.inf),
    ("min_events", 2, _LARGEST),
    ("max_events", 2, _LARGEST),
    ("window", 1, _LARGEST),
    ("negatives", 0, _LARGEST),
    ("negative_alpha", 0, 1),
    ("session_gap", 0, _LARGEST),
    ("gap", 0, _LARGEST),
    ("max_candidates", 1, _LARGEST),
    ("seed", 0, _LARGEST),
    ("min_count", 1, _LARGEST),
    ("max_rejected_fraction", 0, 1),
    ("max_short_fraction", 0, 1),
    ("buckets", 1, 99_999),
    ("shard_bytes", 1, _LARGEST),
    ("chunk_bytes", 1, 1 << 30),
)


@dataclass(frozen=True)
class Options:
    """Checked options of a run.

    Beam's options are in ``beam``, the text of the file that repeats the run in ``config``.
    """

    input: tuple[str, ...]
    output: str
    form: Format
    protocol: splits.Protocol
    min_events: int
    max_events: int
    window: int
    sampling: Sampling
    min_count: int
    max_size: Mapping[str, int]
    hash_buckets: Mapping[str, int]
    max_rejected_fraction: float
    max_short_fraction: float
    time_unit: str
    duplicates: str
    buckets: int | None
    overwrite: bool
    chunk_bytes: int
    time_gap: TimeGap | None = None
    since: str | None = None
    vocabulary_from: str | None = None
    keep_events: bool = False
    compression: str = "none"
    encoding: str = PACKED
    shard_bytes: int | None = None
    merge_ram: str | None = None
    vectors: VectorOptions = field(default_factory=lambda: VectorOptions({}))
    impressions: tuple[str, ...] = ()
    impressions_form: Format | None = None
    dates: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    beam: tuple[str, ...] = ()

    def with_dates(self) -> Options:
        """Converts the dates of the split to times by the clock of the log, once that is known.

        Raises:
            InputError: times of the log have no known unit, or validation starts after test.
        """
        clock = self.form.clock
        if self.dates and clock.by_range and clock.unit is None:
            name, date = next(iter(self.dates.items()))
            raise InputError(
                f"--{name} is a date, but the first times of the log are no times since 1970 in "
                f"any unit. Received: {date}. Give a number by the clock of the log, or --time_unit"
            )
        times: dict[str, Any] = {name: ticks_of(date, clock) for name, date in self.dates.items()}
        protocol = dataclasses.replace(self.protocol, **times)
        _check_times(protocol, self.dates)
        return dataclasses.replace(self, protocol=protocol)

    @property
    def context_form(self) -> Format:
        """The format of the log that carries the context: the impressions, where there are any."""
        return self.impressions_form or self.form

    @property
    def text_ids(self) -> frozenset[str]:
        """Features and categorical context whose ids are text."""
        return self.form.text_ids | self.context_form.text_ids

    @property
    def optional_settings(self) -> dict[str, Any]:
        """Options that decide what the sequences hold, None where they are at their default."""
        sampling = self.sampling
        return {
            "multi_hot": dict(self.form.multi_hot) or None,
            "context": dict(self.context_form.context) or None,
            "numeric": dict(self.context_form.numeric) or None,
            "weights": dict(self.form.weights) or None,
            "coarse_clock": sampling.coarse_clock or None,
            "impressions": True if self.impressions_form else None,
            "negatives_from": sampling.origin if sampling.origin != CATALOG else None,
            "session_gap": sampling.session_gap if sampling.origin == SESSION else None,
            "time_gap": self.time_gap.unit if self.time_gap else None,
            "max_size": dict(self.max_size) or None,
            "hash_buckets": dict(self.hash_buckets) or None,
            "text_ids": sorted(self.text_ids) or None,
            "negative_alpha": sampling.alpha if sampling.alpha != 1 else None,
            "max_events": self.max_events if self.max_events != MAX_EVENTS else None,
        }

    @property
    def split(self) -> dict[str, Any]:
        """Protocol and options for the schema: all that determine the content of the sequences."""
        behaviors, optional = self.form.behaviors, self.optional_settings
        return {
            "protocol": self.protocol.name,
            **splits.options(self.protocol),
            "min_events": self.min_events,
            "negatives": self.sampling.negatives,
            "seed": self.sampling.seed,
            "min_count": self.min_count,
            "duplicates": self.duplicates,
            "behaviors": sorted(behaviors) if behaviors else None,
            **{name: value for name, value in optional.items() if value is not None},
        }


def make_parser(prog: str) -> JobParser:
    """Builds the parser of the job's own options."""
    parser = JobParser(prog, _EXAMPLE.format(prog=prog), _HELP)
    parser.usage = "%(prog)s --input LOG [LOG ...] [--format FORMAT] --output FOLDER [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"options from a YAML file such as the {CONFIG_FILE} that every run writes into its "
        "output; the command line wins over it",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="read the start of the input, show what a run would understand of it, and propose "
        "--format and --columns where they are not given; write nothing",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help=f"with --dry_run: rows to read; default {DRY_RUN_ROWS:,}",
    )
    for group, add_options in _GROUPS:
        add_options(parser.add_argument_group(group).add_argument)
    return parser


def _add_log(add: _Add) -> None:
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="LOG",
        help="files, folders (dt=2024-01-01/ in their paths is a column dt) or patterns; text may "
        "be compressed with gzip, zstd, xz or bz2; with bigquery a table (project:dataset.table) "
        "or a query",
    )
    add("--format", choices=FORMATS, help="format of the log; default: told by the first file")
    add(
        "--columns",
        help=f"for {', '.join(OWN_NAMES)}: name=column pairs for user, item, time, "
        "behavior, weight (sample weight) and any other feature (brand=brand_id); default "
        "user=user,item=item,category=category,time=time or timestamp; category= leaves the "
        "category out",
    )
    add(
        "--delimiter",
        metavar="CHARACTER",
        help="between the values of a row of text, tab for a tab; default: the one of comma, "
        "semicolon, tab and | by which the header has the columns",
    )
    add(
        "--behavior",
        help="behavior types to keep, separated by commas; default taobao pv, tmall 0 (click), "
        "other formats all",
    )
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="TYPE=WEIGHT",
        help="sample weights of requests by the event type of their target: buy=4 cart=2; others "
        "weigh 1; multiplied with the column weight=... of --columns where there is one",
    )
    add(
        "--time_unit",
        default=AUTO,
        choices=(AUTO, *UNITS),
        help="unit of times that are integers; dates and ISO 8601 times are converted to it (UTC "
        "unless they have a zone); auto (default): by the range of the first times, seconds where "
        "that says nothing",
    )
    add(
        "--duplicates",
        default="drop",
        choices=("drop", "keep"),
        help="drop (default) or keep rows equal to an earlier one "
        "in all columns read; keep where the clock is coarse",
    )
    add(
        "--max_rejected_fraction",
        type=float,
        default=REJECTED_FRACTION,
        help="share of rejected rows, repeated ones left out, beyond which the run fails and "
        "leaves an earlier output in place; default 0.1; 1: never",
    )


def _add_features(add: _Add) -> None:
    add(
        "--multi_hot",
        nargs="+",
        default=[],
        metavar="FEATURE=VALUES",
        help="features (named in "
        "--columns) of several ids per row, separated by | or as a list; the first VALUES "
        "are kept",
    )
    add(
        "--text_ids",
        nargs="+",
        default=[],
        metavar="FEATURE",
        help="features, and context, whose ids are text (SKU-0025/b, a UUID, an unsigned 64-bit "
        "hash); those that are no integers in more than a tenth of the first rows, and in more "
        "than --max_rejected_fraction of them, are text by themselves",
    )
    add(
        "--context",
        nargs="+",
        default=[],
        metavar="NAME=SOURCE",
        help=f"categorical features of "
        f"the request: {HOUR} or {DAY} (0 Monday) of its time, UTC, or "
        "a column of ids of the target's row",
    )
    add(
        "--numeric",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="numeric features of the request, from a column of the target's row; empty is unknown",
    )
    add(
        "--time_gap",
        type=int,
        metavar="UNIT",
        help="requests hold the time since each behavior; "
        "gaps shorter than UNIT, by the clock of the log, are not distinguished",
    )


def _add_requests(add: _Add) -> None:
    add(
        "--split",
        default="leave_last",
        choices=list(splits.PROTOCOLS),
        help="how events are split into train, validation and test; default leave_last",
    )
    for name, defaults in _protocol_defaults().items():
        text = ", ".join(f"{protocol} {value}" for protocol, value in defaults.items() if value)
        text = f"{_PROTOCOL_HELP[name]}; default {text}" if text else _PROTOCOL_HELP[name]
        kind = _date if name in DATES else type(next(iter(defaults.values())))
        add(f"--{name}", type=kind, metavar="TIME" if name in DATES else None, help=text)
    add(
        "--min_events",
        type=int,
        help="events a user must have; default leave_last 210, last_fraction 60, by_time 2",
    )
    add(
        "--max_events",
        type=int,
        default=MAX_EVENTS,
        help="newest events of a user that are kept, "
        "so that bots do not exhaust memory; the others are counted; default 100,000",
    )
    add("--window", type=int, default=200, help="behaviors of a request at most; default 200")
    add(
        "--coarse_clock",
        action="store_true",
        help="the order of the log decides which of several "
        "events at the same time came first; without it a request sees only behaviors with a "
        "strictly earlier time. Always on for tmall",
    )


def _add_negatives(add: _Add) -> None:
    add("--negatives", type=int, default=2, help="negatives for each request; default 2")
    add(
        "--negative_alpha",
        type=float,
        default=1.0,
        help="negatives are drawn in proportion to "
        "an item's count to this power; 0: uniformly; default 1",
    )
    add(
        "--negatives_from",
        default=CATALOG,
        choices=ORIGINS,
        help="catalog (default): all items; category: items "
        "of the target's category, then all items once none is left that is new to the user; "
        "session: the other items of the target's session, uniformly, then all items",
    )
    add(
        "--session_gap",
        type=int,
        default=1800,
        help="a pause longer than this ends a session, by the clock of the log; default 1800",
    )
    add("--seed", type=int, default=1, help="seed of the negatives; default 1")
    add(
        "--max_short_fraction",
        type=float,
        default=0.1,
        help="share of requests with fewer than --negatives negatives beyond which the run fails; "
        "default 0.1; 1: never",
    )


def _add_impressions(add: _Add) -> None:
    add(
        "--impressions",
        nargs="+",
        default=[],
        metavar="LOG",
        help="files of labelled "
        "impressions: requests are built from these, and no negatives are drawn; needs "
        "--split by_time. Context is read from them",
    )
    add("--impressions_format", choices=FILES, help="default --format if among these, else csv")
    add(
        "--impressions_columns",
        help="name=column pairs for user, item, time, label, request (an "
        "id that separates requests of the same time), weight (sample weight of a candidate) and "
        "other features of the items; default "
        "user=user,item=item,time=time or timestamp,label=label",
    )
    add(
        "--max_candidates",
        type=int,
        default=100,
        help="with --impressions: a request with more candidates is split; default 100",
    )


def _add_vocabularies(add: _Add) -> None:
    add(
        "--min_count",
        type=int,
        default=1,
        help="training events an id needs to have a row of its own; default 1",
    )
    add(
        "--max_size",
        nargs="+",
        default=[],
        metavar="FEATURE=IDS",
        help="size limit of a feature's "
        "vocabulary: its most frequent ids; the others share the out-of-vocabulary row",
    )
    add(
        "--hash_buckets",
        nargs="+",
        default=[],
        metavar="FEATURE=BUCKETS",
        help="features without "
        "a vocabulary: ids are hashed to BUCKETS rows. With ten times as many buckets as ids "
        "about 1 id in 10 shares its row with another, with as many about 2 in 3; the manifest "
        "holds the expected and the actual share",
    )
    add(
        "--vocabulary_from",
        metavar="FOLDER",
        help="earlier output whose vocabularies are used "
        "unchanged; other ids are out of vocabulary",
    )


def _add_earlier(add: _Add) -> None:
    add(
        "--keep_events",
        action="store_true",
        help="also write all events, so that a later run can add to them with --since",
    )
    add(
        "--since",
        metavar="FOLDER",
        help="earlier output, made with --keep_events, to which --input "
        "is added: its options are taken over, ids keep their rows, new ids are appended; implies "
        "--keep_events",
    )


def _add_files(add: _Add) -> None:
    add(
        "--compression",
        default="none",
        choices=("none", "gzip"),
        help="compression of the TFRecord files; default none",
    )
    add(
        "--encoding",
        default=PACKED,
        choices=ENCODINGS,
        help="packed (default): a record's arrays as bytes, fast; "
        "lists: as int64 and float lists, for any reader of tf.train.Example",
    )
    add(
        "--shard_bytes",
        type=int,
        help="approximate size of a TFRecord file before gzip; "
        "default one file per bucket and split",
    )
    add(
        "--buckets",
        type=int,
        help="groups of users, and shards of each split; default by the size of the log",
    )
    add(
        "--merge_ram",
        metavar="SIZE",
        help="memory that the worker which merges the vocabularies "
        "needs, such as 16GB, as a resource hint to the runner; default none",
    )
    add(
        "--chunk_bytes",
        type=int,
        default=CHUNK_BYTES,
        help="bytes of text that a worker reads at once; default 64 MiB",
    )


_GROUPS: tuple[tuple[str, Callable[[_Add], None]], ...] = (
    ("log", _add_log),
    ("features", _add_features),
    ("split and requests", _add_requests),
    ("negatives", _add_negatives),
    ("impressions", _add_impressions),
    ("vocabularies", _add_vocabularies),
    ("adding to an earlier output", _add_earlier),
    ("vectors", add_vector_options),
    ("files and workers", _add_files),
)


def parse(argv: Sequence[str] | None, prog: str) -> Options:
    """Reads and checks the options of a command line.

    Raises:
        InputError: an option is unknown or does not fit.
        SystemExit: ``--help`` was given, or argparse refused an option.
    """
    parser = make_parser(prog)
    argv = sys.argv[1:] if argv is None else argv
    for_beam = [part for part in argv if part.startswith(BEAMS_DRY_RUN)]
    others = [part for part in argv if not part.startswith(BEAMS_DRY_RUN)]
    args, beam = parse_job(parser, with_files(others, parser))
    if args.rows is not None or args.dry_run:
        raise InputError("--rows needs --dry_run, which is for the command line alone")
    args.format = args.format or format_of(args.input)
    check_bounds(args, _BOUNDS)
    protocol = _protocol(args)
    config = config_text(args, parser, (*_NOT_IN_FILES, "output", "overwrite"))
    args.min_events = args.min_events or protocol.min_events
    _check_together(args)
    form, impressions_form = _formats(args, protocol)
    features = (*form.features, *(impressions_form or form).context)
    if unknown := sorted(set(args.text_ids) - set(features)):
        raise InputError(
            f"--text_ids: {', '.join(unknown)} not among the features {', '.join(features)}"
        )
    form = with_text_ids(form, args.text_ids)
    impressions_form = impressions_form and with_text_ids(impressions_form, args.text_ids)
    for name in ("max_size", "hash_buckets"):
        setattr(args, name, _sizes(name, getattr(args, name), features))
    if both := sorted(args.max_size.keys() & args.hash_buckets.keys()):
        raise InputError(
            f"--hash_buckets leaves no vocabulary for --max_size to limit: {', '.join(both)}"
        )
    try:
        time_gap = None if args.time_gap is None else TimeGap(unit=args.time_gap)
    except SchemaError as error:
        raise InputError(f"--time_gap: {error}") from error
    names = [field.name for field in dataclasses.fields(Options) if field.name in args]
    return Options(
        **{name: getattr(args, name) for name in names}
        | {
            "input": tuple(args.input),
            "output": args.output.rstrip("/") or args.output,
            "form": form,
            "protocol": protocol,
            "sampling": Sampling(
                negatives=0 if args.impressions else args.negatives,
                seed=args.seed,
                alpha=args.negative_alpha,
                origin=args.negatives_from,
                session_gap=args.session_gap,
                coarse_clock=args.coarse_clock or form.kind == "tmall",
                max_candidates=args.max_candidates,
            ),
            "time_gap": time_gap,
            "vectors": VectorOptions(
                parse_vectors(
                    args.vectors, [name for name in form.features if name not in form.multi_hot]
                ),
                args.coarse_clock or form.kind == "tmall",
                args.gap,
                args.hash_buckets,
            ),
            "since": args.since and (args.since.rstrip("/") or args.since),
            "vocabulary_from": args.vocabulary_from and args.vocabulary_from.rstrip("/"),
            "impressions": tuple(args.impressions),
            "impressions_form": impressions_form,
            "keep_events": args.keep_events or bool(args.since),
            "dates": _dates(args),
            "config": config,
            "beam": (*beam, *for_beam),
        }
    )


def with_files(argv: Sequence[str], parser: JobParser) -> list[str]:
    """Puts options of files before those of a command line, which win: first those of the earlier
    output that ``--since`` names, then those of ``--config``.

    Raises:
        InputError: a file cannot be read, or its options do not fit.
    """
    front = argparse.ArgumentParser(parser.prog, parser.usage, add_help=False, allow_abbrev=False)
    for name in ("config", "since", "split"):
        front.add_argument(f"--{name}")
    front.add_argument("--impressions", nargs="+")
    config: list[str] = []
    if path := front.parse_known_args(argv)[0].config:
        config = as_arguments(read_config(path), path, parser, _NOT_IN_FILES)
    args, _ = front.parse_known_args([*config, *argv])
    return [*_of_earlier(args, parser), *config, *argv]


def _of_earlier(args: argparse.Namespace, parser: JobParser) -> list[str]:
    """Returns the options of the run that ``--since`` goes on from, as arguments.

    There are none if its version wrote no file of them, or there is no such run.

    Raises:
        InputError: it had impressions, which must be given anew.
    """
    path = f"{args.since}/{CONFIG_FILE}"
    try:
        if not args.since or not FileSystems.exists(path):
            return []
    except Exception:  # each file system raises its own kind; opening the folder says why
        return []
    values = read_config(path)
    if "impressions" in values and not args.impressions:
        raise InputError(
            f"--since {args.since!r} was made with --impressions. Give those to add, too: "
            "--impressions LOG"
        )
    left_out = set(_OF_ONE_RUN)
    if args.split not in (None, values.get("split")):  # the message shall name the split alone
        left_out.update(_protocol_defaults())
    values = {name: value for name, value in values.items() if name not in left_out}
    return as_arguments(values, path, parser, _NOT_IN_FILES)


def _check_together(args: argparse.Namespace) -> None:
    if args.max_events < args.min_events:
        raise InputError(
            f"--max_events must be at least {args.min_events}. Received: {args.max_events}"
        )
    if args.merge_ram is not None and not re.fullmatch(r"[0-9]+ *[KMGT]i?B", args.merge_ram):
        raise InputError(f"--merge_ram must be a size such as 16GB. Received: {args.merge_ram!r}")
    if args.since and args.vocabulary_from:
        raise InputError("--since has the vocabularies of its folder: leave --vocabulary_from out")
    if args.since and args.buckets:
        raise InputError("--since has as many buckets as its folder: leave --buckets out")


def _formats(args: argparse.Namespace, protocol: splits.Protocol) -> tuple[Format, Format | None]:
    """Returns the formats of the log and of the impressions, None where there are none."""
    delimiter = args.delimiter and parse_delimiter(args.delimiter)
    form, impressions = make_format(args.format, args.columns, args.behavior, args.weights), None
    clock = _clock(args)
    form = dataclasses.replace(form, delimiter=delimiter, clock=clock)
    if args.impressions:
        if not isinstance(protocol, splits.ByTime):
            raise InputError(f"--impressions needs --split by_time. Received: --split {args.split}")
        if form.weighted:
            raise InputError(
                "--weights and weight=... of --columns weigh events as targets. With --impressions "
                "name a column of these instead: --impressions_columns weight=..."
            )
        form = with_context(form, args.multi_hot)
        default = args.format if args.format in FILES else "csv"
        impressions = make_impressions_format(
            args.impressions_format or default, args.impressions_columns, form
        )
        impressions = with_context(impressions, (), args.context, args.numeric)
        impressions = dataclasses.replace(impressions, delimiter=delimiter, clock=clock)
    else:
        for name in ("impressions_format", "impressions_columns"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} needs --impressions")
        form = with_context(form, args.multi_hot, args.context, args.numeric)
    if args.negatives_from == CATEGORY and (
        len(form.features) < 2 or form.features[1] in form.multi_hot
    ):
        raise InputError(
            "--negatives_from category needs a second feature of one value, the category. "
            f"Features: {', '.join(form.features)}"
        )
    return form, impressions


def _sizes(option: str, parts: Sequence[str], features: Sequence[str]) -> dict[str, int]:
    sizes = {}
    for name, size in pairs(option, parts).items():
        if name not in features:
            raise InputError(f"--{option}: no feature {name!r} among {', '.join(features)}")
        if not (size.isascii() and size.isdigit() and 0 < int(size) < 2**31 - FIRST_ID):
            raise InputError(f"--{option} must be name=ids, 1 or more. Received: {name}={size}")
        sizes[name] = int(size)
    return sizes


def _protocol_defaults() -> dict[str, dict[str, Any]]:
    """Returns the defaults of the protocols' options, by option and protocol."""
    defaults: dict[str, dict[str, Any]] = {}
    for name, protocol in splits.PROTOCOLS.items():
        for option, value in splits.options(protocol()).items():
            defaults.setdefault(option, {})[name] = value
    return defaults


def _protocol(args: argparse.Namespace) -> splits.Protocol:
    values = {}
    for option, defaults in _protocol_defaults().items():
        if (value := getattr(args, option)) is None:
            continue
        if args.split not in defaults:
            owners = ", ".join(defaults)
            raise InputError(f"--{option} belongs to --split {owners}, not {args.split}")
        values[option] = ticks_of(value, _clock(args)) if option in DATES else value
    protocol = splits.PROTOCOLS[args.split](**values)
    if len(_dates(args)) != 1:  # a date and a number are compared once the clock is known
        _check_times(protocol, _dates(args))
    if isinstance(protocol, splits.LastFraction):
        if protocol.test_fraction == 1:
            raise InputError("--test_fraction must be below 1. Received: 1.0")
        if protocol.max_test < protocol.min_test:
            raise InputError(
                f"--max_test must be at least --min_test, {protocol.min_test}. "
                f"Received: {protocol.max_test}"
            )
    return protocol


def _check_times(protocol: splits.Protocol, dates: Mapping[str, str]) -> None:
    if isinstance(protocol, splits.ByTime) and not (
        0 < protocol.validation_from < protocol.test_from
    ):
        received = " and ".join(str(dates.get(name, getattr(protocol, name))) for name in DATES)
        raise InputError(
            "--split by_time needs --validation_from and a later --test_from, as dates or by the "
            f"clock of the log. Received: {received}"
        )


def _dates(args: argparse.Namespace) -> dict[str, str]:
    """Returns the times of the split that were given as dates."""
    values = {name: getattr(args, name) for name in DATES}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _date(text: str) -> int | str:
    try:
        return time_or_date(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be a date or time such as 2024-03-08 or 2024-03-08T12:00Z, or a number by the "
            f"clock of the log. Received: {text!r}"
        ) from None


def _clock(args: argparse.Namespace) -> Clock:
    return Clock(None if args.time_unit == AUTO else args.time_unit)
