"""From finished trials to numbers: means over seeds, paired differences, orderings."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdare.comparison import paper
from tfdare.comparison.measure import Measurement
from tfdare.comparison.plan import Row, Trial, shares_tables
from tfdare.comparison.trials import Trials
from tfdare.errors import UsageError
from tfdare.metrics import UserBootstrap
from tfdare.models import MODELS
from tfdare.training.run_folder import PREDICTIONS

REFERENCE = "DARE"
_TEST = ("auc", "auc_seen", "auc_new", "gauc", "logloss")
_VERDICTS = {1: "holds", -1: "reversed", 0: "not separable"}


def summarize_trials(
    trials: Trials,
    rates: Mapping[Row, float],
    seeds: Sequence[int],
    costs: Mapping[Row, Measurement],
    resamples: int = 1000,
) -> dict[str, Any]:
    """All that ``comparison.json`` holds about the models.

    Args:
        trials: Trials. All of them finished.
        rates: mapping of row to its learning rate.
        seeds: sequence of int.
        costs: mapping of row to Measurement.
        resamples: int. Of users.

    Returns:
        ``rows``, best test AUC first; ``orderings`` of the paper with a verdict each;
        ``baselines``.

    Raises:
        UsageError: predictions of two runs are not of the same targets.
    """
    done = {row: _finished(trials, row, rates[row], seeds) for row in rates}
    done = {row: found for row, found in done.items() if found}
    bootstrap = _bootstrap(trials, done, resamples)
    rows = []
    for row, found in done.items():
        metrics = [trials.metrics(trial) for trial in found]
        reference = _counterpart(REFERENCE, row, done)
        rows.append(
            {
                "model": row.model,
                "title": MODELS[row.model].title,
                "attention_dim": row.attention_dim,
                "representation_dim": row.representation_dim,
                "columns": row.columns,
                "one_table": shares_tables(row.model),
                "learning_rate": rates[row],
                "seeds": [trial.seed for trial in found],
                "diverged": [seed for seed in seeds if seed not in {t.seed for t in found}],
                "test": {name: _spread([m["test"][name] for m in metrics]) for name in _TEST},
                "validation_auc": _spread([m["validation"]["auc"] for m in metrics]),
                "best_epoch": _spread([m["training"]["best_epoch"] for m in metrics]),
                "examples_per_s": _median([m["training"]["examples_per_s"] for m in metrics]),
                **(dataclasses.asdict(costs[row]) if row in costs else {}),
                "auc_interval": dataclasses.asdict(bootstrap.auc(row)),
                "difference": None
                if reference in (None, row)
                else {
                    "to": {"model": reference.model, "columns": reference.columns},
                    **dataclasses.asdict(bootstrap.difference(row, reference)),
                },
                "paper": _paper(row),
            }
        )
    rows.sort(key=lambda one: -one["test"]["auc"]["mean"])
    return {
        "rows": rows,
        "orderings": _orderings(done, bootstrap),
        "baselines": _baselines(trials, done),
    }


def _finished(trials, row, rate, seeds) -> list[Trial]:
    found = [Trial(row, rate, seed) for seed in seeds]
    return [trial for trial in found if not trials.diverged(trial)]


def _bootstrap(trials, done, resamples) -> UserBootstrap:
    label = user = None
    scores: dict[Row, list[np.ndarray]] = {}
    for row, found in done.items():
        for trial in found:
            path = os.path.join(trials.path(trial), PREDICTIONS)
            with np.load(path) as file:
                if label is None:
                    label, user = file["label"], file["user"]
                elif not (
                    np.array_equal(label, file["label"]) and np.array_equal(user, file["user"])
                ):
                    raise UsageError(
                        f"{path!r} holds predictions of other targets than the other "
                        "runs: the sequences were changed in between"
                    )
                scores.setdefault(row, []).append(file["probability"])
    return UserBootstrap(label, user, scores, resamples)


def _counterpart(model: str, row: Row, done) -> Row | None:
    """The row of `model` that `row` is set against: with as narrow an attention side."""
    same = [one for one in done if one.model == model and one.attention_dim == row.attention_dim]
    if not shares_tables(row.model):
        same = [one for one in same if one.representation_dim == row.representation_dim]
    return max(same, key=lambda one: one.representation_dim, default=None)


def _orderings(done, bootstrap) -> list[dict[str, Any]]:
    """Every ordering of the paper that these rows can judge, for every pair of dimensions."""
    found = []
    for better, worse in paper.ORDERINGS:
        for one, other in _pairs(done, better, worse):
            between = bootstrap.difference(one, other)
            of_paper = paper.holds_in(better, worse)
            found.append(
                {
                    "better": better,
                    "worse": worse,
                    "columns": [one.columns, other.columns],
                    "verdict": _VERDICTS[between.sign],
                    **dataclasses.asdict(between),
                    "paper_holds": of_paper[0],
                    "paper_settings": of_paper[1],
                }
            )
    return found + _above_all(done, bootstrap)


def _pairs(done, better, worse) -> list[tuple[Row, Row]]:
    """Rows of both models with equally wide attention; of the widest representation, if one of
    the two has a single table."""
    pairs = []
    for one in done:
        rivals = [
            other
            for other in done
            if one.model == better
            and other.model == worse
            and other.attention_dim == one.attention_dim
        ]
        if shares_tables(better) == shares_tables(worse):
            rivals = [
                other for other in rivals if other.representation_dim == one.representation_dim
            ]
        pairs += [(one, other) for other in rivals]
    widest: dict[tuple, tuple[Row, Row]] = {}
    for one, other in pairs:
        narrow = other if shares_tables(other.model) else one
        if shares_tables(better) == shares_tables(worse):
            narrow = one
        key, wide = narrow, max(one.representation_dim, other.representation_dim)
        if key not in widest or wide > max(row.representation_dim for row in widest[key]):
            widest[key] = (one, other)
    return list(widest.values())


def _above_all(done, bootstrap) -> list[dict[str, Any]]:
    """Whether the paper's DARE is above every rival of equal dimensions; what is named after it
    is none."""
    found = []
    for one in (row for row in done if row.model == paper.DARE):
        rivals = [
            other
            for other in done
            if other.model.split("-")[0] != REFERENCE
            and _counterpart(paper.DARE, other, done) == one
        ]
        if len(rivals) < 2:
            continue
        between = {other: bootstrap.difference(one, other) for other in rivals}
        below = [other for other in rivals if between[other].sign < 0]
        level = [other for other in rivals if between[other].sign == 0]
        verdict = "reversed" if below else "not separable" if level else "holds"
        closest = min(rivals, key=lambda other: between[other].estimate)
        found.append(
            {
                "better": paper.DARE,
                "worse": "all",
                "columns": [one.columns, closest.columns],
                "verdict": verdict,
                **dataclasses.asdict(between[closest]),
                "closest": closest.model,
                "above": len(rivals) - len(below) - len(level),
                "of": len(rivals),
                "ahead_of_it": [other.model for other in below],
                "not_separable": [other.model for other in level],
                **_paper_above_all(),
            }
        )
    return found


def _paper_above_all() -> dict[str, int]:
    holds = [
        all(figures[paper.DARE][log] >= other[log] for other in figures.values())
        for figures in paper.AUC.values()
        for log in range(len(paper.LOGS))
    ]
    return {"paper_holds": sum(holds), "paper_settings": len(holds)}


def _paper(row: Row) -> dict[str, float] | None:
    figures = paper.AUC.get(row.attention_dim, {}).get(row.model)
    if figures is None or row.attention_dim != row.representation_dim:
        return None
    return dict(zip(paper.LOGS, figures))


def _baselines(trials, done) -> dict[str, Any]:
    first = next(iter(done.values()))[0]
    return trials.metrics(first)["test"]["baselines"]


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
