"""All measurements on the same models and data, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tfdare.analysis.accuracy import measure_accuracy
from tfdare.analysis.attention import (
    attention_accuracy,
    category_of,
    interest_counts,
    speaking_for,
)
from tfdare.analysis.batches import UserBatches
from tfdare.analysis.convergence import convergence_numbers, efficiency
from tfdare.analysis.discriminability import measure_discriminability
from tfdare.analysis.gradients import gradient_numbers, gradients_of
from tfdare.analysis.retrace import retrace_training, trace_steps
from tfdare.analysis.search_quality import InformationTruth, PlantedTruth, measure_search_quality
from tfdare.data import read_requests
from tfdare.models import MODELS
from tfdare.sequences import Sequences
from tfdare.training import Run

PROBE_REQUESTS = 256
HELD_OUT_REQUESTS = 3000


class Measured:
    """Trained models, measured.

    Args:
        runs: mapping of name to Run; the first is compared to each other one.
        sequences: Sequences. That all were trained on.
        split: str. That is ranked.
        limit: int. Requests for search and discriminability, about.
        resamples: int. Of users.
        shown: function of a title to a function that passes things on and shows progress.
        say: function of a line, or None.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        sequences: Sequences,
        split: str,
        limit: int,
        resamples: int,
        shown: Callable,
        say: Callable[[str], None] | None = None,
    ):
        self._runs, self._sequences, self._split = runs, sequences, split
        self._limit, self._resamples, self._shown = limit, resamples, shown
        self._say = say or (lambda line: None)

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """The trained models by name."""
        return {name: run.model() for name, run in self._runs.items()}

    def everything(
        self,
        truth: str | None,
        comparison: str | None,
        steps: int,
        every: int,
        min_count: int,
        smoothing: float,
    ) -> dict[str, Any]:
        """All measurements; arguments as of :func:`tfdare.analysis.runner.analyze`.

        Returns:
            A dict with a part for each section of the report.
        """
        cost = None if comparison is None else efficiency(comparison, self._resamples)
        planted = None if truth is None else PlantedTruth(truth, self._sequences)
        numbers: dict[str, Any] = {"data": self._data(), "models": self._about()}
        self._say("[1/5] accuracy, calibration and slices")
        numbers["accuracy"] = measure_accuracy(
            self.models,
            self._sequences,
            self._split,
            self._resamples,
            progress=self._shown("ranking"),
        )
        self._say("[2/5] mutual information, and attention beside it")
        counts = interest_counts(self._sequences, progress=self._shown("counting"))
        table = counts.table(smoothing, min_count)
        numbers["attention"] = {
            "min_count": min_count,
            "smoothing": smoothing,
            **attention_accuracy(
                self.models,
                self._sequences,
                table,
                split=self._split,
                limit=2 * self._limit,
                progress=self._shown("attention"),
            ),
        }
        self._say("[3/5] search against what matters")
        name = category_of(self._sequences.schema)
        truths = {
            "information": InformationTruth(table, name),
            "information_for": InformationTruth(speaking_for(table), name),
            **({} if planted is None else {"planted": planted}),
        }
        numbers["search"] = measure_search_quality(
            self.models,
            self._sequences,
            truths,
            self._split,
            self._limit,
            resamples=self._resamples,
            progress=self._shown("search"),
        )
        self._say("[4/5] clusters of representations")
        numbers["discriminability"] = measure_discriminability(
            self.models,
            self._sequences,
            split=self._split,
            limit=self._limit,
            resamples=self._resamples,
            progress=self._shown("clusters"),
        )
        self._say(
            "[5/5] gradients and convergence: training once more, watched"
            if steps
            else "[5/5] gradients of the trained models"
        )
        numbers.update(self.training(steps, every))
        numbers["efficiency"] = cost
        return numbers

    def training(self, steps: int, every: int) -> dict[str, Any]:
        """``gradients`` and ``convergence`` of trainings traced again; without `steps` the
        gradients of the trained models alone."""
        batch = next(
            iter(
                read_requests(
                    self._sequences, "train", PROBE_REQUESTS, shuffle=4 * PROBE_REQUESTS, seed=1
                )
            )
        )
        if not steps:
            return {
                "gradients": {
                    name: gradient_numbers(gradients_of(model, batch), self._resamples)
                    for name, model in self.models.items()
                }
            }
        held_out = list(UserBatches(self._sequences, "validation", 512, HELD_OUT_REQUESTS))
        gradients, auc = {}, {}
        for name, run in self._runs.items():
            with self._shown(name)(range(trace_steps(run, self._sequences, steps))) as bar:
                gradients[name], auc[name] = retrace_training(
                    run, self._sequences, batch, held_out, every, steps, bar.update
                )
        return {
            "gradients": {
                name: gradient_numbers(probe, self._resamples) for name, probe in gradients.items()
            },
            "convergence": convergence_numbers(auc, self._resamples),
        }

    def _data(self):
        found, split = self._sequences, self._split
        return {
            "split": split,
            "requests": found.requests(split),
            "users": found.users(split),
            "window": found.schema.window,
            "schema_digest": found.schema.digest,
            "category": category_of(found.schema),
        }

    def _about(self):
        kept = (
            "attention_dim",
            "representation_dim",
            "top_k",
            "epochs",
            "seed",
            "learning_rate",
            "batch_size",
            "warm_start",
        )
        return {
            name: {
                "model": run.options["model"],
                "title": MODELS[run.options["model"]].title,
                **{key: run.options.get(key) for key in kept},
            }
            for name, run in self._runs.items()
        }
