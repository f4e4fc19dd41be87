"""Summarizes finished trials: means over seeds, paired differences, orderings."""

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
from tfdare.models import recipe_of
from tfdare.training.run_folder import PREDICTIONS

REFERENCE = "DARE"
_TEST = ("auc", "auc_seen", "auc_new", "gauc", "logloss")
_VERDICTS = {1: "holds", -1: "reversed", 0: "not separable"}


def summarize_trials(
    trials: Trials,
    chosen: Mapping[Row, Trial],
    seeds: Sequence[int],
    costs: Mapping[Row, Measurement],
    resamples: int = 1000,
) -> dict[str, Any]:
    """Computes the part of ``comparison.json`` about the models.

    Args:
        trials: Trials. All of them finished.
        chosen: mapping of row to a trial that has its settings.
        seeds: sequence of int.
        costs: mapping of row to Measurement.
        resamples: int. Resamples of users. Defaults to 1,000.

    Returns:
        ``rows``, best test AUC first; ``orderings`` of the paper with a verdict each;
        ``baselines``.

    Raises:
        UsageError: predictions of two runs are not of the same targets.
    """
    done = {row: _finished(trials, trial, seeds) for row, trial in chosen.items()}
    done = {row: of_row for row, of_row in done.items() if of_row}
    bootstrap = _bootstrap(trials, done, resamples)
    rows: list[dict[str, Any]] = []
    for row, of_row in done.items():
        metrics = [trials.metrics(trial) for trial in of_row]
        reference = _counterpart(REFERENCE, row, done)
        rows.append(
            {
                "model": row.model,
                "title": recipe_of(row.model).title,
                "attention_dim": row.attention_dim,
                "representation_dim": row.representation_dim,
                "columns": row.columns,
                "one_table": shares_tables(row.model),
                "learning_rate": chosen[row].learning_rate,
                "settings": chosen[row].settings,
                "seeds": [trial.seed for trial in of_row],
                "diverged": [seed for seed in seeds if seed not in {t.seed for t in of_row}],
                "test": {name: _spread([m["test"][name] for m in metrics]) for name in _TEST},
                "validation_auc": _spread([m["validation"]["auc"] for m in metrics]),
                "best_epoch": _spread([m["training"]["best_epoch"] for m in metrics]),
                "examples_per_s": _median([m["training"]["examples_per_s"] for m in metrics]),
                **(dataclasses.asdict(costs[row]) if row in costs else {}),
                "auc_interval": dataclasses.asdict(bootstrap.auc(row)),
                "difference": None
                if reference is None or reference == row
                else {
                    "to": {"model": reference.model, "columns": reference.columns},
                    **dataclasses.asdict(bootstrap.difference(row, reference)),
                },
                "paper": _paper(row),
            }
        )
    rows.sort(key=lambda row: -row["test"]["auc"]["mean"])
    return {
        "rows": rows,
        "orderings": _orderings(done, bootstrap),
        "baselines": _baselines(trials, done),
    }


def _finished(trials, chosen, seeds) -> list[Trial]:
    of_row = [chosen.with_seed(seed) for seed in seeds]
    return [trial for trial in of_row if not trials.diverged(trial)]


def _bootstrap(trials, done, resamples) -> UserBootstrap:
    targets: tuple[np.ndarray, np.ndarray] | None = None
    scores: dict[Row, list[np.ndarray]] = {}
    for row, of_row in done.items():
        for trial in of_row:
            path = os.path.join(trials.path(trial), PREDICTIONS)
            with np.load(path) as file:
                label_and_user = file["label"], file["user"]
                targets = targets or label_and_user
                if not all(map(np.array_equal, targets, label_and_user)):
                    raise UsageError(
                        f"{path!r} holds predictions of other targets than the other "
                        "runs: the sequences were changed in between"
                    )
                scores.setdefault(row, []).append(file["probability"])
    assert targets is not None, "no trials"
    return UserBootstrap(*targets, scores, resamples)


def _counterpart(model: str, row: Row, done) -> Row | None:
    """Returns the row of `model` to compare `row` with: of the same attention dimension, and the
    same representation dimension unless `row` has shared tables."""
    rivals = [r for r in done if r.model == model and r.attention_dim == row.attention_dim]
    if not shares_tables(row.model):
        rivals = [r for r in rivals if r.representation_dim == row.representation_dim]
    return max(rivals, key=lambda rival: rival.representation_dim, default=None)


def _orderings(done, bootstrap) -> list[dict[str, Any]]:
    """Tests the paper's orderings of the models in these rows, for every pair of dimensions."""
    orderings = []
    for better, worse in paper.ORDERINGS:
        for row, rival in _pairs(done, better, worse):
            difference = bootstrap.difference(row, rival)
            holds, settings = paper.holds_in(better, worse)
            orderings.append(
                {
                    "better": better,
                    "worse": worse,
                    "columns": [row.columns, rival.columns],
                    "verdict": _VERDICTS[difference.sign],
                    **dataclasses.asdict(difference),
                    "paper_holds": holds,
                    "paper_settings": settings,
                }
            )
    return orderings + _above_all(done, bootstrap)


def _pairs(done, better, worse) -> list[tuple[Row, Row]]:
    """Pairs rows of both models of the same attention and the same representation dimension;
    where only one of the two has shared tables, of the largest representation dimension."""
    alike = shares_tables(better) == shares_tables(worse)
    widest: dict[Row, tuple[Row, Row]] = {}
    for row in done:
        for rival in done:
            if (row.model, rival.model) != (better, worse):
                continue
            if row.attention_dim != rival.attention_dim:
                continue
            if alike and row.representation_dim != rival.representation_dim:
                continue
            narrow = rival if not alike and shares_tables(worse) else row
            wide = max(row.representation_dim, rival.representation_dim)
            if narrow not in widest or wide > max(r.representation_dim for r in widest[narrow]):
                widest[narrow] = (row, rival)
    return list(widest.values())


def _above_all(done, bootstrap) -> list[dict[str, Any]]:
    """Tests whether the paper's DARE is above all models of equal dimensions but other DAREs."""
    orderings = []
    for row in done:
        if row.model != paper.DARE:
            continue
        rivals = [
            rival
            for rival in done
            if rival.model.split("-")[0] != REFERENCE
            and _counterpart(paper.DARE, rival, done) == row
        ]
        if len(rivals) < 2:
            continue
        differences = {rival: bootstrap.difference(row, rival) for rival in rivals}
        ahead = [rival for rival in rivals if differences[rival].sign < 0]
        level = [rival for rival in rivals if differences[rival].sign == 0]
        closest = min(rivals, key=lambda rival: differences[rival].estimate)
        orderings.append(
            {
                "better": paper.DARE,
                "worse": "all",
                "columns": [row.columns, closest.columns],
                "verdict": _VERDICTS[-1 if ahead else 0 if level else 1],
                **dataclasses.asdict(differences[closest]),
                "closest": closest.model,
                "above": len(rivals) - len(ahead) - len(level),
                "of": len(rivals),
                "ahead_of_it": [rival.model for rival in ahead],
                "not_separable": [rival.model for rival in level],
                **_paper_above_all(),
            }
        )
    return orderings


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
