"""``tfdare verify``: the same requests through the Keras model, the SavedModel and a server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from serving.client import Client, ServingError
from serving.client.lookup import newest_requests, request_mapping
from serving.client.requests import checked
from tfdare.commands.parser import Parser, positive_int
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds


class _NotVerified(Exception):
    """What keeps the comparison from being made; carries the words for it."""


def _parser() -> Parser:
    parser = Parser(
        "verify",
        example="tfdare verify --run build/dare --servable build/servables/dare/1 "
        "--sequences build/sequences --address localhost:8500",
        description="Sends the newest requests of some users through the trained Keras model, the "
        "exported SavedModel and, where an address is given, a server, whole and as search and "
        "score; shows the greatest difference of every output from the Keras model's. Exit code "
        "1 where one exceeds the tolerance.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument("--servable", required=True, help="folder of one exported version, whole")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument("--requests", type=positive_int, default=32, help="users asked about")
    parser.add_argument("--address", help="host:port of the server; of score, if they are apart")
    parser.add_argument(
        "--model",
        default="dare",
        help="name that the server knows; of score, if it is served apart",
    )
    parser.add_argument("--search_address", help="host:port of search, if it is served apart")
    parser.add_argument("--search_model", help="name of search, if it is served apart")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="greatest difference allowed")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each call")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compares and prints.

    Returns:
        0; 1 where something differs by more than the tolerance; 2 where it could not be compared.
    """
    options = _parser().parse_args(argv)
    try:
        found = _compare(options)
    except ServingError as error:
        print(f"tfdare verify: {error}", file=sys.stderr)
        return 2
    except (_NotVerified, ValueError, OSError) as error:
        print(f"tfdare verify: {error}", file=sys.stderr)
        return 2
    bad = [row for row in found["differences"] if not row["difference"] <= options.tolerance]
    found |= {"tolerance": options.tolerance, "agree": not bad}
    print(json.dumps(found, indent=2) if options.json else _text(found))
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
    asked = list(
        itertools.islice(
            newest_requests(sequences, options.split_name, RawIds(sequences)), options.requests
        )
    )
    if not asked:
        raise _NotVerified(f"Split {options.split_name!r} of {options.sequences!r} has no request.")
    requests = [checked(request_mapping(one, sequences.schema)) for one in asked]
    answers, versions = {}, []
    if options.address:
        answers, versions = _ask(options, requests)
    given = {f"{i}/{name}": v for i, request in enumerate(requests) for name, v in request.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("given.npz", "answers.npz", "out.json")]
        np.savez(paths[0], **given)
        np.savez(paths[1], **answers)
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
        row["user"] = asked[int(row.pop("request"))].user
    return {"requests": len(asked), "versions": versions, "differences": rows}


def _ask(options, requests):
    """Outputs of the server, whole and split as far as it has both; versions that answered."""
    apart = options.search_address or options.search_model
    answers, versions = {}, set()
    with Client(
        options.address,
        options.model,
        search_address=options.search_address,
        search_model=options.search_model,
        timeout=options.timeout,
    ) as client:
        for i, request in enumerate(requests):

            def keep(who, signature, **outputs):
                for name, value in outputs.items():
                    answers[f"{i}/{who}/{signature}/{name}"] = value

            searches = True
            if not apart:
                whole = client.rank(request)
                versions.add(whole.version)
                searches = whole.behavior_index is not None
                found = (
                    {}
                    if not searches
                    else {
                        "behavior_index": whole.behavior_index,
                        "attention_score": whole.attention_score,
                    }
                )
                keep("server", "serving_default", probability=whole.probability, **found)
            if searches:
                split = client.rank(request, split=True)
                versions.add(split.version)
                keep(
                    "server",
                    "search",
                    behavior_index=split.behavior_index,
                    attention_score=split.attention_score,
                )
                keep("server", "score", probability=split.probability)
    return answers, sorted(versions)


def _text(found) -> str:
    head = ("who", "signature", "output", "difference")
    rows = [
        (row["who"], row["signature"], row["output"], f"{row['difference']:.1e}")
        for row in found["differences"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        for line in (head, *rows)
    ]
    served = f"; the server answered with version {found['versions']}" if found["versions"] else ""
    says = "agree" if found["agree"] else "DO NOT agree"
    return "\n".join(
        [
            f"{found['requests']} requests: greatest difference from the Keras model{served}.",
            "",
            *lines,
            "",
            f"They {says} to {found['tolerance']:g}.",
        ]
    )
