"""Convergence (AUC by training examples) and efficiency (AUC by width and by search time)."""

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
    """Measures AUC on held-out requests every few training steps.

    Args:
        batches: sequence of ``(requests, label, weight, user)``, as those of
            :class:`tfdare.analysis.UserBatches`; kept in memory.
        every: int. Steps between two measurements; the first comes before the first step.
            Defaults to 20.
        examples_a_step: float. Candidates in one training step.

    Attributes:
        steps: list of int. Training steps before each measurement.
        probabilities: list of float32 ``[n]``. Predictions at each measurement.
        label: bool ``[n]``.
        user: int ``[n]``.
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
                np.broadcast_to(users[:, None], real.shape)[real]
                for (*_, users), real in zip(batches, self._real)
            ]
        )
        self.user = np.unique(user, return_inverse=True)[1]
        self._predictor: Predictor | None = None
        self._step = 0

    def on_train_begin(self, logs=None):
        """Measures before the first step, unless an earlier fit did."""
        if self._predictor is None:
            self.measure()

    def on_train_batch_end(self, batch, logs=None):
        """Measures after every `every` steps."""
        self._step += 1
        if self._step % self.every == 0:
            self.measure()

    def on_train_end(self, logs=None):
        """Measures after the last step."""
        if self.steps[-1] != self._step:
            self.measure()

    def measure(self) -> None:
        """Predicts the held-out requests with the model's current weights."""
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
    """Computes AUC by training examples for several models, with intervals over users.

    Args:
        probes: mapping of name to AUCProbe, all on the same requests; the first is the reference.
        resamples: int. Resamples of users.

    Returns:
        ``requests`` and ``users``, how many; ``models``: by name ``examples`` and ``auc`` (95%
        intervals); ``speed``: for each other model its best AUC, the examples that it and that the
        reference needed to reach it, ``ratio``, the first over the second (interval over users;
        None where the reference never reaches it), and ``resamples_reached``, the share of
        resamples in which it does.
    """
    first = next(iter(probes))
    label, user = probes[first].label, probes[first].user
    scores = {
        (name, index): [probability]
        for name, probe in probes.items()
        for index, probability in enumerate(probe.probabilities)
    }
    bootstrap = UserBootstrap(label, user, scores, resamples)
    examples = {
        name: np.array(probe.steps) * probe.examples_a_step for name, probe in probes.items()
    }
    curves, resampled = {}, {}
    for name, probe in probes.items():
        indices = range(len(probe.steps))
        curves[name] = [bootstrap.auc((name, index)) for index in indices]
        resampled[name] = np.stack([bootstrap.drawn((name, index)) for index in indices])
    numbers: dict[str, Any] = {
        "requests": sum(len(real) for real in probes[first]._real),
        "users": int(user.max()) + 1,
        "models": {name: {"examples": examples[name], "auc": curves[name]} for name in probes},
        "speed": {},
    }
    for name in [name for name in probes if name != first]:
        reference, other = (  # column 0 is the estimate, the others are resamples
            np.column_stack([[auc.estimate for auc in curves[n]], resampled[n]])
            for n in (first, name)
        )
        needed = [
            _examples_to_best(examples[first], reference_auc, examples[name], auc)
            for reference_auc, auc in zip(reference.T, other.T)
        ]
        ratio = np.array([more / fewer if fewer else np.nan for fewer, more in needed])
        numbers["speed"][name] = {
            "auc": float(np.max(other[:, 0])),
            "examples": needed[0][1],
            "reference_examples": needed[0][0],
            "reference": first,
            "ratio": interval(ratio[0], ratio[1:]),
            "resamples_reached": float(np.isfinite(ratio[1:]).mean()),
        }
    return as_json(numbers)


def _examples_to_best(examples, auc, other_examples, other_auc) -> tuple[float, float]:
    """Returns the examples after which a curve, and another, reach the other's best AUC."""
    goal = float(np.max(other_auc))
    return examples_to(goal, examples, auc), examples_to(goal, other_examples, other_auc)


