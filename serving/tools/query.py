"""``tfdare query``: ranks a user's candidates with a server, and shows what search returned."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from tfdare.commands.parser import Parser, positive_int
from tfdare.sequences.raw_ids import UNKNOWN_ID, UNSEEN_TEXT, UNSEEN_VALUE
from tfdare.sequences.requests import LENGTH, NO_VALUE, request_mapping
from tfdare.text import text_table

TOLERANCE = 1e-6


def _parser() -> Parser:
    parser = Parser(
        "query",
        example="tfdare query --address localhost:8500 --model dare "
        "--sequences build/sequences --top 5",
        description="Ranks the candidates of a user's newest request with a running server: once "
        "in one call (whole), once as search and then score (split); and shows the behaviors that "
        "search returned.",
    )
    parser.add_argument("--address", default="localhost:8500", help="host:port of the server")
    parser.add_argument("--model", default="dare", help="name of the model at the server")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--user", help="raw user id; the split's first user if left out")
    parser.add_argument(
        "--candidates", nargs="+", help="raw item ids, instead of the request's own"
    )
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument("--top", type=positive_int, default=5, help="rows of each table")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for each ranking")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Ranks and prints.

    Returns:
        0; 1 if split and whole do not agree; 2 if there was nothing to rank or no answer.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.timeout > 0:
        parser.error(f"--timeout must be positive. Received: {options.timeout}")
    from serving.client import ServingError
    from serving.client.lookup import UnknownUser

    try:
        answer = _rank(options)
    except (UnknownUser, ValueError, OSError) as error:
        print(f"tfdare query: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"tfdare query: {_error_text(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        print(_text(answer, options.top))
    if not answer["agree"]:
        print("tfdare query: split and whole do not agree.", file=sys.stderr)
    return 0 if answer["agree"] else 1


def _rank(options) -> dict[str, Any]:
    from serving.client import Client
    from serving.client.lookup import candidates, newest_request
    from tfdare.sequences import open_sequences
    from tfdare.sequences.raw_ids import RawIds

    sequences = open_sequences(options.sequences)
    ids = RawIds(sequences)
    user_request = newest_request(sequences, options.split_name, options.user, ids)
    target, known_label = user_request.target, not options.candidates
    if options.candidates:
        item = sequences.schema.item.name
        items = [ids.parse(item, text) for text in options.candidates]
        target = candidates(sequences, options.split_name, items, ids)
    names = sequences.schema.names
    if not len(target[names[0]]):
        raise ValueError(f"User {user_request.user!r} has no request there. Give --candidates.")
    request = request_mapping(user_request, target)
    with Client(options.address, options.model, timeout=options.timeout, retries=2) as client:
        _await_server(client, options.wait)
        whole = client.rank(request)
        searches = whole.searches
        split = client.rank(request, split=True, version=whole.version) if searches else whole
    difference = float(np.abs(split.probability - whole.probability).max())
    length = int(request[LENGTH][0])
    order = np.argsort(-whole.probability[0], kind="stable")
    best = int(order[0])

    def features(side, index):
        return {name: _as_json(side[name][index]) for name in names}

    def behavior(index):
        gaps = user_request.time_gap
        gap = {} if gaps is None else {"time_gap": int(gaps[index])}
        return {"position": length - int(index), **features(user_request.history, index), **gap}

    index, score = np.array([], np.int32), np.array([], np.float32)
    if whole.behavior_index is not None and whole.attention_score is not None:
        index, score = whole.behavior_index[0, best], whole.attention_score[0, best]
    kept = np.flatnonzero(index >= 0)
    kept = kept[np.argsort(-score[kept], kind="stable")]
    context = {name: _as_json(value) for name, value in user_request.context.items()}
    return {
        "user": user_request.user,
        "address": options.address,
        "model": options.model,
        "version": whole.version,
        "history_length": length,
        **({"context": context} if context else {}),
        **({"stand_ins": list(ids.hashed)} if ids.hashed else {}),
        "searches": searches,
        "agree": bool(difference <= TOLERANCE),
        "difference": difference,
        "candidates": [
            {
                "rank": rank,
                **features(target, c),
                "probability": float(whole.probability[0, c]),
                **({"clicked": bool(user_request.label[c])} if known_label else {}),
            }
            for rank, c in enumerate(order, start=1)
        ],
        "behaviors": [{**behavior(index[k]), "attention_score": float(score[k])} for k in kept],
    }


def _as_json(value):
    """Converts an id, several ids or a number (None where it is not known) for JSON."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode() or None
    if np.ndim(value) == 0:
        return int(value)
    if value.dtype.kind == "S":
        return [None if id_ == UNSEEN_TEXT else id_.decode() for id_ in value.tolist() if id_]
    return [UNKNOWN_ID if id_ == UNSEEN_VALUE else int(id_) for id_ in value if id_ != NO_VALUE]


def _await_server(client, seconds: float) -> None:
    """Waits until the server answers, with an error or not, or the time is up."""
    from serving.client import ServingError

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            client.versions(timeout=1.0)
            return
        except ServingError as error:
            if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return
            time.sleep(0.2)


def _error_text(error) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"No server answers at {error.address} ({error.message}). Start one: "
            "tfdare serve --model_base_path build/servables/dare --model_name dare --port 8500"
        )
    return str(error)


def _text(answer: dict[str, Any], top: int) -> str:
    rows, behaviors = answer["candidates"], answer["behaviors"]
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
            f"Hashed: {', '.join(answer['stand_ins'])}. Ids from the sequences stand for all ids "
            "with the same row."
        )
    lines += ["", f"Candidates by probability{_of(top, len(rows))}:", _table(rows[:top])]
    if answer["searches"]:
        empty = "the history is empty" if not answer["history_length"] else "nothing matched"
        lines += [
            "",
            f"Behaviors that search found for the best one{_of(top, len(behaviors))}, position 1 "
            "is the newest:",
            _table(behaviors[:top]) if behaviors else f"  none: {empty}",
        ]
    return "\n".join(lines)


def _of(top: int, total: int) -> str:
    return f", {top} of {total}" if top < total else ""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = [name.replace("_", " ") for name in rows[0]]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    return text_table([head, *cells], ">")


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(_cell, value)) or "none"
    if value is None:
        return "unknown"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
