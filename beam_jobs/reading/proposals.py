"""Proposes how to read a log: its format by content, and its columns by their names.

Names are compared without case and punctuation, so ``userId``, ``USER_ID`` and ``user id`` are one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from beam_jobs.reading.contents import TEXT, TYPED, UTF8_MARK, head_of
from beam_jobs.reading.formats import header_names, make_format
from beam_jobs.reading.inputs import find_paths
from beam_jobs.reading.layout import DELIMITERS
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import open_file

ALIASES: Mapping[str, str] = {
    "user": "user userid uid visitorid memberid customerid accountid clientid deviceid",
    "item": "item itemid iid sku skuid product productid article articleid news newsid "
    "video videoid movie movieid song songid track trackid book bookid venue venueid poi poiid "
    "asin",
    "time": "time timestamp ts eventtime eventtimestamp createdat unixtime unixtimestamp datetime "
    "date timems timestampms",
    "behavior": "behavior behaviour behaviortype behaviourtype event eventtype eventname action "
    "actiontype type",
    "category": "category categoryid cat catid cate cateid",
    "label": "label click clicked isclick isclicked",
    "request": "request requestid impressionid pageviewid",
}
"""Names of columns by what they hold, the likeliest first."""
LOG = ("user", "item", "time", "behavior", "category", "label")
"""What a log may hold; of a label it only says that it looks like one."""
IMPRESSIONS = ("user", "item", "time", "label", "request")
NEEDED = ("user", "item", "time")
_DEFAULTS = {"time": ("time", "timestamp")}
_TAOBAO = re.compile(rb"\w+([,;\t|])\w+\1\w+\1(pv|buy|cart|fav)\1\w+")


def format_of(patterns: Sequence[str], option: str = "input") -> str:
    """Tells the format of a log by its first file that is not empty.

    Args:
        patterns: sequence of str. Files, folders or patterns of these.
        option: str. The option that messages name.

    Raises:
        InputError: there is no such file, or it is of no format.
    """
    for path in find_paths(patterns, option):
        with open_file(path) as file:
            kind, head = head_of(file, path)
        if kind in TYPED:
            return kind
        if kind != TEXT:
            raise InputError(
                f"{path} cannot be read: it is {kind}. --{option} takes text (csv, JSON lines), "
                "Parquet or Avro"
            )
        if line := head.removeprefix(UTF8_MARK).strip().partition(b"\n")[0].strip():
            return _text_format(line)
    raise InputError(f"--{option} {' '.join(patterns)}: every file is empty (0 bytes)")


def _text_format(line: bytes) -> str:
    """Tells the format of text by its first line."""
    if line.startswith((b"{", b"[")):
        return "jsonl"
    if _TAOBAO.fullmatch(line):
        return "taobao"
    text = line.decode("utf-8", "replace")
    tmall = make_format("tmall", None, None)
    if any(not tmall.missing(header_names(text, mark)) for mark in DELIMITERS):
        return "tmall"
    return "csv"


def propose_columns(names: Sequence[str], roles: Sequence[str]) -> dict[str, str]:
    """Finds the columns that hold what a log needs, by their names.

    Args:
        names: sequence of str. Of all columns; a field of a record is ``record.field``.
        roles: sequence of str. What is looked for, names of ``ALIASES``.

    Returns:
        Mapping of role to column, without those that no name tells.
    """
    columns: dict[str, str] = {}
    free = [
        name
        for name in names
        if "," not in name
        and name == name.strip()
        and not any(other.startswith(f"{name}.") for other in names)  # a record of fields
    ]
    for role in roles:
        for whole in (True, False):  # the field of a record only where no whole name fits
            keys = {_key(name if whole else name.rpartition(".")[2]): name for name in free[::-1]}
            if column := next((keys[key] for key in ALIASES[role].split() if key in keys), None):
                columns[role] = column
                free.remove(column)
                break
    return columns


def columns_option(columns: Mapping[str, str], roles: Sequence[str]) -> str:
    """Writes the value of ``--columns`` or ``--impressions_columns``; empty if defaults say it.

    Args:
        columns: mapping of role to column, as :func:`propose_columns` gives it.
        roles: sequence of str. Those that the option takes.
    """
    parts = [
        f"{role}={columns[role]}"
        for role in roles
        if role in columns and columns[role] not in _DEFAULTS.get(role, (role,))
    ]
    if "category" in roles and "category" not in columns:
        parts.append("category=")
    return ",".join(parts)


def _key(name: str) -> str:
    """Returns a name as it is compared, without a type behind a colon (``user_id:token``)."""
    return re.sub("[^a-z0-9]", "", name.partition(":")[0].lower())
