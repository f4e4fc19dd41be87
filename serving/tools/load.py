"""``python -m serving.tools.load``: latency of a server under calls at a set rate."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client import Client, ServingError, score_inputs
from serving.client.lookup import newest_requests
from serving.tools.arrivals import ARRIVALS, Caller, Outcome, schedule
from tfdare.commands.parser import Parser, positive_int
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.requests import (
    HISTORY,
    LENGTH,
    TARGET,
    Arrays,
    checked,
    request_mapping,
    search_inputs,
)
from tfdare.text import text_table

SIGNATURES = ("search", "score", "serving_default")
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def _parser() -> Parser:
    parser = Parser(
        "load",
        example="python -m serving.tools.load --address localhost:8500 --model dare "
        "--sequences build/sequences --rate 20 --seconds 10 --output build/load",
        description="Sends calls to a server at a set rate, whether or not earlier ones were "
        "answered, and measures latency from the time each was due; one run for every signature. "
        "Writes report.json and latency.png. Exit code 1 if a call failed.",
    )
    parser.prog = "python -m serving.tools.load"
    parser.add_argument("--address", default="localhost:8500", help="host:port of the server")
    parser.add_argument("--model", default="dare", help="name of the model at the server")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument(
        "--users", type=positive_int, default=64, help="users whose newest requests are sent"
    )
    parser.add_argument(
        "--behaviors",
        type=positive_int,
        help="length to which each history is repeated or cut",
    )
    parser.add_argument(
        "--candidates", type=positive_int, help="number to which candidates are repeated or cut"
    )
    parser.add_argument(
        "--signatures", nargs="+", choices=SIGNATURES, default=SIGNATURES, help="signatures to call"
    )
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each signature")
    parser.add_argument(
        "--arrivals",
        choices=ARRIVALS,
        default="poisson",
        help="random, like calls of independent users, or evenly spaced",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds a call may take")
    parser.add_argument("--seed", type=int, default=0, help="seed of the arrivals")
    parser.add_argument("--output", default="build/load", help="folder for report and plot")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the load test of every signature and reports.

    Returns:
        0; 1 if a call failed; 2 if there was nothing to send, or no server.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        due = schedule(options.rate, options.seconds, options.arrivals, options.seed)
        requests = read_mappings(options.sequences, options.split_name, options.users)
        if options.behaviors or options.candidates:
            requests = [resize(r, options.behaviors, options.candidates) for r in requests]
        with Client(options.address, options.model, timeout=options.timeout) as client:
            messages = {name: serialize(client, name, requests) for name in options.signatures}
    except (ServingError, SchemaError, ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    outcomes = {}
    with Caller(options.address) as caller:
        for name in options.signatures:
            print(f"{name}: {len(due)} calls in {due[-1]:.1f} s ...", file=sys.stderr, flush=True)
            outcomes[name] = caller.open_loop(messages[name], due, options.timeout)
    write_report(options.output, outcomes, f"{options.rate:g} calls a second")
    print(table(outcomes, options.rate))
    print(f"\n{options.output}: report.json, latency.png")
    return 0 if all(outcome.good.all() for outcome in outcomes.values()) else 1


def read_mappings(path: str, split: str, users: int) -> list[dict[str, np.ndarray]]:
    """Reads the newest requests of the first users of a split, as request mappings.

    Raises:
        ValueError: the split has none.
    """
    sequences = open_sequences(path)
    newest = itertools.islice(newest_requests(sequences, split, RawIds(sequences)), users)
    requests = [request_mapping(request) for request in newest]
    if not requests:
        raise ValueError(f"Split {split!r} of {path!r} has no request.")
    return requests


def resize(request: Arrays, behaviors: int | None, candidates: int | None) -> dict[str, np.ndarray]:
    """Repeats or cuts one user's request to the given numbers of behaviors and candidates."""
    resized = dict(request)
    length = int(request[LENGTH][0])
    for name, array in request.items():
        if name.startswith(TARGET) and candidates:
            resized[name] = np.take(array, np.arange(candidates) % array.shape[1], axis=1)
        elif name.startswith(HISTORY) and array.ndim > 1 and behaviors:
            resized[name] = np.take(array, np.arange(behaviors) % max(length, 1), axis=1)
    if behaviors:
        resized[LENGTH] = np.array([behaviors], np.int32)
    return resized


