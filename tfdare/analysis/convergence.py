"""How fast a model learns, and what accuracy costs in columns and in time of search."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdare.comparison.plan import Row, Trial
from tfdare.compat import tf
from tfdare.errors import UsageError
from tfdare.evaluation import Predictor
from tfdare.files import as_json
from tfdare.metrics import UserBootstrap
from tfdare.metrics.bootstrap import interval
from tfdare.training.run_folder import PREDICTIONS


class AUCProbe(tf.keras.callbacks.Callback):
    """AUC against examples seen, finer than an epoch.

    Every so many steps the model ranks the same held-out requests.

    Args:
        batches: sequence of ``(requests, label, weight, user)``, such as
            :class:`tfdare.analysis.UserBatches` gives them; kept in memory.
        every: int. Steps between two looks; the first is before the first step. Defaults to 20.
        examples_a_step: float. Candidates that a training step sees.
    """

    def __init__(self, batches: Sequence[tuple], every: int = 20, examples_a_step: float = 1.0):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be positive. Received: every={every}")
        self.every, self.examples_a_step = int(every), float(examples_a_step)
        self.steps: list[int] = []
        self.probabilities: list[np.ndarray] = []
        self._requests = [requests for requests, *_ in batches]
        self._real = [weight.numpy() > 0 for _, _, weight, _ in batches]
        self.label = np.concatenate(
            [label.numpy()[real] > 0.5 for (_, label, _, _), real in zip(batches, self._real)]
        )
        user = np.concatenate(
            [
                np.broadcast_to(one[3][:, None], real.shape)[real]
                for one, real in zip(batches, self._real)
            ]
        )
        self.user = np.unique(user, return_inverse=True)[1]
        self._predictor, self._step = None, 0

    def on_train_begin(self, logs=None):
        if self._predictor is None:
            self.look()

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self.every == 0:
            self.look()

    def on_train_end(self, logs=None):
        if self.steps[-1] != self._step:
            self.look()

    def look(self) -> None:
        """Ranks the requests now."""
        if self._predictor is None:
            self._predictor = Predictor(self.model)
        self.steps.append(self._step)
        self.probabilities.append(
            np.concatenate(
                [
                    self._predictor(requests)[real]
                    for requests, real in zip(self._requests, self._real)
                ]
            )
        )


def convergence_numbers(probes: Mapping[str, AUCProbe], resamples: int = 200) -> dict[str, Any]:
    """AUC by examples seen of models that looked at the same requests, with intervals over users.

    The examples that a model needs for an AUC are read off its curve, made monotone (best so far)
    and linear between looks.

    Args:
        probes: mapping of name to AUCProbe; the first is the reference.
        resamples: int. Of users.

    Returns:
        By model ``examples`` and ``auc`` (95% intervals); ``speed``: for each other model its
        best AUC, the examples that it and that the reference needed for it, and ``ratio``, how
        many times as many it needed (interval over users; None where the reference never gets
        there).
    """
    first = next(iter(probes))
    label, user = probes[first].label, probes[first].user
    scores = {
        (name, look): [probability]
        for name, probe in probes.items()
        for look, probability in enumerate(probe.probabilities)
    }
    bootstrap = UserBootstrap(label, user, scores, resamples)
    examples = {
        name: np.array(probe.steps) * probe.examples_a_step for name, probe in probes.items()
    }
    curves, drawn = {}, {}
    for name, probe in probes.items():
        looks = range(len(probe.steps))
        curves[name] = [bootstrap.auc((name, look)) for look in looks]
        drawn[name] = np.stack([bootstrap.drawn((name, look)) for look in looks])
    numbers: dict[str, Any] = {
        "requests": sum(len(real) for real in probes[first]._real),
        "users": int(user.max()) + 1,
        "models": {name: {"examples": examples[name], "auc": curves[name]} for name in probes},
        "speed": {},
    }
    for name in [name for name in probes if name != first]:
        pair = [np.array([one.estimate for one in curves[n]]) for n in (first, name)]
        pair = [np.column_stack([one, drawn[n]]) for one, n in zip(pair, (first, name))]
        needed = [
            _needed(examples[first], one, examples[name], other)
            for one, other in zip(pair[0].T, pair[1].T)
        ]
        ratio = np.array([theirs / mine if mine else np.nan for mine, theirs in needed])
        numbers["speed"][name] = {
            "auc": float(np.max(pair[1][:, 0])),
            "examples": needed[0][1],
            "reference_examples": needed[0][0],
            "reference": first,
            "ratio": interval(ratio[0], ratio[1:]),
            "resamples_reached": float(np.isfinite(ratio[1:]).mean()),
        }
    return as_json(numbers)


def _needed(examples, auc, other_examples, other_auc) -> tuple[float, float]:
    """Examples that one curve and another need for the other's best AUC."""
    goal = float(np.max(other_auc))
    return examples_to(goal, examples, auc), examples_to(goal, other_examples, other_auc)


