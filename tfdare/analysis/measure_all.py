"""Runs all measurements of the paper on the same models and data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tfdare.analysis.accuracy import measure_accuracy
from tfdare.analysis.attention import (
    attention_accuracy,
    category_of,
    interest_counts,
    keep_positive_lift,
)
from tfdare.analysis.batches import UserBatches
from tfdare.analysis.convergence import convergence_numbers, efficiency
from tfdare.analysis.discriminability import measure_discriminability
from tfdare.analysis.findings import APART, GIVEN, SHARED
from tfdare.analysis.gradients import gradient_numbers, gradients_of
from tfdare.analysis.retrace import retrace_training, trace_steps
from tfdare.analysis.search_quality import (
    InformationTruth,
    PlantedTruth,
    Relevance,
    measure_search_quality,
)
from tfdare.data import read_requests
from tfdare.models import recipe_of
from tfdare.sequences import Sequences
from tfdare.training import Run

PROBE_REQUESTS = 256
HELD_OUT_REQUESTS = 3000


def attention_of(model) -> str:
    """Returns where a model's attention comes from: a name of :data:`ATTENTION`."""
    embedding = model.embedding
    if embedding.attention_given:
        return GIVEN
    return SHARED if any(map(embedding.shares, embedding.schema.names)) else APART


class Measurements:
    """Takes all measurements of trained models.

    Args:
        runs: mapping of name to Run; the first is the reference of the differences.
        sequences: Sequences. Those that all were trained on.
        split: str. The split to measure on.
        limit: int. About how many requests are read for search and discriminability.
        resamples: int. Resamples of users.
        show_progress: function of a title that returns a function that wraps an iterable to show
            progress.
        say: function that is called with a line when a measurement starts, or None.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        sequences: Sequences,
        split: str,
        limit: int,
        resamples: int,
        show_progress: Callable,
        say: Callable[[str], None] | None = None,
    ):
        self._runs, self._sequences, self._split = runs, sequences, split
        self._limit, self._resamples, self._show_progress = limit, resamples, show_progress
        self._say = say or (lambda line: None)

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """The trained models by name."""
        return {name: run.model() for name, run in self._runs.items()}

    def measure_all(
        self,
        truth: str | None,
        comparison: str | None,
        steps: int,
        every: int,
        min_count: int,
        smoothing: float,
    ) -> dict[str, Any]:
        """Takes all measurements; arguments as of :func:`tfdare.analysis.runner.analyze`.

        Returns:
            A dict with the numbers of each section of the report.
        """
        efficiency_numbers = None if comparison is None else efficiency(comparison, self._resamples)
        planted = None if truth is None else PlantedTruth(truth, self._sequences)
        numbers: dict[str, Any] = {"data": self._describe_data(), "models": self._describe_models()}
        self._say("[1/5] accuracy, calibration and slices")
        numbers["accuracy"] = measure_accuracy(
            self.models,
            self._sequences,
            self._split,
            self._resamples,
            progress=self._show_progress("ranking"),
        )
        self._say("[2/5] attention against mutual information")
        counts = interest_counts(self._sequences, progress=self._show_progress("counting"))
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
                progress=self._show_progress("attention"),
            ),
        }
        self._say("[3/5] quality of search")
        name = category_of(self._sequences.schema)
        truths: dict[str, Relevance] = {
            "information": InformationTruth(table, name),
            "information_for": InformationTruth(keep_positive_lift(table), name),
        }
        if planted is not None:
            truths["planted"] = planted
            if planted.conflicts:
                truths["planted_against"] = planted.against
        numbers["search"] = measure_search_quality(
            self.models,
            self._sequences,
            truths,
            self._split,
            self._limit,
            resamples=self._resamples,
            progress=self._show_progress("search"),
        )
        self._say("[4/5] discriminability of representations")
        numbers["discriminability"] = measure_discriminability(
            self.models,
            self._sequences,
            split=self._split,
            limit=self._limit,
            resamples=self._resamples,
            progress=self._show_progress("clusters"),
        )
        self._say(
            "[5/5] gradients and convergence, while training once more"
            if steps
            else "[5/5] gradients of the trained models"
        )
        numbers.update(self.measure_training(steps, every))
        numbers["efficiency"] = efficiency_numbers
        return numbers

    def measure_training(self, steps: int, every: int) -> dict[str, Any]:
        """Measures gradients and AUC while fresh models are trained.

        Args:
            steps: int. Most training steps; 0 measures the gradients of the trained models instead.
            every: int. Steps between measurements.

        Returns:
            ``gradients``, of the models that learn attention, and, unless `steps` is 0,
            ``convergence``.
        """
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
                    if not model.embedding.attention_given
                }
            }
        held_out = list(UserBatches(self._sequences, "validation", 512, HELD_OUT_REQUESTS))
        gradients, auc = {}, {}
        for name, run in self._runs.items():
            with self._show_progress(name)(range(trace_steps(run, self._sequences, steps))) as bar:
                gradients[name], auc[name] = retrace_training(
                    run, self._sequences, batch, held_out, every, steps, bar.update
                )
        return {
            "gradients": {
                name: gradient_numbers(probe, self._resamples)
                for name, probe in gradients.items()
                if probe is not None
            },
            "convergence": convergence_numbers(auc, self._resamples),
        }

    def _describe_data(self):
        sequences, split = self._sequences, self._split
        return {
            "split": split,
            "requests": sequences.requests(split),
            "users": sequences.users(split),
            "window": sequences.schema.window,
            "schema_digest": sequences.schema.digest,
            "category": category_of(sequences.schema),
        }

    def _describe_models(self):
        options = (
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
                "title": recipe_of(run.options["model"]).title,
                "attention": attention_of(self.models[name]),
                "evidence": bool(self.models[name].evidence),
                "vectors": recipe_of(run.options["model"]).vectors,
                **{key: run.options.get(key) for key in options},
            }
            for name, run in self._runs.items()
        }
