"""Trains published models side by side on one folder of sequences, and compares them."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfdare.comparison import (
    Row,
    Trial,
    Trials,
    markdown,
    measure_costs,
    plot,
    rows_of,
    summarize_trials,
)
from tfdare.comparison.tuning import check_tuning
from tfdare.compat import KERAS_VERSION, tf
from tfdare.errors import UsageError
from tfdare.files import write_json, write_text
from tfdare.models import MODELS, recipe_of
from tfdare.schema import SchemaError
from tfdare.sequences import Sequences, open_sequences
from tfdare.training import TrainOptions, load_run

STATE = "compare.json"
OF_EACH_TRIAL = (
    "model",
    "attention_dim",
    "representation_dim",
    "learning_rate",
    "seed",
    "warm_start",
)
"""Options of training in which trials differ, or which have no meaning here."""

TRAINING_DEFAULTS = {
    name: value
    for name, value in dataclasses.asdict(TrainOptions(epochs=4, patience=1)).items()
    if name not in OF_EACH_TRIAL
}
LIST_DEFAULTS: dict[str, tuple] = {
    "models": tuple(MODELS),
    "seeds": (1, 2, 3),
    "attention_dims": (16,),
    "representation_dims": (16,),
    "learning_rates": (0.01,),
}
RESAMPLES = 1000


def compare(
    sequences: str,
    output: str,
    models: Sequence[str] = LIST_DEFAULTS["models"],
    seeds: Sequence[int] = LIST_DEFAULTS["seeds"],
    attention_dims: Sequence[int] = LIST_DEFAULTS["attention_dims"],
    representation_dims: Sequence[int] = LIST_DEFAULTS["representation_dims"],
    learning_rates: Sequence[float] = LIST_DEFAULTS["learning_rates"],
    tune: int = 0,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = print,
    **training: Any,
) -> dict[str, Any]:
    """Trains models with the same options, and compares them with intervals over users and seeds.

    Every model is trained with every seed and every pair of dimensions, each in its own run under
    ``output/runs/``. Finished runs are never repeated and an interrupted one resumes, so that a
    comparison can be killed and called again, also with more models, seeds, dimensions and rates.
    The options that all runs share may not change within one `output`.

    Args:
        sequences: str. Finished folder of sequences.
        output: str. Folder for runs and results.
        models: sequence of str. Names that :func:`tfdare.models.recipe_of` knows.
            Defaults to those of :data:`tfdare.models.MODELS`.
        seeds: sequence of int.
        attention_dims: sequence of int. K_A. Shared tables get this width.
        representation_dims: sequence of int. K_R.
        learning_rates: sequence of float. If several, the validation AUC of the first seed chooses
            among them, for every row separately.
        tune: int. Trials of each row with the first seed, in the space of
            :data:`tfdare.comparison.tuning.SPACE`; the best validation AUC chooses the settings of
            the other seeds. The first trial has the settings given. 0: no tuning.
        resamples: int. Resamples of users, for the intervals.
        say: function that is called with each line of progress.
        **training: fields of :class:`tfdare.training.TrainOptions` that all runs share: all but
            those of :data:`OF_EACH_TRIAL`. Defaults as there, but 4 `epochs` and a `patience` of 1.

    Returns:
        The content of ``comparison.json``: ``rows``, best first, ``orderings``, ``baselines``,
        ``data``, ``options``, ``seeds``, ``learning_rates``, ``tune``, ``tuning``, ``command``.
        ``comparison.md`` and ``comparison.png`` show the same.

    Raises:
        UsageError: an argument or the output folder is not usable, or every run diverged.
        SchemaError: the sequences are not usable.
    """
    options = {**TRAINING_DEFAULTS, **training}
    unknown = sorted(set(options) - set(TRAINING_DEFAULTS))
    if unknown:
        raise TypeError(f"`compare` has no arguments {unknown}. Known: {sorted(TRAINING_DEFAULTS)}")
    lists: dict[str, list] = {
        name: list(dict.fromkeys(values))
        for name, values in {
            "models": models,
            "seeds": seeds,
            "attention_dims": attention_dims,
            "representation_dims": representation_dims,
            "learning_rates": learning_rates,
        }.items()
    }
    _check(lists, resamples)
    _check_tune(tune, lists["learning_rates"], options)
    opened = open_sequences(sequences)
    for split in ("validation", "test"):
        counts = opened.manifest["counts"]["splits"][split]
        if not 0 < counts.get("positives", 1) < counts.get("candidates", 2):
            raise SchemaError(
                f"The {split} split of {sequences!r} lacks clicks or negatives: "
                f"{counts}. No AUC can be computed"
            )
    _keep_state(output, options, opened)
    rows = rows_of(lists["models"], lists["attention_dims"], lists["representation_dims"])
    trials = Trials(sequences, os.path.join(output, "runs"), options, say)
    rates, seeds = lists["learning_rates"], lists["seeds"]
    tried = trials.run(rows, rates, seeds, tune)
    chosen = trials.best(tried)
    first = _first_finished(trials, chosen, seeds)
    if not first:
        raise UsageError("Every run diverged; lower `learning_rates` or set a `clip_norm` of 1")
    say("Measuring search")
    costs = measure_costs(
        {row: load_run(trials.path(trial)).model() for row, trial in first.items()}, opened
    )
    tf.keras.backend.clear_session()
    say(f"Resampling users {resamples:,} times")
    comparison = {
        **summarize_trials(trials, {row: chosen[row] for row in first}, seeds, costs, resamples),
        "data": _data(opened),
        "options": options,
        "seeds": seeds,
        "learning_rates": rates,
        "resamples": resamples,
        "tune": tune,
        "tuning": _tuning(trials, tried, tune),
        "without_result": [f"{row.model} ({row.columns})" for row in rows if row not in first],
        "command": _command(sequences, output, lists, options, tune, resamples),
    }
    write_json(os.path.join(output, "comparison.json"), comparison)
    write_text(os.path.join(output, "comparison.md"), markdown(comparison))
    plot(comparison, os.path.join(output, "comparison.png"))
    return comparison


def _check(lists: Mapping[str, Sequence[Any]], resamples: int) -> None:
    for name, values in lists.items():
        if not values:
            raise UsageError(f"`{name}` must name at least one. Received none")
    for model in lists["models"]:
        try:
            recipe_of(model)
        except ValueError as error:
            raise UsageError(str(error).replace("`model`", "`models`", 1)) from error
    for name in ("attention_dims", "representation_dims", "learning_rates"):
        for value in lists[name]:
            if not 0 < value < float("inf"):
                raise UsageError(f"`{name}` must be positive. Received: {value}")
    for seed in lists["seeds"]:
        if seed < 0:
            raise UsageError(f"`seeds` must not be negative. Received: {seed}")
    if resamples < 1:
        raise UsageError(f"`resamples` must be positive. Received: {resamples}")


def _check_tune(tune: int, rates: Sequence[float], options: Mapping[str, Any]) -> None:
    if tune < 0:
        raise UsageError(f"`tune` must not be negative. Received: {tune}")
    if tune:
        if len(rates) > 1:
            raise UsageError(
                "`tune` chooses learning rates itself: `learning_rates` must name one, to start "
                f"from. Received: {', '.join(map(str, rates))}"
            )
        check_tuning({**options, "learning_rate": rates[0]})


def _keep_state(output: str, options: dict[str, Any], opened: Sequences) -> None:
    """Writes the options that all runs share, or checks that they equal those written before."""
    state = {
        **options,
        "schema_digest": opened.schema.digest,
        "sequences": os.path.basename(os.path.abspath(opened.path)),
        "keras": KERAS_VERSION,
        "tensorflow": tf.__version__,
    }
    path = os.path.join(output, STATE)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        differ = sorted(k for k in {*before, *state} if before.get(k) != state.get(k))
        if differ:
            changes = ", ".join(f"{k}: {before.get(k)}, now {state.get(k)}" for k in differ)
            raise UsageError(
                f"{output!r} holds a comparison with other options ({changes}); repeat those, or "
                "choose another `output`"
            )
        return
    if os.path.lexists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise UsageError(f"{output!r} exists and is no comparison; choose another `output`")
    os.makedirs(output, exist_ok=True)
    write_json(path, state)


def _first_finished(
    trials: Trials, chosen: Mapping[Row, Trial], seeds: Sequence[int]
) -> dict[Row, Trial]:
    """Returns each row's trial with the first seed that did not diverge, where there is one."""
    first = {}
    for row, trial_of_row in chosen.items():
        for trial in map(trial_of_row.with_seed, seeds):
            if not trials.diverged(trial):
                first[row] = trial
                break
    return first


