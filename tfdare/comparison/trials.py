"""The trainings of a comparison, each in its own folder; finished ones are not repeated."""

from __future__ import annotations

import gc
import json
import os
import statistics
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
    """Trains the trials that are missing in a folder, and reads those that are finished.

    Args:
        sequences: str. Folder of sequences.
        folder: str. Folder of the runs, which have a subfolder each.
        options: mapping. Arguments of :func:`tfdare.training.train` that all trials share.
        say: function that is called with each line of progress.
    """

    def __init__(
        self, sequences: str, folder: str, options: dict[str, Any], say: Callable[[str], None]
    ):
        self._sequences, self._folder, self._options = sequences, folder, dict(options)
        self._say = say
        self._seconds: dict[str, list[float]] = {}

    def path(self, trial: Trial) -> str:
        """Returns the folder of one trial."""
        return os.path.join(self._folder, trial.name)

    def diverged(self, trial: Trial) -> bool:
        """Checks whether the trial ended with a loss that was not finite."""
        return os.path.exists(os.path.join(self.path(trial), DIVERGED))

    def finished(self, trial: Trial) -> bool:
        """Checks whether the trial needs no more training."""
        paths = (os.path.join(self.path(trial), n) for n in (METRICS_FILE, MODEL, PREDICTIONS))
        return all(map(os.path.exists, paths)) or self.diverged(trial)

    def metrics(self, trial: Trial) -> dict[str, Any]:
        """Reads the ``metrics.json`` of a trial that did not diverge."""
        with open(os.path.join(self.path(trial), METRICS_FILE), encoding="utf-8") as file:
            return json.load(file)

    def run(
        self, rows: Sequence[Row], rates: Sequence[float], seeds: Sequence[int]
    ) -> dict[Row, float]:
        """Trains all missing trials, those of the first seed first.

        With several rates the first seed of each row is trained with each of them, and the best
        validation AUC chooses the rate of its other seeds.

        Returns:
            The learning rate of each row that did not diverge with every rate.
        """
        first = [Trial(row, rate, seeds[0]) for row in rows for rate in rates]
        later = len(rows) * (len(seeds) - 1)
        self._train_missing(first, later, len(first) + later)
        best = {row: self.best_rate(row, rates, seeds[0]) for row in rows}
        chosen = {row: rate for row, rate in best.items() if rate is not None}
        rest = [Trial(row, chosen[row], seed) for seed in seeds[1:] for row in chosen]
        self._train_missing(rest, 0, len(first) + len(rest))
        return chosen

    def best_rate(self, row: Row, rates: Sequence[float], seed: int) -> float | None:
        """Returns the first rate with the best validation AUC; None if all diverged."""
        values = self.validation_by_rate(row, rates, seed)
        known = {rate: value for rate, value in values.items() if value is not None}
        return max(known, key=known.__getitem__, default=None)

    def validation_by_rate(
        self, row: Row, rates: Sequence[float], seed: int
    ) -> dict[float, float | None]:
        """Reads the validation AUC of one seed by rate; None where it diverged."""
        trials = {rate: Trial(row, rate, seed) for rate in rates}
        return {
            rate: None if self.diverged(trial) else self.metrics(trial)["validation"]["auc"]
            for rate, trial in trials.items()
        }

    def _train_missing(self, trials: Sequence[Trial], after: int, total: int) -> None:
        todo = [trial for trial in trials if not self.finished(trial)]
        if len(todo) < len(trials):
            self._say(f"{len(trials) - len(todo)} of {len(trials)} runs were finished before")
        done = total - after - len(todo)
        for number, trial in enumerate(todo, done + 1):
            started = time.perf_counter()
            try:
                metrics = self._train(trial)
            except Diverged as error:
                write_json(os.path.join(self.path(trial), DIVERGED), {"error": str(error)})
                self._say(f"[{number}/{total}] {trial}: {error}")
                continue
            seconds = time.perf_counter() - started
            self._seconds.setdefault(trial.row.model, []).append(seconds)
            training = metrics["training"]
            left = total - number
            line = (
                f"[{number}/{total}] {trial}: validation AUC "
                f"{_digits(metrics['validation']['auc'])}, test {_digits(metrics['test']['auc'])}, "
                f"best epoch {training['best_epoch']} of {training['epochs_run']}, "
                f"{seconds:.0f} s"
            )
            if left:
                ahead = self._seconds_left(todo[number - done :], left)
                line += f"; {left} left, about {_duration(ahead)}"
            self._say(line)

    def _seconds_left(self, todo: Sequence[Trial], left: int) -> float:
        """Estimates from each model's mean time; from the mean of all for models not timed yet."""
        means = {model: statistics.fmean(times) for model, times in self._seconds.items()}
        overall = statistics.fmean(means.values())
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
        finally:  # frees the memory of this training's graphs
            tf.keras.backend.clear_session()
            gc.collect()


def _digits(auc: float | None) -> str:
    return "n/a" if auc is None else f"{auc:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
