"""How a text file is laid out, from its first MiB: delimiter, column names, line ends in quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from beam_jobs.reading.contents import UTF8_MARK
from beam_jobs.reading.formats import Format, header_names, taobao_positions
from beam_jobs.reading.records import field_names
from beam_jobs.reading.text import split_block
from beam_jobs.shared.errors import InputError

HEAD_BYTES = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that are tried, in this order."""
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Layout:
    """How a file is laid out.

    Attributes:
        names: tuple of str or None. Its columns; of JSON the fields of the first records; None
            where the file holds no row.
        delimiter: str. Between the values of a row of text.
        multiline: bool. Whether values in quotes hold line ends.
    """

    names: tuple[str, ...] | None
    delimiter: str = ","
    multiline: bool = False


def layout_of(head: bytes, path: str, form: Format) -> Layout:
    """Finds the layout of a text file.

    Args:
        head: bytes. The first ``HEAD_BYTES`` of the text, or all of it.
        path: str. For messages, and for the columns that it gives.
        form: Format.

    Raises:
        InputError: lines do not end in a line feed, or the file is one JSON array.
    """
    head = head.removeprefix(UTF8_MARK)
    if not head.strip():
        return Layout(None)
    if b"\n" not in head and b"\r" in head:
        raise InputError(
            f"{path}: its lines end in carriage returns alone. Received: no line feed in the first "
            f"{len(head):,} bytes. Convert it: tr '\\r' '\\n'"
        )
    if len(head) == HEAD_BYTES:  # the last line may be cut
        head = head[: head.rfind(b"\n") + 1] or head
    if form.kind == "jsonl":
        names = tuple(field_names(head))
        if not names and head.lstrip().startswith(b"["):
            raise InputError(
                f"{path} is a JSON array. Received: --format jsonl, which reads a record a line. "
                "Convert it: jq -c '.[]'"
            )
        return Layout(names)
    line = head.partition(b"\n")[0].decode("utf-8", "replace")
    delimiters = (form.delimiter,) if form.delimiter else DELIMITERS
    if not form.header:
        names, width = tuple(taobao_positions()), len(taobao_positions())
        fits = [mark for mark in delimiters if line.count(mark) == width - 1]
        return Layout(names, fits[0] if fits else delimiters[0])
    headers = {mark: tuple(header_names(line, mark)) for mark in delimiters}
    fits = [mark for mark in delimiters if not form.missing([*headers[mark], *partitions(path)])]
    mark = fits[0] if fits else max(delimiters, key=lambda mark: len(headers[mark]))
    return Layout(
        headers[mark], mark, form.kind == "csv" and _is_multiline(head, headers[mark], mark)
    )


def _is_multiline(head: bytes, names: Sequence[str], delimiter: str) -> bool:
    """Returns whether some row of the head spans several lines."""
    if b'"' not in head:
        return False
    rows = head.partition(b"\n")[2]
    block, _ = split_block(rows, {}, len(names), 1, True, delimiter, multiline=True)
    return len(block.line) + len(block.rejected) < block.lines


def partitions(path: str) -> Mapping[str, str | None]:
    """Returns the columns that the folders of a path give: ``dt=2024-01-01`` gives ``dt``."""
    pairs = re.findall(r"(?<=[/\\])([^/\\=]+)=([^/\\]*)(?=[/\\])", f"/{path}")
    return {
        unquote(name): None if value == _NULL_PARTITION else unquote(value) for name, value in pairs
    }
