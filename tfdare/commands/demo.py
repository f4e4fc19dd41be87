"""``tfdare demo``: runs the other commands in order, from a log to a served model.

Each command is printed before it runs, in its own process.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

from tfdare.commands.parser import Parser, run
from tfdare.errors import UsageError
from tfdare.text import text_table

MODELS = ("DARE", "TWIN")
_READY = re.compile(r"served at (?P<address>\S+:\d+)")


def main(argv: list[str] | None = None) -> int:
    """Runs ``tfdare demo``; returns the exit code."""
    parser = Parser(
        "demo",
        "tfdare demo --output build/demo",
        "Runs all steps: log, sequences, training of DARE and TWIN, SavedModel, server, and one "
        "user's request over gRPC. Without --log, the log is simulated with planted interests. "
        "Arguments after `--` are passed to `tfdare prepare`.",
    )
    add = parser.add_argument
    add("--output", default="build/demo", help="folder for everything; an earlier demo is replaced")
    add("--log", nargs="+", help="your own event log, instead of a simulated one")
    add("--format", default="taobao", help="of --log, as `tfdare prepare` names it")
    add("--users", type=int, default=2000, help="users of the simulated log")
    add("--epochs", type=int, default=2, help="training epochs of each model")
    add(
        "prepare",
        nargs="*",
        metavar="PREPARE_OPTION",
        help="after `--`: options of `tfdare prepare`",
    )
    return run(parser, argv, _demo)


def _demo(options) -> None:
    started = time.perf_counter()
    output = options.output
    if os.path.exists(output):
        if os.listdir(output) and not os.path.exists(os.path.join(output, ".tfdare-demo")):
            raise UsageError(f"{output!r} exists and is no earlier demo; choose another `output`")
        shutil.rmtree(output)
    os.makedirs(output)
    open(os.path.join(output, ".tfdare-demo"), "w", encoding="utf-8").close()
    at = {
        name: os.path.join(output, name)
        for name in ("log.csv.gz", "sequences", "DARE", "TWIN", "servables", "auc.png")
    }

    logs = options.log
    if logs is None:
        _say("A log with planted interests, 20 of its rows damaged on purpose")
        _command(
            "simulate",
            "--output",
            at["log.csv.gz"],
            "--users",
            str(options.users),
            "--bad_rows",
            "20",
        )
        logs = [at["log.csv.gz"]]
    _say("From the log to lifelong sequences, by Beam")
    form = options.format if options.log else "taobao"
    _command(
        "prepare", "--input", *logs, "--format", form, "--output", at["sequences"], *options.prepare
    )
    for model in MODELS:
        _say(f"Training {model}")
        _command(
            "train",
            "--sequences",
            at["sequences"],
            "--model",
            model,
            "--output",
            at[model],
            "--epochs",
            str(options.epochs),
        )
    _say("Test AUC side by side")
    metrics = {model: _read(os.path.join(at[model], "metrics.json"))["test"] for model in MODELS}
    print(_table(metrics))
    _plot(metrics, at["auc.png"])
    _say("DARE as a SavedModel, checked the way a server loads it")
    _command("export", "--run", at["DARE"], "--output", at["servables"], "--name", "dare")
    _say("DARE served, and queried over gRPC")
    _serve_and_query(at)
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Files written:")
    contents = (
        ("log.csv.gz", "the simulated log"),
        ("sequences", "vocabularies, TFRecords, manifest.json, rejected rows"),
        ("DARE", "trained model, metrics.json, TensorBoard log"),
        ("TWIN", "the same for TWIN"),
        ("auc.png", "the comparison as a plot"),
        (
            "servables",
            "SavedModel; `tfdare serve --model_base_path "
            f"{os.path.join(at['servables'], 'dare')} --model_name dare`",
        ),
    )
    print(
        text_table([(at[name], what) for name, what in contents if os.path.exists(at[name])], "<")
    )


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _argv(*arguments: str) -> list[str]:
    print(f"$ tfdare {shlex.join(arguments)}", flush=True)
    return [sys.executable, "-m", "tfdare.cli", *arguments]


def _command(*arguments: str) -> None:
    code = subprocess.run(_argv(*arguments), check=False).returncode
    if code:
        raise UsageError(f"`tfdare {arguments[0]}` ended with exit code {code}; see above")


def _serve_and_query(at: dict[str, str]) -> None:
    argv = _argv(
        "serve",
        "--model_base_path",
        os.path.join(at["servables"], "dare"),
        "--model_name",
        "dare",
        "--port",
        "0",
    )
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = _address(server.stdout)
            _command(
                "query",
                "--address",
                address,
                "--model",
                "dare",
                "--sequences",
                at["sequences"],
                "--top",
                "5",
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def _address(output: Iterable[str]) -> str:
    """Prints the server's lines up to the one that names its address."""
    for line in output:
        print(line, end="", flush=True)
        if ready := _READY.search(line):
            return ready["address"]
    raise UsageError("the server stopped before it served; see above")


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    slices = (
        ("all targets", "auc"),
        ("item seen before", "auc_seen"),
        ("item new to the user", "auc_new"),
        ("GAUC, by user", "gauc"),
    )
    counts = next(iter(metrics.values()))["baselines"]["repeat_counts"]
    rows = [["", *metrics, "counts"]]
    for title, key in slices:
        values = [numbers[key] for numbers in metrics.values()]
        values.append(counts if key == "auc" else None)
        rows.append([title, *("" if value is None else f"{value:.4f}" for value in values)])
    return (
        f"{text_table(rows)}\n"
        "  counts: logistic regression on how often the user had the item and category before"
    )


def _plot(metrics: dict[str, dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    slices = {
        "auc": "all targets",
        "auc_seen": "item seen before",
        "auc_new": "item new to the user",
    }
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    width = 0.8 / len(metrics)
    for i, (model, numbers) in enumerate(metrics.items()):
        heights = [numbers[key] or 0.0 for key in slices]
        bars = axes.bar([x + i * width for x in range(len(slices))], heights, width, label=model)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    counts = next(iter(metrics.values()))["baselines"]["repeat_counts"]
    if counts is not None:
        axes.hlines(
            counts,
            -width / 2,
            2 * width - width / 2,
            colors="black",
            linestyles="--",
            label="repeat counts",
        )
    axes.set_xticks(
        [x + width * (len(metrics) - 1) / 2 for x in range(len(slices))], slices.values()
    )
    axes.set(ylim=(0.5, 1.04), ylabel="test AUC")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=len(metrics) + 1)
    figure.savefig(path, dpi=150)


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)
