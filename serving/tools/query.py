"""``tfdare query``: ranks a user's candidates with a running server, and shows why."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from serving.client.requests import NO_VALUE
from tfdare.commands.parser import Parser, positive_int
from tfdare.sequences.raw_ids import UNKNOWN_ID, UNSEEN_VALUE

TOLERANCE = 1e-6


def _parser() -> Parser:
    parser = Parser(
        "query",
        example="tfdare query --address localhost:8500 --model dare "
        "--sequences build/sequences --top 5",
        description="Ranks the candidates of a user's newest request with a running server: once "
        "as search and then score, once as a whole; and shows the behaviors that search found.",
    )
    parser.add_argument("--address", default="localhost:8500", help="host:port of the server")
    parser.add_argument("--model", default="dare", help="name that the server knows")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--user", help="raw user id; the split's first user if left out")
    parser.add_argument(
        "--candidates", type=int, nargs="+", help="raw item ids, instead of the request's own"
    )
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument("--top", type=positive_int, default=5, help="rows of each table")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for each ranking")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to let the server start")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Asks and prints.

    Returns:
        0; 1 where split and whole do not agree; 2 where there was nothing to ask or no answer.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.timeout > 0:
        parser.error(f"--timeout must be positive. Received: {options.timeout}")
    from serving.client import ServingError
    from serving.client.lookup import UnknownUser

    try:
        answer = _ask(options)
    except (UnknownUser, ValueError, OSError) as error:
        print(f"tfdare query: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"tfdare query: {_explained(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        print(_text(answer, options.top))
    if not answer["agree"]:
        print("tfdare query: split and whole do not agree.", file=sys.stderr)
    return 0 if answer["agree"] else 1


def _ask(options) -> dict[str, Any]:
    from serving.client import Client
    from serving.client.lookup import candidates, newest_request, request_mapping
    from tfdare.sequences import open_sequences
    from tfdare.sequences.raw_ids import RawIds

    sequences = open_sequences(options.sequences)
    ids = RawIds(sequences)
    asked = newest_request(sequences, options.split_name, options.user, ids)
    target, label = asked.target, asked.label
    if options.candidates:
        target = candidates(sequences, options.split_name, options.candidates, ids)
        label = None
    schema = sequences.schema
    names = schema.names
    if not len(target[names[0]]):
        raise ValueError(f"User {asked.user!r} has no request there. Give --candidates.")
    request = request_mapping(asked, schema, target)
    with Client(options.address, options.model, timeout=options.timeout, retries=2) as client:
        _await_server(client, options.wait)
        whole = client.rank(request)
        searches = whole.behavior_index is not None
        split = client.rank(request, split=True, version=whole.version) if searches else whole
    difference = float(np.abs(split.probability - whole.probability).max())
    length = int(request["history_length"][0])
    order = np.argsort(-whole.probability[0], kind="stable")
    best = int(order[0])

    def features(side, index):
        return {name: _plain(side[name][index]) for name in names}

    def behavior(index):
        gap = {} if asked.time_gap is None else {"time_gap": int(asked.time_gap[index])}
        return {"position": length - int(index), **features(asked.history, index), **gap}

    index, score = np.array([], np.int32), np.array([], np.float32)
    if searches:
        index, score = whole.behavior_index[0, best], whole.attention_score[0, best]
    kept = np.flatnonzero(index >= 0)
    kept = kept[np.argsort(-score[kept], kind="stable")]
    weight = np.exp(score[kept] - score[kept].max()) if len(kept) else score[kept]
    weight = weight / weight.sum() if len(kept) else weight
    return {
        "user": asked.user,
        "address": options.address,
        "model": options.model,
        "version": whole.version,
        "history_length": length,
        **({"context": {k: _plain(v) for k, v in asked.context.items()}} if asked.context else {}),
        **({"stand_ins": list(ids.hashed)} if ids.hashed else {}),
        "searches": searches,
        "agree": bool(difference <= TOLERANCE),
        "difference": difference,
        "candidates": [
            {
                "rank": rank,
                **features(target, c),
                "probability": float(whole.probability[0, c]),
                **({} if label is None else {"clicked": bool(label[c])}),
            }
            for rank, c in enumerate(order, start=1)
        ],
        "behaviors": [
            {
                **behavior(index[k]),
                "attention_score": float(score[k]),
                "weight": float(w),
            }
            for k, w in zip(kept, weight)
        ],
    }


def _plain(value):
    """An id, a list of those that are there, or a number, ready for JSON (None for unknown)."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if np.ndim(value) == 0:
        return int(value)
    return [UNKNOWN_ID if i == UNSEEN_VALUE else int(i) for i in value if i != NO_VALUE]


def _await_server(client, seconds: float) -> None:
    """Returns once the server answers at all, or the time is up; what it answers comes later."""
    from serving.client import ServingError

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            client.versions(timeout=1.0)
            return
        except ServingError as error:
            if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return
            time.sleep(0.2)


def _explained(error) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"No server answers at {error.address} ({error.message}). Start one: "
            "tfdare serve --model_base_path build/servables/dare --model_name dare --port 8500"
        )
    return str(error)


def _text(answer: dict[str, Any], top: int) -> str:
    rows, found = answer["candidates"], answer["behaviors"]
    agree = "agree" if answer["agree"] else "DO NOT agree"
    lines = [
        f"User {answer['user']}: {answer['history_length']} behaviors, {len(rows)} candidates; "
        f"{answer['model']} version {answer['version']} at {answer['address']}.",
    ]
    if answer["searches"]:
        lines.append(
            f"Split (search, then score) and whole {agree}: largest difference "
            f"{answer['difference']:.1e}."
        )
    else:
        lines.append("The model does not search: nothing to split.")
    if "context" in answer:
        known = [f"{name} {_cell(value)}" for name, value in answer["context"].items()]
        lines.append(f"Context: {', '.join(known)}.")
    if "stand_ins" in answer:
        lines.append(
            f"Hashed: {', '.join(answer['stand_ins'])}. Ids from the sequences stand for all that "
            "share their row."
        )
    lines += ["", f"Candidates by probability{_of(top, len(rows))}:", *_table(rows[:top])]
    if answer["searches"]:
        empty = "the history is empty" if not answer["history_length"] else "nothing matched"
        lines += [
            "",
            f"Behaviors that search found for the best one{_of(top, len(found))}, position 1 the "
            "newest:",
            *(_table(found[:top]) if found else [f"  none: {empty}"]),
        ]
    return "\n".join(lines)


def _of(top: int, total: int) -> str:
    return f", {top} of {total}" if top < total else ""


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = [[name.replace("_", " ") for name in rows[0]]]
    cells += [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  " + "  ".join(c.rjust(w) for c, w in zip(line, widths)) for line in cells]


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if value is None:
        return "unknown"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
