"""``tfdare inspect``: what a folder of sequences holds, and one user's behaviors and requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfdare.commands.parser import Parser, non_negative_int, positive_int, run
from tfdare.errors import UsageError
from tfdare.sequences import SPLITS, open_sequences
from tfdare.sequences.contents import describe_folder, describe_user
from tfdare.sequences.users import UnknownUser, find_user
from tfdare.text import text_table, time_text

_UNITS = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare inspect``; returns the exit code."""
    parser = Parser(
        "inspect",
        "tfdare inspect --sequences build/sequences",
        "Shows what a folder of sequences holds: features, splits, the most frequent ids, vectors, "
        "options. With --user that user's behaviors and requests, in the ids of the log.",
    )
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--user", help="user id of the log")
    parser.add_argument(
        "--request", type=non_negative_int, metavar="N", help="of that user, counted from 0"
    )
    parser.add_argument(
        "--split_name", default="test", choices=SPLITS, help="split that holds the user"
    )
    parser.add_argument("--top", type=positive_int, default=10, help="rows of each table at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")

    def action(options):
        if options.request is not None and options.user is None:
            raise UsageError(f"`request` needs `user`. Received: {options.request}")
        sequences = open_sequences(options.sequences)
        if options.user is None:
            content = describe_folder(sequences, options.top)
            text = _folder_text
        else:
            try:
                record = find_user(sequences, options.split_name, options.user)
            except UnknownUser as error:
                raise UsageError(f"{error}\n  `split_name` chooses another split") from error
            content = describe_user(record, sequences)
            content = {"user": content.pop("user"), "split": options.split_name, **content}
            content["time_unit"] = sequences.manifest.get("options", {}).get("time_unit")
            content["window"] = sequences.schema.window
            content["row_ids_of"] = [
                part.name for part in sequences.schema.categorical if part.hash_buckets
            ]
            text = _user_text
            if options.request is not None:
                content, text = _with_request(content, options.request), _request_text
        print(json.dumps(content, indent=2) if options.json else text(content, options.top))

    return run(parser, argv, action)


def _with_request(content: dict[str, Any], number: int) -> dict[str, Any]:
    """Returns a user's content with one request alone, and the behaviors that it sees."""
    requests = content["requests"]
    if number >= len(requests):
        raise UsageError(
            f"`request` must be below {len(requests)}, the number of requests of user "
            f"{content['user']!r} in split {content['split']!r}. Received: {number}"
        )
    end = requests[number]["history"]
    behaviors = content["behaviors"][max(0, end - content["window"]) : end]
    behaviors = [
        {**behavior, "position": len(behaviors) - index} for index, behavior in enumerate(behaviors)
    ]
    return {**content, "behaviors": behaviors, "requests": [requests[number]]}


def _folder_text(content: Mapping[str, Any], top: int) -> str:
    files = content["input"]
    size = sum(file["bytes"] for file in files) / 1e6
    head = f"{content['folder']}: written by tfdare {content['version']}"
    head += f", {content['created']}" if content["created"] else ""
    head += f", from {_count(len(files), 'file')}, {size:,.1f} MB" if files else ""
    gap = content["time_gap"]
    window = f"Requests: {content['window']:,} behaviors and {content['max_candidates']:,} "
    window += "candidates at most" + (f", time gaps from {gap:,}" if gap is not None else "")
    features = [
        (
            part["name"],
            f"hashed to {part['hash_buckets']:,} rows"
            if part["hash_buckets"]
            else f"{part['ids']:,}",
            part["dtype"],
            str(part["max_values"]),
        )
        for part in (*content["features"], *content["context"])
        if "ids" in part
    ]
    numbers = [
        (part["name"], f"{part['mean']:.6g}", f"{part['deviation']:.6g}")
        for part in content["context"]
        if "mean" in part
    ]
    context = {part["name"] for part in content["context"]}
    features = [
        (name, "request" if name in context else "behavior", *rest) for name, *rest in features
    ]
    ids = [
        (name, str(entry["id"]), f"{entry['events']:,}")
        for name, entries in content["vocabularies"].items()
        for entry in entries
    ]
    splits = [
        (split, *(f"{count:,}" for count in counts.values()))
        for split, counts in content["splits"].items()
    ]
    vectors = [
        (name, str(entry["columns"]), entry["origin"] or "")
        for name, entry in content["vectors"].items()
    ]
    options = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in content["options"].items()
        if value is not None
    ]
    return "\n".join(
        [
            head,
            window,
            *_table("Features", ("name", "of a", "ids", "type", "values at most"), features, "<<>"),
            *_table("Numbers of a request", ("name", "mean", "deviation"), numbers),
            *_table("Splits", ("split", "users", "requests", "candidates", "clicked"), splits),
            *_table(
                f"Most frequent ids, {top} at most of each feature",
                ("feature", "id", "training events"),
                ids,
                "<<>",
            ),
            *_table("Vectors", ("feature", "numbers", "origin"), vectors, "<><"),
            *_table("Options", ("name", "value"), options, "<"),
            "",
            "A user: --user ID --split_name test",
        ]
    )


