"""The trainings of a comparison: each in a folder of its own, none ever repeated."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from tfdare.comparison.plan import Row, Trial
from tfdare.compat import tf
from tfdare.files import write_json
from tfdare.training import train
from tfdare.training.callbacks import Diverged
from tfdare.training.run_folder import METRICS_FILE, MODEL, PREDICTIONS

DIVERGED = "diverged.json"


class Trials:
    """Trains what is missing under one folder, and knows what is there.

    Args:
        sequences: str. Folder of sequences.
        folder: str. Where the runs lie, one folder each.
        options: mapping. Arguments of :func:`tfdare.training.train` that all trials share.
        say: function of a line, for progress.
    """

    def __init__(
        self, sequences: str, folder: str, options: dict[str, Any], say: Callable[[str], None]
    ):
        self._sequences, self._folder, self._options = sequences, folder, dict(options)
        self._say = say
        self._seconds: dict[str, list[float]] = {}

    def path(self, trial: Trial) -> str:
        """Folder of one trial."""
        return os.path.join(self._folder, trial.name)

    def diverged(self, trial: Trial) -> bool:
        """Whether the trial ended with a loss that was no number."""
        return os.path.exists(os.path.join(self.path(trial), DIVERGED))

    def finished(self, trial: Trial) -> bool:
        """Whether nothing is left to train for it."""
        at = self.path(trial)
        whole = all(os.path.exists(os.path.join(at, n)) for n in (METRICS_FILE, MODEL, PREDICTIONS))
        return whole or self.diverged(trial)

    def metrics(self, trial: Trial) -> dict[str, Any] | None:
        """The trial's ``metrics.json``; None if it diverged."""
        if self.diverged(trial):
            return None
        with open(os.path.join(self.path(trial), METRICS_FILE), encoding="utf-8") as file:
            return json.load(file)

    def run(
        self, rows: Sequence[Row], rates: Sequence[float], seeds: Sequence[int]
    ) -> dict[Row, float]:
        """Trains all that is missing, first seed first.

        With several rates the first seed of each row is trained with each of them, and the best
        validation AUC chooses the rate of its other seeds.

        Returns:
            The learning rate of each row that did not diverge with every rate.
        """
        first = [Trial(row, rate, seeds[0]) for row in rows for rate in rates]
        later = len(rows) * (len(seeds) - 1)
        self._work(first, later, len(first) + later)
        chosen = {row: self.best_rate(row, rates, seeds[0]) for row in rows}
        chosen = {row: rate for row, rate in chosen.items() if rate is not None}
        rest = [Trial(row, chosen[row], seed) for seed in seeds[1:] for row in chosen]
        self._work(rest, 0, len(first) + len(rest))
        return chosen

    def best_rate(self, row: Row, rates: Sequence[float], seed: int) -> float | None:
        """The rate with the highest validation AUC, the first of equals; None if all diverged."""
        values = self.validation_by_rate(row, rates, seed)
        known = [rate for rate in rates if values[rate] is not None]
        return max(known, key=lambda rate: values[rate], default=None)

    def validation_by_rate(
        self, row: Row, rates: Sequence[float], seed: int
    ) -> dict[float, float | None]:
        """Validation AUC of one seed by rate; None where it diverged."""
        found = {rate: self.metrics(Trial(row, rate, seed)) for rate in rates}
        return {rate: m and m["validation"]["auc"] for rate, m in found.items()}

    def _work(self, trials: Sequence[Trial], after: int, total: int) -> None:
        todo = [trial for trial in trials if not self.finished(trial)]
        if len(todo) < len(trials):
            self._say(f"{len(trials) - len(todo)} of {len(trials)} runs were finished before")
        done = total - after - len(todo)
        for place, trial in enumerate(todo, 1):
            started = time.perf_counter()
            try:
                metrics = self._train(trial)
            except Diverged as error:
                write_json(os.path.join(self.path(trial), DIVERGED), {"error": str(error)})
                self._say(f"[{done + place}/{total}] {trial}: {error}")
                continue
            seconds = time.perf_counter() - started
            self._seconds.setdefault(trial.row.model, []).append(seconds)
            training = metrics["training"]
            left = total - done - place
            said = (
                f"[{done + place}/{total}] {trial}: validation AUC "
                f"{_show(metrics['validation']['auc'])}, test {_show(metrics['test']['auc'])}, "
                f"best epoch {training['best_epoch']} of {training['epochs_run']}, "
                f"{seconds:.0f} s"
            )
            if left:
                said += f"; {left} left, about {_duration(self._ahead(todo[place:], left))}"
            self._say(said)

    def _ahead(self, todo: Sequence[Trial], left: int) -> float:
        """Seconds to come: each model's own mean if it is known, the mean of all for the rest."""
        means = {model: sum(found) / len(found) for model, found in self._seconds.items()}
        overall = sum(means.values()) / len(means)
        known = [means.get(trial.row.model, overall) for trial in todo]
        return sum(known) + overall * (left - len(known))

    def _train(self, trial: Trial) -> dict[str, Any]:
        row = trial.row
        try:
            return train(
                self._sequences,
                self.path(trial),
                row.model,
                seed=trial.seed,
                attention_dim=row.attention_dim,
                representation_dim=row.representation_dim,
                learning_rate=trial.learning_rate,
                verbose=0,
                **self._options,
            )
        finally:  # graphs of one training must not weigh on the next
            tf.keras.backend.clear_session()
            gc.collect()


def _show(auc: float | None) -> str:
    return "n/a" if auc is None else f"{auc:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