def serialize(client: Client, signature: str, requests: Sequence[Arrays]) -> list[bytes]:
    """Serializes a PredictRequest for each request; score gets what the server's search returns.

    Raises:
        ServingError: the server does not answer `search`.
    """
    messages = []
    for request in requests:
        if signature == "search":
            inputs = search_inputs(request)
        elif signature == "score":
            kept = client.search(request)
            inputs = score_inputs(
                request, kept.behavior_index, kept.attention_score, kept.mean_score
            )
        else:
            inputs = checked(request)
        messages.append(client.call(signature, inputs).request.SerializeToString())
    return messages


def milliseconds(outcome: Outcome) -> dict[str, float]:
    """Returns the latency of an outcome at PERCENTILES, by name, such as ``"p99"``."""
    return {f"p{p:g}": ms for p, ms in zip(PERCENTILES, outcome.percentiles(*PERCENTILES))}


def summary(outcome: Outcome) -> dict:
    """Summarizes an outcome as numbers ready for JSON."""
    return {
        "calls": len(outcome.due),
        "qps": outcome.qps,
        "errors": outcome.errors,
        "error_examples": outcome.examples,
        "milliseconds": milliseconds(outcome),
        "sent_late_ms_p99": float(np.percentile(outcome.late, 99) * 1e3),
    }


def table(outcomes: Mapping[str, Outcome], rate: float) -> str:
    """Formats outcomes as a table, a line each."""
    head = ["", "calls", "asked/s", "got/s", *(f"p{p:g} ms" for p in PERCENTILES), "errors"]
    rows = [
        [
            name,
            str(len(outcome.due)),
            f"{rate:.1f}",
            f"{outcome.qps:.1f}",
            *(f"{ms:.2f}" for ms in outcome.percentiles(*PERCENTILES)),
            ", ".join(f"{code} {count}" for code, count in outcome.errors.items()) or "none",
        ]
        for name, outcome in outcomes.items()
    ]
    return text_table([head, *rows])


def write_report(folder: str, outcomes: Mapping[str, Outcome], title: str) -> None:
    """Writes ``report.json`` and ``latency.png``; the title states the rate."""
    os.makedirs(folder, exist_ok=True)
    report = {"title": title, "runs": {name: summary(run) for name, run in outcomes.items()}}
    with open(os.path.join(folder, "report.json"), "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    _plot(os.path.join(folder, "latency.png"), outcomes, title)


def _plot(path: str, outcomes: Mapping[str, Outcome], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for number, (name, run) in enumerate(outcomes.items()):
        good, color = run.good, f"C{number}"
        left.plot([], [], color=color, label=name)  # named, even if no call was good
        if good.any():
            ordered = np.sort(run.latency[good]) * 1e3
            above = 1 - np.arange(len(ordered)) / len(ordered)
            left.plot(ordered, above, drawstyle="steps-post", color=color)
            second, middle, highest = _over_time(run.due[good], run.latency[good] * 1e3)
            right.plot(second, middle, color=color)
            right.plot(second, highest, color=color, lw=0.8, alpha=0.6)
        if not good.all():
            right.plot(run.due[~good], run.latency[~good] * 1e3, "rx", ms=5)
    scale = "log" if any(run.good.any() for run in outcomes.values()) else "linear"  # no data
    left.set(
        xscale=scale,
        yscale=scale,
        xlabel="milliseconds since the call was due",
        ylabel="share of calls that took longer",
        title=title,
    )
    right.set(
        xlabel="seconds",
        ylabel="milliseconds",
        yscale="log",
        title="over time: median, and the slowest (thin); x: failed",
    )
    for axis in [right.yaxis] + [left.xaxis] * (scale == "log"):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=min(len(outcomes), 3), frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _over_time(due: np.ndarray, milliseconds: np.ndarray):
    """Returns seconds, median and maximum of up to 100 parts of the calls, in order."""
    order = np.argsort(due, kind="stable")
    parts = np.array_split(order, min(100, max(1, len(due) // 20)))
    return tuple(
        np.array([statistic(values[part]) for part in parts])
        for statistic, values in ((np.mean, due), (np.median, milliseconds), (np.max, milliseconds))
    )


if __name__ == "__main__":
    sys.exit(main())
