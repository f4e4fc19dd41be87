"""``--dry_run``: what a run would understand of the start of its input; nothing is written."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from beam_jobs.options import DRY_RUN_ROWS, Options, make_parser, with_files
from beam_jobs.reading.bigquery import BIGQUERY
from beam_jobs.reading.contents import COMPRESSED
from beam_jobs.reading.first_rows import EXAMPLES, most_common
from beam_jobs.reading.formats import FILES, Format, make_format, parse_delimiter
from beam_jobs.reading.inputs import Chunk, InputFile, blocks, find_files, read_layout
from beam_jobs.reading.layout import DELIMITERS, Layout, partitions
from beam_jobs.reading.proposals import (
    IMPRESSIONS,
    LOG,
    NEEDED,
    columns_option,
    format_of,
    propose_columns,
)
from beam_jobs.reading.rows import Rejected, to_events
from beam_jobs.reading.text import Block
from beam_jobs.reading.typed import cell_text
from beam_jobs.reading.values import as_bytes
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.progress import labeled
from tfdare.text import text_table, time_text

_BLOCK_BYTES = 1 << 20
_FILES_SHOWN = 5
_VALUE_LENGTH = 30
_MARKS = dict(zip(DELIMITERS, ("commas", "semicolons", "tabs", "vertical bars")))


@dataclass(frozen=True)
class Source:
    """The log or the impressions, before it is read.

    Attributes:
        option: str. ``input`` or ``impressions``.
        files: list of InputFile.
        first: InputFile. The first that is not blank.
        kind: str. One of ``formats.FORMATS``.
        layout: Layout. Of the first file.
        columns: mapping of role to column, by their names; None where columns are given or fixed.
    """

    option: str
    files: list[InputFile]
    first: InputFile
    kind: str
    layout: Layout
    columns: Mapping[str, str] | None

    @property
    def missing(self) -> list[str]:
        """What is needed and no column's name tells."""
        return self._unknown(NEEDED if self.option == "input" else (*NEEDED, "label"))

    @property
    def left_out(self) -> list[str]:
        """What is not needed and no column's name tells."""
        return self._unknown(("category", "behavior") if self.option == "input" else ("request",))

    def _unknown(self, roles: Sequence[str]) -> list[str]:
        return [role for role in roles if self.columns is not None and role not in self.columns]


@dataclass
class RowSummary:
    """What the first rows hold.

    Attributes:
        read, filtered: int. Rows read, and those of other behaviors.
        rejected: list of (path, Rejected). The line is that of the file.
        behaviors: Counter. Rows by event type.
        users, items: set. Of the rows that can be used; items are codes where their ids are text.
        times: list of int64 ``[E]``.
    """

    read: int = 0
    filtered: int = 0
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)
    behaviors: collections.Counter[str] = field(default_factory=collections.Counter)
    users: set[str] = field(default_factory=set)
    items: set[int] = field(default_factory=set)
    times: list[np.ndarray] = field(default_factory=list)


def take_rows(argv: Sequence[str], prog: str) -> tuple[int, list[str]]:
    """Takes ``--dry_run`` and ``--rows`` from a command line; returns the rows, and the rest.

    Raises:
        InputError: ``--rows`` is below 1.
    """
    usage = "%(prog)s --dry_run [--rows N] --input LOG [LOG ...] [options]"
    front = argparse.ArgumentParser(prog, usage, add_help=False, allow_abbrev=False)
    front.add_argument("--dry_run", action="store_true")
    front.add_argument("--rows", type=int, default=DRY_RUN_ROWS)
    args, rest = front.parse_known_args(argv)
    if args.rows < 1:
        raise InputError(f"--rows must be at least 1. Received: {args.rows}")
    return args.rows, rest


def propose(argv: Sequence[str], prog: str) -> tuple[list[Source], list[str]]:
    """Finds the files of a command line, and tells options that it lacks from their content.

    Returns:
        The log, and the impressions where there are any; and arguments to add to the command line.

    Raises:
        InputError: a file cannot be read, or an option does not fit.
    """
    args = _parse_incomplete(argv, prog)
    if args.format == BIGQUERY:
        raise InputError("--dry_run reads files alone. Received: --format bigquery")
    kind = args.format or format_of(args.input)
    added = [] if args.format else ["--format", kind]
    log = _find_source("input", args.input, kind, args, LOG, args.columns)
    if text := columns_option(log.columns or {}, LOG[:-1]) if log.columns is not None else "":
        added += ["--columns", text]
    sources = [log]
    if args.impressions:
        default = kind if kind in FILES else "csv"
        kind = args.impressions_format or format_of(args.impressions, "impressions")
        kind = kind if kind in FILES else "csv"
        if not args.impressions_format and kind != default:
            added += ["--impressions_format", kind]
        columns = args.impressions_columns
        shown = _find_source("impressions", args.impressions, kind, args, IMPRESSIONS, columns)
        if text := columns_option(shown.columns or {}, IMPRESSIONS):
            added += ["--impressions_columns", text]
        sources.append(shown)
    return sources, added if args.output else [*added, "--output", "sequences"]


