"""``python -m serving.tools.load``: calls at a set rate, and how long they take."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client import Client, ServingError, score_inputs
from serving.client.lookup import newest_requests, request_mapping
from serving.client.requests import checked, search_inputs
from serving.tools.arrivals import ARRIVALS, Caller, Outcome, schedule
from tfdare.commands.parser import Parser, positive_int
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds

SIGNATURES = ("search", "score", "serving_default")
OF = (50.0, 90.0, 99.0, 99.9)


def _parser() -> Parser:
    parser = Parser(
        "load",
        example="python -m serving.tools.load --address localhost:8500 --model dare "
        "--sequences build/sequences --rate 20 --seconds 10 --output build/load",
        description="Sends calls to a server at a set rate, whether or not those before were "
        "answered, and measures each from the time it was due; one run for every signature. Writes "
        "report.json and latency.png. Exit code 1 where a call failed.",
    )
    parser.prog = "python -m serving.tools.load"
    parser.add_argument("--address", default="localhost:8500", help="host:port of the server")
    parser.add_argument("--model", default="dare", help="name that the server knows")
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--split_name", default="test", help="train, validation or test")
    parser.add_argument("--users", type=positive_int, default=64, help="requests, sent in turn")
    parser.add_argument(
        "--behaviors",
        type=positive_int,
        help="in place of users' own histories: so many behaviors of them",
    )
    parser.add_argument(
        "--candidates", type=positive_int, help="in place of a request's own: so many candidates"
    )
    parser.add_argument(
        "--signatures", nargs="+", choices=SIGNATURES, default=SIGNATURES, help="what to call"
    )
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long, each signature")
    parser.add_argument(
        "--arrivals",
        choices=ARRIVALS,
        default="poisson",
        help="as independent users arrive, or evenly",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds a call may take")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument("--output", default="build/load", help="folder for report and plot")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Loads and reports.

    Returns:
        0; 1 where a call failed; 2 where there was nothing to send or nobody to ask.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        due = schedule(options.rate, options.seconds, options.arrivals, options.seed)
        requests = read_mappings(options.sequences, options.split_name, options.users)
        if options.behaviors or options.candidates:
            requests = [sized(one, options.behaviors, options.candidates) for one in requests]
        with Client(options.address, options.model, timeout=options.timeout) as client:
            sent = {name: prepared(client, name, requests) for name in options.signatures}
    except (ServingError, SchemaError, ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    outcomes = {}
    with Caller(options.address) as caller:
        for name in options.signatures:
            print(f"{name}: {len(due)} calls in {due[-1]:.1f} s ...", file=sys.stderr, flush=True)
            outcomes[name] = caller.open_loop(sent[name], due, options.timeout)
    write_report(options.output, outcomes, f"{options.rate:g} calls a second")
    print(table(outcomes, options.rate))
    print(f"\n{options.output}: report.json, latency.png")
    return 0 if all(outcome.good.all() for outcome in outcomes.values()) else 1


def read_mappings(path: str, split: str, users: int) -> list[dict[str, np.ndarray]]:
    """The newest requests of some users, over raw ids.

    Raises:
        ValueError: the split has none.
    """
    sequences = open_sequences(path)
    asked = itertools.islice(newest_requests(sequences, split, RawIds(sequences)), users)
    requests = [checked(request_mapping(one, sequences.schema)) for one in asked]
    if not requests:
        raise ValueError(f"Split {split!r} of {path!r} has no request.")
    return requests


def sized(
    request: Mapping[str, np.ndarray], behaviors: int | None, candidates: int | None
) -> dict[str, np.ndarray]:
    """A request of one user with so many behaviors and candidates: its own, again and again."""
    made = dict(request)
    length = int(request["history_length"][0])
    for name, array in request.items():
        if name.startswith("target_") and candidates:
            made[name] = np.take(array, np.arange(candidates) % array.shape[1], axis=1)
        elif name.startswith("history_") and array.ndim > 1 and behaviors:
            made[name] = np.take(array, np.arange(behaviors) % max(length, 1), axis=1)
    if behaviors:
        made["history_length"] = np.array([behaviors], np.int32)
    return made


def prepared(
    client: Client, signature: str, requests: Sequence[Mapping[str, np.ndarray]]
) -> list[bytes]:
    """Serialized PredictRequests; score is given what the server's own search finds.

    Raises:
        ServingError: the server does not answer `search`.
    """
    made = []
    for request in requests:
        if signature == "search":
            inputs = search_inputs(request)
        elif signature == "score":
            found = client.search(request)
            inputs = score_inputs(request, found.behavior_index, found.attention_score)
        else:
            inputs = checked(request)
        made.append(client.call(signature, inputs).request.SerializeToString())
    return made


def summary(outcome: Outcome) -> dict:
    """An outcome as JSON-ready numbers."""
    return {
        "calls": len(outcome.due),
        "qps": outcome.qps,
        "errors": outcome.errors,
        "error_examples": outcome.examples,
        "milliseconds": {f"p{p:g}": ms for p, ms in zip(OF, outcome.percentiles(*OF))},
        "sent_late_ms_p99": float(np.percentile(outcome.late, 99) * 1e3),
    }


def table(outcomes: Mapping[str, Outcome], rate: float) -> str:
    """What happened, a line each."""
    head = ["", "calls", "asked/s", "got/s", *(f"p{p:g} ms" for p in OF), "errors"]
    rows = [
        [
            name,
            str(len(one.due)),
            f"{rate:.1f}",
            f"{one.qps:.1f}",
            *(f"{ms:.2f}" for ms in one.percentiles(*OF)),
            ", ".join(f"{code} {count}" for code, count in one.errors.items()) or "none",
        ]
        for name, one in outcomes.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in (head, *rows)
    )


def write_report(folder: str, outcomes: Mapping[str, Outcome], title: str) -> None:
    """``report.json`` and ``latency.png``, under a title that says at what rate."""
    os.makedirs(folder, exist_ok=True)
    report = {"title": title, "runs": {name: summary(one) for name, one in outcomes.items()}}
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
    for number, (name, one) in enumerate(outcomes.items()):
        good, color = one.good, f"C{number}"
        left.plot([], [], color=color, label=name)  # named, even if no call was good
        if good.any():
            ordered = np.sort(one.latency[good]) * 1e3
            above = 1 - np.arange(len(ordered)) / len(ordered)
            left.plot(ordered, above, drawstyle="steps-post", color=color)
            second, middle, highest = _over_time(one.due[good], one.latency[good] * 1e3)
            right.plot(second, middle, color=color)
            right.plot(second, highest, color=color, lw=0.8, alpha=0.6)
        if not good.all():
            right.plot(one.due[~good], one.latency[~good] * 1e3, "rx", ms=5)
    scale = "log" if any(one.good.any() for one in outcomes.values()) else "linear"  # no data
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
    """Seconds, median and maximum of up to 100 parts of the calls, one after the other."""
    order = np.argsort(due, kind="stable")
    parts = np.array_split(order, min(100, max(1, len(due) // 20)))
    return tuple(
        np.array([of(values[part]) for part in parts])
        for of, values in ((np.mean, due), (np.median, milliseconds), (np.max, milliseconds))
    )


if __name__ == "__main__":
    sys.exit(main())
