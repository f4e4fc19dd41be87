"""Formats of logs: the columns of published logs, and a column mapping for any other table."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from beam_jobs.reading.clocks import Clock
from beam_jobs.reading.values import LARGEST_FLOAT
from beam_jobs.shared.errors import InputError
from tfdare.schema import FIRST_ID, CategoricalContext, Feature, NumericContext, SchemaError

FILES = ("csv", "parquet", "avro", "jsonl")
OWN_NAMES = (*FILES, "bigquery")
"""Formats whose columns the user names; the others have fixed columns."""
FORMATS = ("taobao", "tmall", *OWN_NAMES)
HOUR, DAY = "hour_of_day", "day_of_week"
"""Sources of context that are derived from the time of the request, in UTC."""

_TAOBAO = ("user", "item", "category", "behavior", "time")
_TMALL = {
    "user": "user_id",
    "item": "item_id",
    "category": "cat_id",
    "seller": "seller_id",
    "brand": "brand_id",
    "time": "time_stamp",
    "behavior": "action_type",
}
_OWN = {
    "user": ("user",),
    "item": ("item",),
    "category": ("category",),
    "time": ("time", "timestamp"),
}
_ROLES = ("user", "time", "behavior", "label", "request", "weight")


@dataclass(frozen=True)
class Format:
    """How the rows of a log are to be read.

    Attributes:
        kind: str. One of ``FORMATS``.
        columns: mapping of name to the accepted names of its column, best first. Names are
            ``user``, ``time``, ``behavior`` (may be missing), every feature, in the order of the
            schema, and every context feature that has a column; ``weight`` (may be missing). Of
            impressions also ``label`` and ``request`` (may be missing).
        header: bool. Whether a text file starts with a line of names.
        optional: frozenset. Features that a row may leave empty.
        behaviors: tuple or None. Behaviors to keep; None keeps every row.
        known_behaviors: tuple or None. All that the format defines; rows of others are bad.
        multi_hot: mapping of feature to the number of values that are kept per row.
        context: mapping of categorical context feature to its source: a column, ``HOUR``, ``DAY``.
        numeric: mapping of numeric context feature to its column.
        delimiter: str or None. Between the values of a row of text; None: found by the header.
        clock: Clock. Of the times.
        text_ids: frozenset. Features and categorical context whose ids are text.
        hashed_text: frozenset. Those of them that have no vocabulary: their ids are hashed to rows.
        weights: mapping of event type, a value of ``behavior``, to its weight; others weigh 1.
    """

    kind: str
    columns: Mapping[str, tuple[str, ...]]
    header: bool
    optional: frozenset = frozenset()
    behaviors: tuple[str, ...] | None = None
    known_behaviors: tuple[str, ...] | None = None
    multi_hot: Mapping[str, int] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    numeric: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    clock: Clock = field(default_factory=Clock)
    text_ids: frozenset[str] = frozenset()
    hashed_text: frozenset[str] = frozenset()
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the columns that hold ids: the features, then categorical context."""
        return tuple(name for name in self.values if name not in self.numeric)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, the item first."""
        others = (*_ROLES, *self.context, *self.numeric)
        return tuple(name for name in self.columns if name not in others)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the columns that hold features or context, the item first."""
        return tuple(name for name in self.columns if name not in _ROLES)

    @property
    def keeps_behavior(self) -> bool:
        """Whether rows of several behavior types are kept."""
        return "behavior" in self.columns and (self.behaviors is None or len(self.behaviors) > 1)

    @property
    def weighted(self) -> bool:
        """Whether events, or impressions, have weights."""
        return "weight" in self.columns or bool(self.weights)

    @property
    def settings(self) -> dict[str, Any]:
        """Kind and columns, as the manifest records them."""
        columns = {name: list(accepted) for name, accepted in self.columns.items()}
        return {"format": self.kind, "columns": columns}

    def find(self, header: Sequence[str], path: str) -> dict[str, int]:
        """Finds the position of every column in ``header``, the column names of ``path``.

        Raises:
            InputError: a column is missing, or occurs twice.
        """
        if missing := self.missing(header):
            option = "impressions_columns" if "label" in self.columns else "columns"
            hint = (
                f"Name yours with --{option}, for example --{option} user=uid,item=iid,time=ts; "
                "--dry_run proposes them."
                if self.kind in OWN_NAMES
                else f"Is this --format {self.kind}?"
            )
            raise InputError(
                f"{path}: missing columns: {', '.join(missing)}. "
                f"Found: {shorten(', '.join(header), 500, placeholder=' ...')}. {hint}"
            )
        positions = {}
        for name, accepted in self.columns.items():
            column = next(column for column in accepted if column in header)
            if list(header).count(column) > 1:
                raise InputError(f"{path}: column {column!r} is there twice: {list(header)}")
            positions[name] = list(header).index(column)
        return positions

    def missing(self, header: Sequence[str]) -> list[str]:
        """Returns the columns that ``header`` lacks, as messages name them."""
        every = self.columns.values()
        return [" or ".join(accepted) for accepted in every if not set(accepted) & set(header)]