def check_columns(sources: Sequence[Source]) -> None:
    """Checks that all needed columns are known.

    Raises:
        InputError: a column is known neither by an option nor by its name; with all columns.
    """
    for source in sources:
        if source.missing:
            option = "columns" if source.option == "input" else "impressions_columns"
            text = ",".join(f"{role}=COLUMN" for role in source.missing)
            columns = _describe_columns(source, source.columns or {})
            raise InputError(
                f"No column's name tells which holds {', '.join(source.missing)}. "
                f"Name it: --{option} {text}\n\n{_describe_files(source)}\n\n{columns}"
            )


def with_behavior(options: Options, log: Source) -> Options:
    """Adds the column of event types to those that are read, where its name tells it."""
    column = (log.columns or {}).get("behavior")
    if column is None or "behavior" in options.form.columns:
        return options
    form = dataclasses.replace(
        options.form, columns={**options.form.columns, "behavior": (column,)}
    )
    return dataclasses.replace(options, form=form)


def describe(
    source: Source, form: Format, chunks: Sequence[Chunk], rows: int, most_rejected: float
) -> str:
    """Describes what a run would understand of the log or the impressions.

    Args:
        source: Source.
        form: Format. As the run has it, with its clock.
        chunks: sequence of Chunk. They may have a column ``behavior`` that ``form`` lacks.
        rows: int. Rows to read at most.
        most_rejected: float. Share of rejected rows beyond which a run fails.

    Raises:
        InputError: a file is damaged.
    """
    names = [*(source.layout.names or ()), *partitions(source.first.path)]
    taken: dict[str, str] = {}
    for name, accepted in form.columns.items():
        column = next((column for column in accepted if column in names), accepted[0])
        taken[name] = column
    if (source.columns or {}).get("behavior") and "behavior" not in taken:
        taken["behavior"] = (source.columns or {})["behavior"]
    parts = [_describe_files(source), _describe_columns(source, taken)]
    if source.left_out:
        parts.append(f"  No column's name tells {' and '.join(source.left_out)}: left out")
    summary = read_rows(chunks, form, rows)
    return "\n\n".join([*parts, "\n".join(_describe_rows(summary, form, most_rejected))])


def command_line(prog: str, argv: Sequence[str], added: Sequence[str]) -> str:
    """Writes the command that a dry run stands for."""
    return f"Run it:\n  {shlex.join([*prog.split(), *argv, *added])}"


def read_rows(chunks: Sequence[Chunk], form: Format, rows: int) -> RowSummary:
    """Reads the first rows of chunks.

    Args:
        chunks: sequence of Chunk. Of those that have a column ``behavior``, its values are counted.
        form: Format.
        rows: int. Rows at most.

    Raises:
        InputError: a file is damaged.
    """
    summary = RowSummary()
    before: collections.Counter[str] = collections.Counter()  # lines of each file
    for chunk in itertools.chain.from_iterable(map(_split, chunks)):
        lines = 0
        for block in blocks(chunk, form, _BLOCK_BYTES):
            left = rows - summary.read
            if left <= 0:
                return summary
            block = _first_rows(block, left)
            events, odd, tally = to_events(block.columns, block.line, block.text_of, form)
            summary.read += tally["rows_read"] + len(block.rejected)
            summary.filtered += tally["rows_filtered"]
            for row in sorted([*block.rejected, *odd], key=lambda row: row.line):
                line = before[chunk.path] + row.line
                summary.rejected.append((chunk.path, dataclasses.replace(row, line=line)))
            summary.users.update(events.user.unique().to_pylist())
            summary.items.update(np.unique(events.columns[form.features[0]]).tolist())
            summary.times.append(events.columns["time"])
            if "behavior" in block.columns:
                for entry in as_bytes(block.columns["behavior"]).value_counts().to_pylist():
                    name = entry["values"].decode("utf-8", "replace")
                    summary.behaviors[name] += entry["counts"]
            lines += block.lines
        before[chunk.path] += lines
    return summary


def _first_rows(block: Block, rows: int) -> Block:
    """Returns the first rows of a block, without blank lines."""
    rejected = [row for row in block.rejected if row.row.strip()]
    line = np.sort(np.append(block.line, [row.line for row in rejected]))
    last = line[rows - 1] if len(line) > rows else np.inf
    count = int(np.searchsorted(block.line, last, "right"))
    return dataclasses.replace(
        block,
        columns={name: column[:count] for name, column in block.columns.items()},
        line=block.line[:count],
        rejected=[row for row in rejected if row.line <= last],
    )


