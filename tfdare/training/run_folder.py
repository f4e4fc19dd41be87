"""The folder of a run, which training writes and evaluation and export read.

``run.json`` (options), ``schema.json`` and ``vocabulary/`` (copies, so that a run needs no other
folder), ``model.keras``, ``metrics.json``, ``predictions.npz`` (of the test split),
``history.csv``, ``tensorboard/``; during training, ``backup/`` holds the last finished epoch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfdare.compat import tf
from tfdare.errors import UsageError
from tfdare.files import write_json, write_text
from tfdare.schema import Schema
from tfdare.schema.differences import differences
from tfdare.sequences import Sequences

MODEL, OPTIONS, METRICS_FILE = "model.keras", "run.json", "metrics.json"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: str. The folder.
        schema: Schema. With the model's dimensions.
        options: dict. The content of ``run.json``.
    """

    path: str
    schema: Schema
    options: dict[str, Any]

    def model(self):
        """Loads the trained Keras model.

        Raises:
            UsageError: it cannot be read, or was saved by the other generation of Keras.
        """
        import tfdare.models  # noqa: F401  registers the classes

        try:
            return tf.keras.models.load_model(os.path.join(self.path, MODEL))
        except (ValueError, TypeError, ImportError, KeyError, OSError) as error:
            raise UsageError(
                f"{os.path.join(self.path, MODEL)!r} could not be loaded with this Keras; it was "
                f"trained with Keras {self.options.get('keras')} (TF_USE_LEGACY_KERAS chooses): "
                f"{error}"
            ) from error

    def sequences_for_lookup(self) -> Sequences:
        """Returns the run's own schema and vocabularies, for id look-ups."""
        return Sequences(self.path, self.schema, {})


def load_run(path: str) -> Run:
    """Opens a finished run.

    Raises:
        UsageError: there is no run at `path`, or its training has not finished.
    """
    if not os.path.exists(os.path.join(path, OPTIONS)):
        raise UsageError(f"No training run at {path!r}: it has no {OPTIONS}")
    if not os.path.exists(os.path.join(path, MODEL)):
        raise UsageError(
            f"Training at {path!r} has not finished: it has no {MODEL}. "
            "The same `tfdare train` command resumes it."
        )
    with open(os.path.join(path, OPTIONS), encoding="utf-8") as file:
        options = json.load(file)
    return Run(path, Schema.load(os.path.join(path, "schema.json")), options)


def start_run(
    path: str,
    sequences: Sequences,
    schema: Schema,
    options: dict[str, Any],
    overwrite: bool = False,
) -> bool:
    """Creates the folder, or checks that an interrupted training can resume in it.

    Returns:
        Whether training resumes.

    Raises:
        UsageError: the folder holds a finished run, other files, or a run with other options.
    """
    if overwrite and os.path.exists(os.path.join(path, OPTIONS)):
        shutil.rmtree(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UsageError(f"{path!r} exists and is not a folder; choose another `output`")
    resumed = os.path.isdir(path) and bool(os.listdir(path))
    if resumed:
        if not os.path.exists(os.path.join(path, OPTIONS)):
            raise UsageError(f"{path!r} exists and is not a training run; choose another `output`")
        if os.path.exists(os.path.join(path, METRICS_FILE)):
            raise UsageError(
                f"{path!r} holds a finished run; choose another `output` or set `overwrite`"
            )
        with open(os.path.join(path, OPTIONS), encoding="utf-8") as file:
            before = json.load(file)
        if before != options:
            differ = sorted(k for k in {*before, *options} if before.get(k) != options.get(k))
            raise UsageError(
                f"{path!r} holds an unfinished run with other options ({', '.join(differ)}); "
                f"{_schema_differences(path, schema)}repeat those to resume it, or set `overwrite`"
            )
    # The options come first: a folder that holds them is a run, however early it was interrupted.
    os.makedirs(path, exist_ok=True)
    write_json(os.path.join(path, OPTIONS), options)
    for part in schema.categorical:
        if part.vocabulary is not None:
            copy = os.path.join(path, part.vocabulary)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(sequences.vocabulary_path(part.name), copy)
    write_text(os.path.join(path, "schema.json"), schema.to_json())
    return resumed


def _schema_differences(path: str, schema: Schema) -> str:
    """Describes how an unfinished run's schema differs from this one; empty if it does not."""
    before = os.path.join(path, "schema.json")
    if not os.path.exists(before):
        return ""
    phrases = differences(Schema.load(before), schema)
    return f"its sequences differ: {'; '.join(phrases)}; " if phrases else ""


def update_metrics(path: str, split: str, numbers: dict[str, Any]) -> None:
    """Writes one split's numbers into the run's ``metrics.json``."""
    target = os.path.join(path, METRICS_FILE)
    metrics = {}
    if os.path.exists(target):
        with open(target, encoding="utf-8") as file:
            metrics = json.load(file)
    write_json(target, {**metrics, split: numbers})


def run_name(run: Run, runs: Sequence[Run]) -> str:
    """Returns a name for a run among others: its model, or its folder if they share the model."""
    models = [other.options["model"] for other in runs]
    model = run.options["model"]
    return model if models.count(model) == 1 else os.path.basename(os.path.abspath(run.path))