def make_format(
    kind: str, columns: str | None, behavior: str | None, weights: Sequence[str] = ()
) -> Format:
    """Makes the format, one of ``FORMATS``, from its command-line options.

    Raises:
        InputError: an option does not fit the format.
    """
    behaviors = tuple(part.strip() for part in behavior.split(",")) if behavior else None
    if behaviors and not all(behaviors):
        raise InputError(f"--behavior must be names with commas between. Received: {behavior!r}")
    if kind in OWN_NAMES:
        mapping, of_types = _mapping(columns), _weights_of_types(weights, behaviors)
        if behaviors is None and not of_types:
            mapping.pop("behavior", None)
        elif "behavior" not in mapping:
            mapping["behavior"] = ("behavior",)
        return Format(kind, mapping, header=kind == "csv", behaviors=behaviors, weights=of_types)
    if columns:
        raise InputError(
            f"--columns is for {', '.join(OWN_NAMES)}; --format {kind} has fixed columns"
        )
    if kind == "taobao":
        mapping = {name: (name,) for name in _TAOBAO}
        known, default = ("pv", "buy", "cart", "fav"), "pv"
    else:
        mapping = {name: (column,) for name, column in _TMALL.items()}
        known, default = ("0", "1", "2", "3"), "0"
    unknown = sorted(set(behaviors or ()) - set(known))
    if unknown:
        raise InputError(
            f"--behavior of --format {kind} must be among {', '.join(known)}. "
            f"Received: {', '.join(unknown)}"
        )
    behaviors = behaviors or (default,)
    return Format(
        kind,
        mapping,
        header=kind == "tmall",
        optional=frozenset(("seller", "brand")) if kind == "tmall" else frozenset(),
        behaviors=behaviors,
        known_behaviors=known,
        weights=_weights_of_types(weights, behaviors, known),
    )


def _weights_of_types(
    parts: Sequence[str], behaviors: Sequence[str] | None, known: Sequence[str] = ()
) -> dict[str, float]:
    """Parses ``--weights``: the weights of event types by name."""
    weights = {}
    for name, text in pairs("weights", parts).items():
        if behaviors is not None and name not in behaviors:
            more = f", {name} with --behavior {','.join((*behaviors, name))}" * (name in known)
            raise InputError(
                f"--weights: {name!r} is no event type that is kept. Kept: "
                f"{', '.join(behaviors)}{more}"
            )
        try:
            weights[name] = float(text)
        except ValueError:
            weights[name] = math.nan
        if not 0 <= weights[name] <= LARGEST_FLOAT:
            raise InputError(
                f"--weights must be type=weight, a finite number from 0. Received: {name}={text}"
            )
    return weights


def make_impressions_format(kind: str, columns: str | None, log: Format) -> Format:
    """Makes the format of labelled impressions, one of ``FILES``, from its command-line options.

    Raises:
        InputError: an option does not fit.
    """
    own = {"user": ("user",), "item": ("item",), "time": ("time", "timestamp"), "label": ("label",)}
    mapping = _mapping(columns, own)
    item = log.features[0]
    strange = [name for name in mapping if name not in (*_ROLES, *log.features)]
    if strange or "behavior" in mapping or item not in mapping:
        raise InputError(
            f"--impressions_columns names user, {item}, time, label, request, weight, and other "
            f"features of the log ({', '.join(log.features[1:])}). Received: {columns!r}"
        )
    multi_hot = {name: size for name, size in log.multi_hot.items() if name in mapping}
    others = frozenset(mapping) - {item, *_ROLES}
    return Format(kind, mapping, header=kind == "csv", optional=others, multi_hot=multi_hot)