def _tuning(trials: Trials, tried: Mapping[Row, Sequence[Trial]], tune: int) -> list[dict]:
    """Returns the validation AUC of each row by settings; nothing where there was no choice."""
    entries: list[dict] = []
    for row, of_row in tried.items():
        if not tune and len(of_row) == 1:
            continue
        aucs = [trials.validation_auc(trial) for trial in of_row]
        entry = {"model": row.model, "columns": row.columns, "seed": of_row[0].seed}
        if tune:
            entry["trials"] = [
                {**trial.settings, "validation_auc": auc} for trial, auc in zip(of_row, aucs)
            ]
        else:
            rates = [repr(trial.learning_rate) for trial in of_row]
            entry["validation_auc"] = dict(zip(rates, aucs))
        entries.append(entry)
    return entries


def _data(opened: Sequences) -> dict[str, Any]:
    inputs = opened.manifest.get("input", [])
    return {
        "sequences": os.path.basename(os.path.abspath(opened.path)),
        "input": [os.path.basename(str(file["file"])) for file in inputs],
        "schema_digest": opened.schema.digest,
        "split": dict(opened.schema.split),
        "window": opened.schema.window,
        "features": {feature.name: feature.vocabulary_size for feature in opened.schema.features},
        "users": opened.users("test"),
        "train_targets": opened.candidates("train"),
        "test_targets": opened.candidates("test"),
    }


def _command(sequences, output, lists, options, tune, resamples) -> str:
    """Returns the command that repeats this comparison, absolute paths cut to their last part."""

    def folder(path):
        return os.path.basename(os.path.normpath(path)) if os.path.isabs(path) else path

    words = ["tfdare", "compare", "--sequences", folder(sequences), "--output", folder(output)]
    for name, values in lists.items():
        if tuple(values) != LIST_DEFAULTS[name]:
            words += [f"--{name}", *map(str, values)]
    for name, value in options.items():
        if value != TRAINING_DEFAULTS[name]:
            words += [f"--{name}", str(value)]
    if tune:
        words += ["--tune", str(tune)]
    if resamples != RESAMPLES:
        words += ["--resamples", str(resamples)]
    return shlex.join(words)