def _user_text(content: Mapping[str, Any], top: int) -> str:
    requests = content["requests"]
    rows = [
        (
            str(request["number"]),
            _time(request["time"], content),
            f"{request['history']:,}",
            str(len(request["candidates"])),
            " ".join(_clicked_items(request)) or "none",
        )
        for request in requests[-top:]
    ]
    head = ("number", "time", "behaviors before", "candidates", "clicked")
    return "\n".join(
        [
            f"User {content['user']} of split {content['split']}: "
            f"{_count(len(content['behaviors']), 'behavior')}, "
            f"{_count(len(requests), 'request')}",
            *_behaviors(content, top),
            *_table(f"Requests{_newest(top, len(requests))}", head, rows, ">"),
            *(["", "A request: --request N"] if requests else []),
        ]
    )


def _request_text(content: Mapping[str, Any], top: int) -> str:
    (request,) = content["requests"]
    candidates = request["candidates"]
    context = [(name, _cell(value)) for name, value in request.get("context", {}).items()]
    names = list(candidates[0]) if candidates else []
    rows = [[_cell(value) for value in candidate.values()] for candidate in candidates]
    return "\n".join(
        [
            f"Request {request['number']} of user {content['user']}, split {content['split']}, "
            f"time {_time(request['time'], content)}: {len(candidates)} candidates, "
            f"{_count(len(content['behaviors']), 'behavior')} of the {request['history']:,} before",
            *_table("Candidates", _with_rows(names, content), rows, ">"),
            *_table("Context", ("name", "value"), context, "<"),
            *_behaviors(content, top),
        ]
    )


def _behaviors(content: Mapping[str, Any], top: int) -> list[str]:
    """Returns the lines of a table of behaviors, the newest first."""
    behaviors = content["behaviors"]
    rows = [
        [
            _time(value, content) if name == "time" else _cell(value)
            for name, value in behavior.items()
        ]
        for behavior in behaviors[: -top - 1 : -1]
    ]
    names = _with_rows(list(behaviors[0]) if behaviors else [], content)
    title = f"Behaviors{_newest(top, len(behaviors))}, position 1 is the newest"
    return _table(title, names, rows, ">")


def _with_rows(names: Sequence[str], content: Mapping[str, Any]) -> list[str]:
    """Returns headers; of a hashed feature, which has no ids, row ids are shown."""
    return [f"{name} row" if name in content["row_ids_of"] else name for name in names]


def _clicked_items(request: Mapping[str, Any]) -> Iterable[str]:
    for candidate in request["candidates"]:
        if candidate["clicked"]:
            yield _cell(next(iter(candidate.values())))


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<>"
) -> list[str]:
    return ["", title, text_table([head, *rows], align)] if rows else []


def _newest(top: int, total: int) -> str:
    return f", the newest {top} of {total:,}" if top < total else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _time(time: int | None, content: Mapping[str, Any]) -> str:
    return "unknown" if time is None else time_text(time, _UNITS.get(content["time_unit"]))


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(_cell, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
