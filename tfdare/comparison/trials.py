"""The trainings of a comparison, each in its own folder; finished ones are not repeated."""

from __future__ import annotations

import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfdare.comparison.plan import Row, Trial
from tfdare.comparison.tuning import tune
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
        self, rows: Sequence[Row], rates: Sequence[float], seeds: Sequence[int], tune: int = 0
    ) -> dict[Row, list[Trial]]:
        """Trains all missing trials, those of the first seed first.

        With several rates, or tuning, the first seed of each row has several trials, and the other
        seeds are trained with the settings of the :meth:`best` of them.

        Args:
            rows: sequence of Row.
            rates: sequence of float. Learning rates; with `tune`, one.
            seeds: sequence of int.
            tune: int. Trials of :func:`tfdare.comparison.tuning.tune` for each row. 0: none.

        Returns:
            The trials of the first seed of each row.
        """
        first = {row: [Trial(row, rate, seeds[0]) for rate in rates] for row in rows}
        later = len(rows) * (len(seeds) - 1)
        if tune:
            total = len(rows) * tune + later
            first = {
                row: self._tune(trial, tune, index * tune, total)
                for index, (row, (trial,)) in enumerate(first.items())
            }
        else:
            total = len(rows) * len(rates) + later
            self._train_missing([trial for of_row in first.values() for trial in of_row], 0, total)
        best = self.best(first).values()
        rest = [trial.with_seed(seed) for seed in seeds[1:] for trial in best]
        before = total - later
        self._train_missing(rest, before, before + len(rest))
        return first

    def best(self, tried: Mapping[Row, Sequence[Trial]]) -> dict[Row, Trial]:
        """Returns the first trial with the best validation AUC of each row that has one."""
        best = {}
        for row, trials in tried.items():
            aucs = {trial: self.validation_auc(trial) for trial in trials}
            known = {trial: auc for trial, auc in aucs.items() if auc is not None}
            if known:
                best[row] = max(known, key=known.__getitem__)
        return best

    def validation_auc(self, trial: Trial) -> float | None:
        """Reads the validation AUC of a finished trial; None where it diverged."""
        return None if self.diverged(trial) else self.metrics(trial)["validation"]["auc"]

    def _tune(self, first: Trial, count: int, before: int, total: int) -> list[Trial]:
        numbers = itertools.count(before + 1)

        def validation_auc(trial: Trial) -> float | None:
            number = next(numbers)
            if not self.finished(trial):
                self._train_and_say(trial, number, total, [])
            return self.validation_auc(trial)

        return tune(first, self._options, count, validation_auc)

    def _train_missing(self, trials: Sequence[Trial], before: int, total: int) -> None:
        todo = [trial for trial in trials if not self.finished(trial)]
        done = len(trials) - len(todo)
        if done:
            self._say(f"{done} of {len(trials)} runs were finished before")
        for index, trial in enumerate(todo, 1):
            self._train_and_say(trial, before + done + index, total, todo[index:])

    def _train_and_say(self, trial: Trial, number: int, total: int, todo: Sequence[Trial]) -> None:
        started = time.perf_counter()
        try:
            metrics = self._train(trial)
        except Diverged as error:
            write_json(os.path.join(self.path(trial), DIVERGED), {"error": str(error)})
            self._say(f"[{number}/{total}] {trial}: {error}")
            return
        seconds = time.perf_counter() - started
        self._seconds.setdefault(trial.row.model, []).append(seconds)
        training = metrics["training"]
        line = (
            f"[{number}/{total}] {trial}: validation AUC "
            f"{_digits(metrics['validation']['auc'])}, test {_digits(metrics['test']['auc'])}, "
            f"best epoch {training['best_epoch']} of {training['epochs_run']}, "
            f"{seconds:.0f} s"
        )
        if number < total:
            ahead = self._seconds_left(todo, total - number)
            line += f"; {total - number} left, about {_duration(ahead)}"
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
                verbose=0,
                **{**self._options, **trial.settings},
            )
        finally:
            free_memory()


def free_memory() -> None:
    """Frees the memory of a training's graphs."""
    tf.keras.backend.clear_session()
    gc.collect()


def _digits(auc: float | None) -> str:
    return "n/a" if auc is None else f"{auc:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
