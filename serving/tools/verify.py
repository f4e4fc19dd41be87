"""``tfdare verify``: the same requests through the Keras model, the SavedModel and a server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from serving.client import Client, RankResult, ServingError
from serving.client.lookup import newest_requests
from tfdare.commands.parser import Parser, positive_int
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.requests import Arrays, request_mapping
from tfdare.text import text_table


class _NotVerified(Exception):
    """The comparison cannot be made; the message says why."""


def _parser() -> Parser:
    parser = Parser(
        "verify",
        example="tfdare verify --run build/dare --servable build/servables/dare/1 "
        "--sequences build/sequences --address localhost:8500",
        description="Sends the newest requests of some users through the trained Keras model, the "
        "exported SavedModel and, if an address is given, a server, in one call and as search and "
        "then score; shows the greatest difference of every output from the Keras model's. Exit "
        "code 1 if one exceeds the tolerance.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument(
        "--servable", required=True, help="folder of one exported version, not of a half"
    )
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument(
        "--requests", type=positive_int, default=32, help="users whose newest requests are sent"
    )
    parser.add_argument(
        "--address", help="host:port of the server; that of score, if search has another"
    )
    parser.add_argument(
        "--model",
        default="dare",
        help="name of the model at the server, or of the score half",
    )
    parser.add_argument("--search_address", help="host:port of search, if it has another server")
    parser.add_argument("--search_model", help="name of the search half")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="greatest difference allowed")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each call")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compares and prints.

    Returns:
        0; 1 if an output differs by more than the tolerance; 2 if they could not be compared.
    """
    options = _parser().parse_args(argv)
    try:
        report = _compare(options)
    except (ServingError, _NotVerified, ValueError, OSError) as error:
        print(f"tfdare verify: {error}", file=sys.stderr)
        return 2
    bad = [row for row in report["differences"] if not row["difference"] <= options.tolerance]
    report |= {"tolerance": options.tolerance, "agree": not bad}
    print(json.dumps(report, indent=2) if options.json else _text(report))
    for row in bad:
        at = "" if not row["at"] else f", at {row['at']}"
        print(
            f"tfdare verify: {row['who']}, signature {row['signature']}: {row['output']} differs "
            f"by {row['difference']:.3g} for user {row['user']!r}{at}",
            file=sys.stderr,
        )
    return 1 if bad else 0


def _compare(options) -> dict:
    sequences = open_sequences(options.sequences)
    newest = newest_requests(sequences, options.split_name, RawIds(sequences))
    user_requests = list(itertools.islice(newest, options.requests))
    if not user_requests:
        raise _NotVerified(f"Split {options.split_name!r} of {options.sequences!r} has no request.")
    requests = [request_mapping(request) for request in user_requests]
    answers: dict[str, np.ndarray] = {}
    versions: list[int] = []
    if options.address:
        answers, versions = _server_answers(options, requests)
    inputs = {f"{i}/{name}": v for i, request in enumerate(requests) for name, v in request.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("requests.npz", "answers.npz", "out.json")]
        _save(paths[0], inputs)
        _save(paths[1], answers)
        command = [
            sys.executable,
            "-m",
            "tfdare.export.skew",
            options.run,
            options.servable,
            *paths,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _NotVerified(done.stderr.strip()[-2000:])
        with open(paths[2], encoding="utf-8") as file:
            rows = json.load(file)["differences"]
    for row in rows:
        row["user"] = user_requests[int(row.pop("request"))].user
    return {"requests": len(requests), "versions": versions, "differences": rows}


def _save(path: str, arrays: Arrays) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


def _server_answers(options, requests: Sequence[Arrays]) -> tuple[dict[str, np.ndarray], list[int]]:
    """Returns the server's outputs, whole and split where it has these, and its versions."""
    apart = options.search_address or options.search_model
    answers: dict[str, np.ndarray] = {}
    versions = set()

    def keep(number: int, signature: str, outputs: Arrays) -> None:
        for name, value in outputs.items():
            answers[f"{number}/server/{signature}/{name}"] = value

    with Client(
        options.address,
        options.model,
        search_address=options.search_address,
        search_model=options.search_model,
        timeout=options.timeout,
    ) as client:
        for number, request in enumerate(requests):
            searches = True
            if not apart:
                whole = client.rank(request)
                versions.add(whole.version)
                searches = whole.searches
                keep(number, "serving_default", {"probability": whole.probability})
                keep(number, "serving_default", _behaviors(whole))
            if searches:
                split = client.rank(request, split=True)
                versions.add(split.version)
                keep(number, "search", _behaviors(split))
                keep(number, "score", {"probability": split.probability})
    return answers, sorted(versions)


def _behaviors(result: RankResult) -> dict[str, np.ndarray]:
    """Returns the outputs of search, empty where the model does not search."""
    if result.behavior_index is None or result.attention_score is None:
        return {}
    outputs = {
        "behavior_index": result.behavior_index,
        "attention_score": result.attention_score,
    }
    if result.mean_score is not None:
        outputs["mean_score"] = result.mean_score
    return outputs


def _text(report) -> str:
    head = ("who", "signature", "output", "difference")
    rows = [
        (row["who"], row["signature"], row["output"], f"{row['difference']:.1e}")
        for row in report["differences"]
    ]
    versions, agree = report["versions"], "agree" if report["agree"] else "DO NOT agree"
    served = f"; the server answered with version {versions}" if versions else ""
    return "\n".join(
        [
            f"{report['requests']} requests: greatest difference from the Keras model{served}.",
            "",
            text_table([head, *rows], "<"),
            "",
            f"They {agree} to {report['tolerance']:g}.",
        ]
    )
