"""Tuning: for every row the same number of trials in the same small space of settings.

Trials differ in the learning rate, the head's dropout and, in models with an auxiliary head, the
weight of the auxiliary loss. The first one has the settings that the row has without tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tfdare.comparison.plan import Trial
from tfdare.errors import UsageError
from tfdare.models import recipe_of
from tfdare.schema import Feature, Schema

SPACE = {"learning_rate": (0.002, 0.05), "dropout": (0.0, 0.5), "auxiliary_weight": (0.0, 1.0)}
"""Lowest and highest value of each setting; learning rates are spread evenly over logarithms."""
RANDOM_TRIALS = 5
"""Trials before the sampler follows what it has seen."""


def check_tuning(defaults: Mapping[str, Any]) -> None:
    """Checks that settings can be tuned, before anything is trained.

    Args:
        defaults: mapping of each name in :data:`SPACE` to its value without tuning; None: as the
            model has it.

    Raises:
        UsageError: Optuna is not installed, or a default lies outside of the space.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError("`tune` needs Optuna: pip install 'tfdare[tune]'") from error
    for name, (low, high) in SPACE.items():
        if defaults[name] is not None and not low <= defaults[name] <= high:
            raise UsageError(
                f"`tune` starts from the `{name}` given and searches from {low:g} to {high:g}. "
                f"Received: {defaults[name]:g}"
            )


def tune(
    first: Trial,
    options: Mapping[str, Any],
    count: int,
    validation_auc: Callable[[Trial], float | None],
) -> list[Trial]:
    """Spends trials on one row; each is chosen by the validation AUC of those before.

    Nothing but the trials' runs is kept: the sampler is seeded, so that a second call gets the same
    trials from the same results, and `validation_auc` need not train again what is finished.

    Args:
        first: Trial. Without tuning; the others have its row and seed.
        options: mapping. Options of training that all trials share.
        count: int. Trials, the first included.
        validation_auc: function of a trial, which it trains; None: training diverged.

    Returns:
        The trials; two may be the same.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    defaults = {
        "learning_rate": first.learning_rate,
        "dropout": options["dropout"],
        "auxiliary_weight": auxiliary_weight(first.row.model, options["auxiliary_weight"]),
    }
    if not defaults["auxiliary_weight"]:
        del defaults["auxiliary_weight"]
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(*SPACE[name], log=name == "learning_rate")
        for name in defaults
    }
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=first.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(defaults)
    trials = []
    for number in range(count):
        suggestion = study.ask(space)
        rounded: dict[str, Any] = {
            name: _rounded(name, value) for name, value in suggestion.params.items()
        }
        trials.append(dataclasses.replace(first, **rounded) if number else first)
        auc = validation_auc(trials[-1])
        failed = optuna.trial.TrialState.FAIL if auc is None else None
        study.tell(suggestion, auc, failed)
    return trials


def _rounded(name: str, value: float) -> float:
    return float(f"{value:.2g}") if name == "learning_rate" else round(value, 2)


def auxiliary_weight(model: str, given: float | None) -> float:
    """Returns the weight of a model's auxiliary loss; 0 where it has no auxiliary head.

    Args:
        model: str. A name that :func:`tfdare.models.recipe_of` knows.
        given: float or None. The weight that training gets; None: as the model has it.
    """
    parts: dict[str, Any] = {} if given is None else {"auxiliary_weight": given}
    schema = Schema((Feature("item", 3), Feature("category", 3)), window=1)
    built = recipe_of(model).build(schema, top_k=1, **parts)
    return getattr(built, "auxiliary_weight", 0.0)
