"""Measures which parts carry the gain: DARE with a part more, or a part less.

python -m tests.benchmarks.ablation --sequences build/checkins --output build/ablation

Every variant is trained with every seed, as `tfdare compare` trains (at most 4 epochs, stopped
after the first without a better validation AUC), and its test AUC set against its base's with an
interval over users. Writes ablation.md, ablation.json and ablation.png. Called again, it trains
only what is missing. Not part of `make bench`: it takes an hour or two on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.files import write_json
from tfdare.layers import (
    AffinityFacts,
    Average,
    DecoupledEmbedding,
    Head,
    MatchCounts,
    MultiHeadPooling,
    Recent,
    ScoreFacts,
    ScoreSum,
    Sum,
    TargetAwarePooling,
)
from tfdare.metrics import UserBootstrap
from tfdare.models import MODELS, recipe_of
from tfdare.models.published import Recipe
from tfdare.training import train
from tfdare.training.run_folder import METRICS_FILE, PREDICTIONS

TRAINING = {"epochs": 4, "patience": 1}
PUBLISHED, EVIDENCE = "DARE-paper", "DARE-learned"


@dataclass(frozen=True)
class Variant:
    """A recipe or a way of training, and the base that it is compared with."""

    title: str
    base: str
    recipe: Recipe
    training: Mapping[str, Any] = field(default_factory=dict)


def _changed(name: str, /, **parts: Callable) -> Recipe:
    """Replaces parts of a published recipe, or its own fields such as `embedding` and `recent`."""
    recipe = MODELS[name]
    own = {
        key: parts.pop(key)
        for key in ("embedding", "recent", "pooling", "position")
        if key in parts
    }
    return dataclasses.replace(recipe, parts={**recipe.parts, **parts}, **own)


def _facts(*layers: type) -> Callable:
    return lambda: [layer(name=layer.__name__.lower()) for layer in layers]


def _pooled(*weightings: type) -> Callable:
    return lambda: TargetAwarePooling([weighting() for weighting in weightings], name="pooling")


def variants() -> dict[str, Variant]:
    """Returns all variants, by the name of their runs."""

    def added(title, **parts):
        return Variant(title, PUBLISHED, _changed(PUBLISHED, **parts))

    def trained(title, **training):
        return Variant(title, PUBLISHED, MODELS[PUBLISHED], training)

    def less(title, **parts):
        return Variant(title, EVIDENCE, _changed(EVIDENCE, **parts))

    def rival(name):
        recipe = recipe_of(f"{name}+evidence")
        return Variant(recipe.title, EVIDENCE, recipe)

    return {
        PUBLISHED: Variant("DARE, as published", PUBLISHED, MODELS[PUBLISHED]),
        "counts": added("+ match counts", evidence=_facts(MatchCounts)),
        "scores": added("+ score facts", evidence=_facts(ScoreFacts)),
        "affinity": added("+ affinity facts", evidence=_facts(AffinityFacts)),
        "sum": added("sum of sigmoids for the average", pooling=_pooled(Sum)),
        "average-sum": added("sum of sigmoids beside the average", pooling=_pooled(Average, Sum)),
        "recent": added(
            "+ attention over the 50 newest", recent=50, pooling=_pooled(Average, Recent)
        ),
        "heads": added(
            "two heads of 64 in the score stage",
            pooling=lambda: MultiHeadPooling(2, 64, name="pooling"),
        ),
        "plain-head": added(
            "no batch normalization", head=lambda: Head(batch_norm=False, name="head")
        ),
        "score-sum": added(
            "auxiliary head on the unnormalized sum",
            auxiliary_pooling=lambda: TargetAwarePooling([ScoreSum()], name="auxiliary_pooling"),
        ),
        "no-position": added("no positions", position=False),
        "wide-start": added(
            "tables start at N(0, 0.05²), not N(0, 0.02²)",
            embedding=lambda schema: DecoupledEmbedding(schema, 0.05),
        ),
        "dropout": trained("dropout 0.3", dropout=0.3),
        "decay": trained("weight decay 0.01", weight_decay=0.01),
        "clip": trained("gradients clipped at norm 1", clip_norm=1.0),
        "cosine": trained("rate falls along a cosine over 3 epochs", schedule="cosine", epochs=3),
        "slow": trained("half the learning rate", learning_rate=0.005),
        "long": trained("8 epochs, patience 3", epochs=8, patience=3),
        EVIDENCE: Variant("DARE, attention learned, with evidence", EVIDENCE, MODELS[EVIDENCE]),
        "less-counts": less("without match counts", evidence=_facts(ScoreFacts, AffinityFacts)),
        "less-scores": less("without score facts", evidence=_facts(MatchCounts, AffinityFacts)),
        "less-affinity": less("without affinity facts", evidence=_facts(MatchCounts, ScoreFacts)),
        "evidence-recent": less(
            "+ attention over the 50 newest", recent=50, pooling=_pooled(Average, Recent)
        ),
        "evidence-plain-head": less(
            "no batch normalization", head=lambda: Head(batch_norm=False, name="head")
        ),
        "twin-evidence": rival("TWIN"),
        "sim-evidence": rival("SIM-soft"),
    }


def ablate(sequences: str, output: str, seeds: list[int], names: list[str]) -> dict[str, Any]:
    """Trains what is missing and compares all variants; returns the content of ablation.json."""
    known = variants()
    bases = {known[name].base for name in names}
    chosen = {name: variant for name, variant in known.items() if name in {*names, *bases}}
    MODELS.update({name: variant.recipe for name, variant in chosen.items()})  # `train` looks there
    todo = [
        (name, seed)
        for seed in seeds
        for name in chosen
        if not os.path.exists(os.path.join(_path(output, name, seed), METRICS_FILE))
    ]
    for number, (name, seed) in enumerate(todo, 1):
        started = time.perf_counter()
        options = {**TRAINING, **chosen[name].training}
        metrics = train(sequences, _path(output, name, seed), name, seed=seed, verbose=0, **options)
        print(
            f"[{number}/{len(todo)}] {name}, seed {seed}: test AUC {metrics['test']['auc']:.4f}, "
            f"{time.perf_counter() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        tf.keras.backend.clear_session()
        gc.collect()
    scores, label, user = {}, None, None
    for name in chosen:
        scores[name] = []
        for seed in seeds:
            with np.load(os.path.join(_path(output, name, seed), PREDICTIONS)) as file:
                label, user = file["label"], file["user"]
                scores[name].append(file["probability"])
    bootstrap = UserBootstrap(label, user, scores)
    rows = []
    for name, variant in chosen.items():
        tests = []
        for seed in seeds:
            with open(
                os.path.join(_path(output, name, seed), METRICS_FILE), encoding="utf-8"
            ) as file:
                tests.append(json.load(file)["test"])
        rows.append(
            {
                "name": name,
                "title": variant.title,
                "base": variant.base,
                "seeds": seeds,
                **{
                    key: statistics.fmean(test[key] for test in tests)
                    for key in ("auc", "auc_seen", "auc_new")
                },
                "deviation": statistics.stdev(t["auc"] for t in tests) if len(seeds) > 1 else None,
                "difference": None
                if name == variant.base
                else dataclasses.asdict(bootstrap.difference(name, variant.base)),
            }
        )
    return {"sequences": os.path.basename(os.path.normpath(sequences)), "rows": rows}


def markdown(results: dict[str, Any]) -> str:
    """Formats a table, each base followed by its variants, best first."""
    lines = [
        "| variant | test AUC | difference to its base [95%] | item seen before | new item |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in _ordered(results["rows"]):
        difference, base = row["difference"], row["name"] == row["base"]
        title = f"**{row['title']}**" if base else row["title"]
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
        interval = ""
        if difference is not None:
            low, high = difference["low"], difference["high"]
            interval = f"{difference['estimate']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(
            f"| {title} | {row['auc']:.4f}{spread} | {interval} | "
            f"{row['auc_seen']:.4f} | {row['auc_new']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: str) -> None:
    """Plots the differences: a dot each, a bar for the interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = _ordered(results["rows"])
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        if row["difference"] is None:
            axes.axhline(y, color="#e6e9ec", linewidth=14, zorder=0)
            continue
        difference = row["difference"]
        sure = difference["low"] > 0 or difference["high"] < 0
        color = "#9aa7b3" if not sure else "#2f7d4f" if difference["low"] > 0 else "#c1440e"
        axes.plot([difference["low"], difference["high"]], [y] * 2, color=color, linewidth=2.4)
        axes.plot(difference["estimate"], y, "o", color=color)
    axes.axvline(0, color="#33567a", linewidth=0.8)
    axes.set_yticks(
        range(len(rows)),
        [
            f"{row['title']}: {row['auc']:.4f}" if row["difference"] is None else row["title"]
            for row in rows
        ],
    )
    for tick, row in zip(axes.get_yticklabels(), rows):
        tick.set_fontweight("bold" if row["difference"] is None else "normal")
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("test AUC minus that of the bold row above;\nbar: 95% over users")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _ordered(rows):
    bases = [row for row in rows if row["name"] == row["base"]]
    for base in bases:
        others = [row for row in rows if row["base"] == base["name"] and row is not base]
        rows = [row for row in rows if row not in others]
        start = rows.index(base) + 1
        rows[start:start] = sorted(others, key=lambda row: -row["auc"])
    return rows


def _path(output, name, seed):
    return os.path.join(output, "runs", f"{name}-seed{seed}")


def main() -> int:
    """Runs ``python -m tests.benchmarks.ablation``."""
    known = list(variants())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    parser.add_argument("--output", required=True, help="folder for runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=known,
        default=known,
        metavar="NAME",
        help=f"of {', '.join(known)}; default: all",
    )
    options = parser.parse_args()
    results = ablate(options.sequences, options.output, options.seeds, options.variants)
    write_json(os.path.join(options.output, "ablation.json"), results)
    with open(os.path.join(options.output, "ablation.md"), "w", encoding="utf-8") as file:
        file.write(markdown(results))
    plot(results, os.path.join(options.output, "ablation.png"))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