def _parse_incomplete(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parses a command line that may lack required options."""
    parser = make_parser(prog)
    arguments = with_files(argv, parser)
    for action in parser._actions:
        action.required = action.dest == "input"
    return parser.parse_known_args(arguments)[0]


def _find_source(
    option: str,
    patterns: Sequence[str],
    kind: str,
    args: argparse.Namespace,
    roles: Sequence[str],
    given: str | None,
) -> Source:
    if kind in FILES:
        delimiter = args.delimiter and parse_delimiter(args.delimiter)
        # no header has a column without a name: the delimiter is the one that parts most
        form = Format(kind, {"": ()}, header=kind == "csv", delimiter=delimiter)
    else:
        form = make_format(kind, None, None)
    files = find_files(patterns, form, option)
    layouts = ((file, read_layout(file, form)) for file in files)
    first, layout = next((pair for pair in layouts if pair[1].names is not None), (None, None))
    if first is None or layout is None:
        raise InputError(f"No rows in {', '.join(patterns)}: every file is blank")
    columns = None
    if kind in FILES and given is None:
        columns = propose_columns([*(layout.names or ()), *partitions(first.path)], roles)
    return Source(option, files, first, kind, layout, columns)


def _describe_files(source: Source) -> str:
    count, size = len(source.files), sum(file.size for file in source.files) / 1e6
    shown = ", ".join(file.path for file in source.files[:_FILES_SHOWN])
    text = source.kind
    if source.kind in ("csv", "taobao", "tmall"):
        mark = source.layout.delimiter
        text += f", values parted by {_MARKS.get(mark, repr(mark))}"
    if kinds := sorted({file.kind for file in source.files} & set(COMPRESSED)):
        text += f", compressed with {', '.join(kinds)}"
    return "\n".join(
        [
            labeled(source.option, f"{shown}{', ...' * (count > _FILES_SHOWN)}"),
            labeled("files", f"{count:,}, {size:,.1f} MB"),
            labeled("format", text),
        ]
    )


def _describe_columns(source: Source, taken: Mapping[str, str]) -> str:
    """Describes all columns; ``taken`` maps what a run reads to its column."""
    rows = [("column", "taken for", "first values")]
    for column, values in _first_values(source).items():
        names = [name for name, taken_column in taken.items() if taken_column == column]
        if "label" in names and source.option == "input":
            names = ["- (a label? what was shown is given with --impressions)"]
        rows.append((column, ", ".join(names) or "-", ", ".join(values)))
    return text_table(rows, "<")


def _first_values(source: Source) -> dict[str, list[str]]:
    """Returns the first values of every column, as text."""
    names, file = source.layout.names or (), source.first
    by_name = source.kind in ("parquet", "avro", "jsonl")
    chunk = Chunk(
        0,
        0,
        file.path,
        file.kind,
        start=0,
        stop={"text": min(file.size, _BLOCK_BYTES), "parquet": 1}.get(file.kind, 0),
        fields=tuple((name, name if by_name else index) for index, name in enumerate(names)),
        width=len(names),
        delimiter=source.layout.delimiter,
        multiline=source.layout.multiline,
    )
    form = Format(source.kind, {}, header=source.kind in ("csv", "tmall"))
    values: dict[str, list[str]] = {name: [] for name in names}
    for block in itertools.islice(blocks(chunk, form, _BLOCK_BYTES), 1):
        for name, column in block.columns.items():
            values[name] = [
                " ".join(cell_text(value).split())[:_VALUE_LENGTH] for value in column[:EXAMPLES]
            ]
    folder = partitions(file.path).items()
    return values | {name: [value or ""] for name, value in folder if name not in names}


def _describe_rows(summary: RowSummary, form: Format, most_rejected: float) -> Iterator[str]:
    counts = f"{summary.read:,} read, {len(summary.rejected):,} rejected"
    if summary.filtered:
        counts += f", {summary.filtered:,} of other event types"
    yield labeled(
        "first rows", f"{counts}; {len(summary.users):,} users, {len(summary.items):,} items"
    )
    if len(summary.rejected) > most_rejected * summary.read:
        text = f"more than --max_rejected_fraction {most_rejected:g}: a run of such rows would fail"
        yield labeled("  rejected", text)
    for line in most_common(collections.Counter(row.reason for _, row in summary.rejected)):
        yield labeled("  rejected", line)
    for path, row in summary.rejected[:EXAMPLES]:
        yield labeled("  such as", f"{path}:{row.line}: {row.reason}: {row.row[:120]}")
    if form.text_ids:
        yield labeled("text ids", ", ".join(sorted(form.text_ids)))
    if summary.behaviors:
        types = ", ".join(f"{name} {count:,}" for name, count in summary.behaviors.most_common(10))
        kept = f"kept: {', '.join(form.behaviors)}" if form.behaviors else "all are kept"
        yield labeled("event types", f"{types}; {kept} (--behavior)")
    times = np.concatenate([np.zeros(0, np.int64), *summary.times])
    if len(times):
        least, most = (time_text(int(time), form.clock.unit) for time in (times.min(), times.max()))
        how = " by their range (--time_unit)" if form.clock.by_range else ""
        yield labeled("times", f"{form.clock.name}{how}, {least} to {most}")


def _split(chunk: Chunk) -> Iterator[Chunk]:
    """Splits a chunk of plain text, which is read at once, into small ones."""
    if chunk.kind != "text" or not chunk.stop:
        yield chunk
        return
    for start in range(chunk.start, chunk.stop, _BLOCK_BYTES):
        stop = min(start + _BLOCK_BYTES, chunk.stop)
        yield dataclasses.replace(chunk, start=start, stop=stop)