def examples_to(goal: float, examples: Sequence[float], auc: Sequence[float]) -> float:
    """Returns the examples after which a curve first reaches an AUC; NaN if it never does.

    Args:
        goal: float. The AUC.
        examples: sequence of float, ascending.
        auc: sequence of float. AUC after these numbers of examples; linear between them.

    Example:
        >>> examples_to(0.7, [0, 100, 200], [0.5, 0.6, 0.8])
        150.0
    """
    reached = np.flatnonzero(np.asarray(auc) >= goal)
    if not reached.size:
        return float("nan")
    i = int(reached[0])
    if i == 0 or auc[i] == auc[i - 1]:
        return float(examples[i])
    fraction = (goal - auc[i - 1]) / (auc[i] - auc[i - 1])
    return float(examples[i - 1] + fraction * (examples[i] - examples[i - 1]))


def efficiency(folder: str, resamples: int = 200) -> dict[str, Any]:
    """Reads AUC by attention width, and the time of search, from a comparison.

    Args:
        folder: str. Folder that `tfdare compare` wrote.
        resamples: int. Resamples of users.

    Returns:
        ``models``: by name a list, by `attention_dim`, of ``attention_dim``,
        ``representation_dim``, ``auc``, ``low``, ``high`` (95% interval), ``to_widest``
        (AUC minus that of the model's widest attention, with the interval of the difference),
        ``search_ms`` and ``search_bytes``.

    Raises:
        UsageError: there is no finished comparison in the folder.
    """
    path = os.path.join(folder, "comparison.json")
    if not os.path.exists(path):
        raise UsageError(f"No finished comparison at {folder!r}: it has no comparison.json")
    with open(path, encoding="utf-8") as file:
        rows = sorted(json.load(file)["rows"], key=lambda row: row["attention_dim"])
    label, user = None, None
    scores: dict[int, list[np.ndarray]] = {}
    for index, row in enumerate(rows):
        configuration = Row(row["model"], row["attention_dim"], row["representation_dim"])
        settings = row.get("settings", {"learning_rate": row["learning_rate"]})
        for seed in row["seeds"]:
            name = Trial(configuration, seed=seed, **settings).name
            with np.load(os.path.join(folder, "runs", name, PREDICTIONS)) as predictions:
                label, user = predictions["label"], predictions["user"]
                scores.setdefault(index, []).append(predictions["probability"])
    bootstrap = UserBootstrap(label, user, scores, resamples)
    models: dict[str, list] = {}
    widest = {row["model"]: index for index, row in enumerate(rows)}
    for index, row in enumerate(rows):
        auc = bootstrap.auc(index)
        models.setdefault(row["model"], []).append(
            {
                "attention_dim": row["attention_dim"],
                "representation_dim": row["representation_dim"],
                "auc": auc.estimate,
                "low": auc.low,
                "high": auc.high,
                "to_widest": bootstrap.difference(index, widest[row["model"]]),
                "search_ms": row.get("search_ms"),
                "search_bytes": row.get("search_bytes"),
            }
        )
    return as_json({"models": models})


def plot_convergence(numbers: Mapping[str, Any]):
    """Draws AUC against training examples.

    Args:
        numbers: mapping. What :func:`convergence_numbers` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import band, color_of, finish, new_figure

    figure, ((axes,),) = new_figure(1, 1, height=3.6, width=8)
    for model, curve in numbers["models"].items():
        band(axes, curve["examples"], curve["auc"], color_of(model), model)
    for name, speed in numbers["speed"].items():
        if speed["reference_examples"] is not None:
            axes.hlines(
                speed["auc"],
                speed["reference_examples"],
                speed["examples"],
                colors=color_of(name),
                linestyles=":",
                linewidth=1.2,
            )
    aucs = [curve["auc"] for curve in numbers["models"].values()]
    lows = [auc[min(1, len(auc) - 1)]["low"] for auc in aucs]
    axes.set_ylim(bottom=min(low for low in lows if low is not None) - 0.01)
    axes.set(
        xlabel="training examples",
        ylabel="validation AUC",
        title="Convergence. Dotted: the examples that the first model saves to reach the other's "
        "best AUC",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    return finish(figure)


def plot_efficiency(numbers: Mapping[str, Any]):
    """Draws AUC against the width of attention tables, and against the time of search.

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
        title="AUC by width of the attention tables",
    )
    speed.set(xlabel="search time, ms", title="AUC by search time (labels: K_A)")
    return finish(figure)