def examples_to(goal: float, examples: Sequence[float], auc: Sequence[float]) -> float:
    """Examples at which a curve first reaches an AUC, linear between looks; NaN if never.

    Example:
        >>> examples_to(0.7, [0, 100, 200], [0.5, 0.6, 0.8])
        150.0
    """
    reached = np.flatnonzero(np.asarray(auc) >= goal)
    if not reached.size:
        return float("nan")
    at = int(reached[0])
    if at == 0 or auc[at] == auc[at - 1]:
        return float(examples[at])
    part = (goal - auc[at - 1]) / (auc[at] - auc[at - 1])
    return float(examples[at - 1] + part * (examples[at] - examples[at - 1]))


def efficiency(folder: str, resamples: int = 200) -> dict[str, Any]:
    """AUC against the width of attention tables, and against time of search.

    Args:
        folder: str. That `tfdare compare` wrote.
        resamples: int. Of users.

    Returns:
        ``models``: by name a list, by `attention_dim`, of ``attention_dim``,
        ``representation_dim``, ``auc``, ``low``, ``high`` (95% interval over users), ``to_widest``
        (AUC minus that of the model's widest attention, interval in pairs), ``search_ms`` and
        ``search_bytes``.

    Raises:
        UsageError: there is no finished comparison in the folder.
    """
    path = os.path.join(folder, "comparison.json")
    if not os.path.exists(path):
        raise UsageError(f"No finished comparison at {folder!r}: it has no comparison.json")
    with open(path, encoding="utf-8") as file:
        rows = sorted(json.load(file)["rows"], key=lambda row: row["attention_dim"])
    label, user, scores = None, None, {}
    for place, row in enumerate(rows):
        one = Row(row["model"], row["attention_dim"], row["representation_dim"])
        for seed in row["seeds"]:
            name = Trial(one, row["learning_rate"], seed).name
            with np.load(os.path.join(folder, "runs", name, PREDICTIONS)) as found:
                label, user = found["label"], found["user"]
                scores.setdefault(place, []).append(found["probability"])
    bootstrap = UserBootstrap(label, user, scores, resamples)
    models: dict[str, list] = {}
    widest = {row["model"]: place for place, row in enumerate(rows)}
    for place, row in enumerate(rows):
        auc = bootstrap.auc(place)
        models.setdefault(row["model"], []).append(
            {
                "attention_dim": row["attention_dim"],
                "representation_dim": row["representation_dim"],
                "auc": auc.estimate,
                "low": auc.low,
                "high": auc.high,
                "to_widest": bootstrap.difference(place, widest[row["model"]]),
                "search_ms": row.get("search_ms"),
                "search_bytes": row.get("search_bytes"),
            }
        )
    return as_json({"models": models})


def plot_convergence(numbers: Mapping[str, Any]):
    """Draws AUC against examples seen.

    Args:
        numbers: mapping. What :func:`convergence_numbers` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import band, color_of, finish, new_figure

    figure, ((axes,),) = new_figure(1, 1, height=3.6, width=8)
    for model, one in numbers["models"].items():
        band(axes, one["examples"], one["auc"], color_of(model), model)
    for name, one in numbers["speed"].items():
        if one["reference_examples"] is not None:
            axes.hlines(
                one["auc"],
                one["reference_examples"],
                one["examples"],
                colors=color_of(name),
                linestyles=":",
                linewidth=1.2,
            )
    lows = [one["auc"][min(1, len(one["auc"]) - 1)]["low"] for one in numbers["models"].values()]
    axes.set_ylim(bottom=min(low for low in lows if low is not None) - 0.01)
    axes.set(
        xlabel="training examples seen",
        ylabel="validation AUC",
        title="Convergence; dotted: from where the first model has the other's best AUC",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    return finish(figure)


def plot_efficiency(numbers: Mapping[str, Any]):
    """Draws AUC against columns of the attention tables, and against the time of search.

    Args:
        numbers: mapping. What :func:`efficiency` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import band, color_of, finish, new_figure

    figure, ((width, speed),) = new_figure(1, 2, height=3.4)
    dims = sorted({row["attention_dim"] for rows in numbers["models"].values() for row in rows})
    for model, rows in numbers["models"].items():
        intervals = [
            {"estimate": row["auc"], "low": row["low"], "high": row["high"]} for row in rows
        ]
        band(width, [row["attention_dim"] for row in rows], intervals, color_of(model), model)
        timed = [row for row in rows if row["search_ms"] is not None]
        speed.plot(
            [row["search_ms"] for row in timed],
            [row["auc"] for row in timed],
            "o-",
            color=color_of(model),
            markersize=4,
            label=model,
        )
        for row in timed:
            speed.annotate(
                str(row["attention_dim"]),
                (row["search_ms"], row["auc"]),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
            )
    width.set_xscale("log", base=2)
    width.set_xticks(dims, [str(dim) for dim in dims])
    width.minorticks_off()
    width.set(
        xlabel="columns of an attention table, K_A",
        ylabel="test AUC",
        title="Accuracy against the width of attention",
    )
    speed.set(xlabel="search, ms", title="and against the time of search (labels: K_A)")
    return finish(figure)
