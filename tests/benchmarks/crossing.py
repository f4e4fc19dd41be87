"""Measures which attention wins at which size of a log in which it and representation conflict.

make crossing

The simulated log has hidden kinds of items (`conflict`): categories alone say which behaviors
matter for a target, kinds alone whether they speak for a click on it or against. Negatives are of
the target's category, so that kinds decide. For every number of users the log is simulated,
prepared, and DARE (attention given), TWIN+evidence+vectors (shared), DARE-learned and
DARE-learned+vectors (learned apart, from random rows and from the same start) are trained on it as
`tfdare compare` trains, with every seed. Writes crossing.md, crossing.json and crossing.png. Called
again, it trains only what is missing. Not part of `make bench`: it trains 24 models.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from beam_jobs.build_sequences import main as prepare
from tfdare.comparison.runner import compare
from tfdare.files import replacing, write_json, write_text
from tfdare.metrics import Interval
from tfdare.simulation import SimulatorOptions, write_log, write_truth

LOG: dict[str, Any] = {
    "items": 1000,
    "categories": 200,
    "mean_events": 120,
    "category_zipf": 0.0,
    "lifelong": 0.0,
    "drift": 0.0,
    "session_events": 1.0,
    "relation": 0.8,
    "conflict": 1.0,
    "favorite": 0.0,
    "other_behaviors": 0.0,
}
PROTOCOL = {
    "format": "taobao",
    "split": "last_fraction",
    "window": "100",
    "negatives_from": "category",
}
TRAINING = {"epochs": 10, "patience": 2}  # less patience stops some models by chance
TITLES = {
    "DARE": "given",
    "TWIN+evidence+vectors": "shared, same start",
    "DARE-learned+vectors": "learned apart, same start",
    "DARE-learned": "learned apart",
}
GIVEN, *OTHERS = MODELS = list(TITLES)
_COLORS = dict(zip(MODELS, ("#d9622b", "#4a86c5", "#2f9e6b", "#a06fc4")))
_TEXT = "#7d8894"  # legible on white and on black


def measure(output: str, users: list[int], seeds: list[int]) -> dict[str, Any]:
    """Trains what is missing at every size; returns the content of crossing.json."""
    sizes = []
    for number in users:
        folder = os.path.join(output, f"{number}-users")
        log, sequences = (os.path.join(folder, name) for name in ("log.csv.gz", "sequences"))
        if not os.path.exists(os.path.join(sequences, "_SUCCESS")):
            os.makedirs(folder, exist_ok=True)
            options = SimulatorOptions(users=number, **LOG)
            write_log(log, options, progress=False)
            write_truth(f"{log}.truth.json", options)
            protocol = [text for name, value in PROTOCOL.items() for text in (f"--{name}", value)]
            if prepare(["--input", log, "--output", sequences, "--overwrite", *protocol]):
                raise RuntimeError("tfdare prepare failed; see above")
        comparison = compare(
            sequences,
            os.path.join(folder, "comparison"),
            models=MODELS,
            seeds=seeds,
            say=lambda line, number=number: print(f"{number} users: {line}", file=sys.stderr),
            **TRAINING,
        )
        sizes.append(
            {
                "users": number,
                "train_targets": comparison["data"]["train_targets"],
                "test_targets": comparison["data"]["test_targets"],
                "models": {
                    row["model"]: {"auc": row["test"]["auc"], "difference": row["difference"]}
                    for row in comparison["rows"]
                },
            }
        )
    return {"seeds": seeds, "log": LOG, "sizes": sizes}


def markdown(results: dict[str, Any]) -> str:
    """Formats a table of the AUC of given attention by size, and of the differences to it."""
    lines = [
        f"| users | targets to train on | {' | '.join(TITLES.values())} |",
        f"|---:|---:|{len(MODELS) * '---:|'}",
    ]
    for size in results["sizes"]:
        models = size["models"]
        aucs = [f"{models[GIVEN]['auc']['mean']:.4f}"]
        aucs += [f"{Interval.from_json(models[name]['difference']):+.4f}" for name in OTHERS]
        cells = [f"{size['users']:,}", f"{size['train_targets']:,}", *aucs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: str) -> None:
    """Draws AUC, and its difference to given attention, against the size; without background."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = results["sizes"]
    users = [size["users"] for size in sizes]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT)
    with pyplot.rc_context({**style, "axes.edgecolor": _TEXT, "font.size": 9}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
        for name in MODELS:
            of_sizes, color = [size["models"][name] for size in sizes], _COLORS[name]
            label = f"{TITLES[name]} ({name})"
            left.plot(users, [m["auc"]["mean"] for m in of_sizes], "o-", color=color, label=label)
            for number, of_size in zip(users, of_sizes):
                seeds = of_size["auc"]["values"]
                left.plot([number] * len(seeds), seeds, ".", color=color, markersize=4)
            if name == GIVEN:
                right.axhline(0, color=color, linewidth=1.5)
                continue
            low, middle, high = (
                [m["difference"][end] for m in of_sizes] for end in ("low", "estimate", "high")
            )
            right.plot(users, middle, "o-", color=color)
            right.fill_between(users, low, high, color=color, alpha=0.25, linewidth=0)
        left.set(title="Test AUC (dots: seeds)", ylabel="test AUC")
        right.set(title="Difference to given attention, 95% over users", ylabel="AUC difference")
        figure.legend(frameon=False, ncols=2, loc="outside lower center")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="users in the log")
            axes.set_xticks(users, [f"{number:,}" for number in users])
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color=_TEXT, alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, transparent=True)
    pyplot.close(figure)


def main() -> int:
    """Runs ``python -m tests.benchmarks.crossing``."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.crossing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="build/crossing", help="folder for logs and results")
    parser.add_argument("--users", type=int, nargs="+", default=[200, 800, 3200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    results = measure(options.output, options.users, options.seeds)
    write_json(os.path.join(options.output, "crossing.json"), results)
    write_text(os.path.join(options.output, "crossing.md"), markdown(results))
    plot(results, os.path.join(options.output, "crossing.png"))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