def with_context(
    form: Format,
    multi_hot: Sequence[str] = (),
    context: Sequence[str] = (),
    numeric: Sequence[str] = (),
) -> Format:
    """Adds features of several values, and context, to a format, from ``name=value`` options.

    Raises:
        InputError: an option is malformed, repeats a name, or does not fit the format.
    """
    most_values = {}
    for name, size in pairs("multi_hot", multi_hot).items():
        if name not in form.features[1:]:
            raise InputError(
                f"--multi_hot: {name!r} is no feature beside the item. Name its column with "
                f"--columns {name}=...; features: {', '.join(form.features)}"
            )
        if not (size.isascii() and size.isdigit() and 2 <= int(size) < 2**15):
            raise InputError(f"--multi_hot must be name=values, 2 or more. Received: {name}={size}")
        most_values[name] = int(size)
    sources, numbers = pairs("context", context), pairs("numeric", numeric)
    columns = dict(form.columns)
    for option, names, kind in (
        ("context", sources, lambda name: CategoricalContext(name, FIRST_ID)),
        ("numeric", numbers, NumericContext),
    ):
        for name, source in names.items():
            try:
                kind(name)
            except SchemaError as error:
                raise InputError(f"--{option}: {error}") from error
            if name in columns or name in _ROLES or (option == "numeric" and name in sources):
                raise InputError(f"--{option}: the name {name!r} is taken by another column")
            if option == "numeric" or source not in (HOUR, DAY):
                columns[name] = (source,)
    derived = sorted(name for name, source in sources.items() if source in (HOUR, DAY))
    if form.kind not in OWN_NAMES and (most_values or len(columns) > len(form.columns)):
        raise InputError(
            f"--multi_hot, --numeric and columns of --context are for {', '.join(OWN_NAMES)}; "
            f"--format {form.kind} has fixed columns"
        )
    if form.kind == "tmall" and derived:
        raise InputError(
            f"--context: the days of --format tmall have no {HOUR} or {DAY}. "
            f"Received: {', '.join(derived)}"
        )
    return dataclasses.replace(
        form,
        columns=columns,
        optional=form.optional | (set(sources) & set(columns)),
        multi_hot={**form.multi_hot, **most_values},
        context=sources,
        numeric=numbers,
    )


def with_text_ids(form: Format, names: Iterable[str], hashed: Iterable[str] = ()) -> Format:
    """Sets which features and context of a format have text ids, of those that it has.

    Args:
        form: Format.
        names: iterable of str. Features and categorical context.
        hashed: iterable of str. Those that are hashed to rows.
    """
    text_ids = frozenset(names) & frozenset(form.ids)
    return dataclasses.replace(form, text_ids=text_ids, hashed_text=text_ids & frozenset(hashed))


def parse_delimiter(text: str) -> str:
    """Parses the value of ``--delimiter``: a character, ``tab``, or an escape such as ``\\x01``.

    Raises:
        InputError: it is not one ASCII character that can part values.
    """
    mark = "\t" if text in ("tab", r"\t") else text
    if code := re.fullmatch(r"\\x([0-7][0-9a-fA-F])", text):
        mark = chr(int(code[1], 16))
    if len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in '"\r\n\0.-':
        raise InputError(
            "--delimiter must be one character other than letters, digits, quotes, . and -, or "
            f"tab. Received: {text!r}"
        )
    return mark


def taobao_positions() -> dict[str, int]:
    """Returns the positions of the columns in a Taobao log, which has no header."""
    return {name: position for position, name in enumerate(_TAOBAO)}


def header_names(line: str, delimiter: str = ",") -> list[str]:
    """Reads the column names in the first line of a csv file."""
    try:
        (names,) = csv.reader([line.rstrip("\r\n")], delimiter=delimiter)
    except (csv.Error, ValueError):
        return [line]
    return [name.strip() for name in names]


def _mapping(
    columns: str | None, default: Mapping[str, tuple[str, ...]] = _OWN
) -> dict[str, tuple[str, ...]]:
    mapping = dict(default)
    for part in (columns or "").split(","):
        if not part.strip():
            continue
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise InputError(f"--columns must be name=column pairs. Received: {part!r}")
        if not column:
            if name != "category":
                raise InputError(f"--columns: {name!r} needs a column. Received: {part!r}")
            mapping.pop(name, None)
            continue
        if name not in _ROLES:
            try:
                Feature(name, FIRST_ID)
            except SchemaError as error:
                raise InputError(f"--columns: {error}") from error
        mapping[name] = (column,)
    return mapping


def pairs(option: str, parts: Sequence[str]) -> dict[str, str]:
    """Splits the ``name=value`` parts of an option.

    Raises:
        InputError: a part is malformed, or a name repeats.
    """
    values: dict[str, str] = {}
    for part in parts:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not name or not value:
            raise InputError(f"--{option} must be name=value pairs. Received: {part!r}")
        if name in values:
            raise InputError(f"--{option}: {name!r} is there twice. Received: {' '.join(parts)}")
        values[name] = value
    return values
