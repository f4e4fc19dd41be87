"""Trains a published model on a folder of sequences; resumable after a kill."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from typing import Any

from tfdare.compat import KERAS_VERSION, tf
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.evaluation import evaluate_splits
from tfdare.files import write_json
from tfdare.models import MODELS
from tfdare.schema import SchemaError
from tfdare.sequences import SPLITS, open_sequences
from tfdare.training.callbacks import (
    Backup,
    Diverged,
    KeepBest,
    Pace,
    Patience,
    StopWhenNotFinite,
    check_finite,
    keep_epochs,
    standing,
)
from tfdare.training.compile import OPTIMIZERS, SCHEDULES, make_network
from tfdare.training.run_folder import METRICS_FILE, MODEL, PREDICTIONS, load_run, start_run
from tfdare.training.warm_start import warm_start as start_from


def train(
    sequences: str,
    output: str,
    model: str = "DARE",
    epochs: int = 2,
    batch_size: int = 683,
    attention_dim: int = 16,
    representation_dim: int = 16,
    top_k: int = 20,
    learning_rate: float = 0.01,
    weight_decay: float = 0.0,
    auxiliary_weight: float = 1.0,
    seed: int = 1,
    overwrite: bool = False,
    verbose: int | str = "auto",
    *,
    patience: int = 0,
    schedule: str = "constant",
    optimizer: str = "adam",
    table_learning_rate: float | None = None,
    clip_norm: float = 0.0,
    dropout: float = 0.0,
    warm_start: str | None = None,
) -> dict[str, Any]:
    """Trains one published model and leaves a run at `output`.

    After every epoch the validation AUC decides whether its weights are the best so far; the best
    are saved and evaluated. A killed training resumes after its last finished epoch when called
    again with the same arguments.

    Args:
        sequences: str. Finished folder of sequences.
        output: str. Folder for the run.
        model: str. A key of :data:`tfdare.models.MODELS`.
        epochs: int. Passes over the train split, at most.
        batch_size: int. Requests a step.
        attention_dim: int. K_A.
        representation_dim: int. K_R.
        top_k: int. K.
        learning_rate: float. At the start.
        weight_decay: float. Decoupled; of tables, rows in the batch. 0: none.
        auxiliary_weight: float. Of the whole-history loss. 0: none.
        seed: int. Of initial weights and shuffling.
        overwrite: bool. Whether a run that is there is replaced.
        verbose: int or ``"auto"``. As Keras's ``fit`` takes it.
        patience: int. Epochs without a better validation AUC after which training ends. 0: never.
        schedule: str. ``"constant"``, or ``"cosine"``: rates fall to zero over all epochs' steps.
        optimizer: str. ``"adam"``, ``"adagrad"`` or ``"rowwise_adagrad"``, by rows all three.
        table_learning_rate: float or None. Of tables; None: `learning_rate`.
        clip_norm: float. Bound of the norm of all gradients together. 0: none.
        dropout: float. Share of the head's hidden outputs dropped in training.
        warm_start: str or None. Finished run whose weights are the start, on the same vocabularies
            or on ones that grew by appending.

    Returns:
        The content of ``metrics.json``: ``{"validation": ..., "test": ...}`` of
        :func:`tfdare.evaluation.evaluate`, and ``"training"``: ``epochs`` asked for,
        ``epochs_run``, ``best_epoch`` (from 1), how many of them were done by an earlier call that
        was cut off (``epochs_before``), and ``seconds`` and ``examples_per_s`` of this call (of
        its steps alone, without tracing and validation; None if it made less than two).

    Raises:
        UsageError: an argument or the output folder is not usable.
        Diverged: (a UsageError) the loss was not a finite number; it names epoch and step.
        SchemaError: the sequences are not usable.
    """
    _check(
        positive={"epochs": epochs, "batch_size": batch_size, "top_k": top_k},
        not_negative={
            "weight_decay": weight_decay,
            "auxiliary_weight": auxiliary_weight,
            "seed": seed,
            "patience": patience,
            "clip_norm": clip_norm,
        },
        rates={"learning_rate": learning_rate, "table_learning_rate": table_learning_rate},
        choices={
            "model": (model, sorted(MODELS)),
            "schedule": (schedule, SCHEDULES),
            "optimizer": (optimizer, tuple(OPTIMIZERS)),
        },
    )
    if not 0 <= dropout < 1:
        raise UsageError(f"--dropout must be in [0, 1). Received: {dropout}")
    opened = open_sequences(sequences)
    for split in SPLITS:
        if not opened.requests(split):
            raise SchemaError(f"The {split} split of {sequences!r} holds no requests")
    schema = opened.schema.with_dims(attention_dim, representation_dim)
    if top_k > schema.window:
        raise UsageError(f"--top_k {top_k} exceeds the window of {schema.window} behaviors")
    options = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "top_k": top_k,
        "attention_dim": attention_dim,
        "representation_dim": representation_dim,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "auxiliary_weight": auxiliary_weight,
        "seed": seed,
        "patience": patience,
        "schedule": schedule,
        "optimizer": optimizer,
        "table_learning_rate": table_learning_rate,
        "clip_norm": clip_norm,
        "dropout": dropout,
        "warm_start": warm_start and os.path.basename(os.path.abspath(warm_start)),
        "sequences": os.path.basename(os.path.abspath(sequences)),
        "schema_digest": schema.digest,
        "keras": KERAS_VERSION,
        "tensorflow": tf.__version__,
    }
    steps = -(-opened.requests("train") // batch_size)
    network = make_network(options, schema, epochs * steps)
    if warm_start is not None:
        grown = start_from(network, load_run(warm_start), opened)
        told = ", ".join(f"{name} {count:,}" for name, count in grown.items())
        print(f"Starting from {warm_start}; new ids: {told}", file=sys.stderr)
    resumed = start_run(output, opened, schema, options, overwrite)
    backup = Backup(os.path.join(output, "backup"), network)
    before = backup.restore()
    if resumed:
        print(
            f"Resuming the training that was cut off at {output}: "
            f"{before} of {epochs} epochs are done",
            file=sys.stderr,
        )
    log = os.path.join(output, "history.csv")
    best = os.path.join(output, "best.weights.h5")
    best_so_far = keep_epochs(log, before)
    wait = Patience(patience, best_so_far, before - standing(log)[2])
    watch, pace = StopWhenNotFinite(steps), Pace()
    started = time.perf_counter()
    if before < epochs and not wait.ended:
        _fit(
            network,
            opened,
            watch,
            x=read_requests(opened, "train", batch_size, shuffle=True, seed=seed + before),
            validation_data=read_requests(opened, "validation", batch_size),
            initial_epoch=before,
            epochs=epochs,
            callbacks=[
                watch,
                pace,
                KeepBest(best, best=best_so_far),
                wait,
                tf.keras.callbacks.CSVLogger(log, append=True),
                tf.keras.callbacks.TensorBoard(
                    os.path.join(output, "tensorboard"), write_graph=False
                ),
                backup,  # last: an epoch that it holds is in the files of the others
            ],
            verbose=(1 if sys.stderr.isatty() else 2) if verbose == "auto" else verbose,
            shuffle=False,
        )
    seconds = time.perf_counter() - started
    if os.path.exists(best):
        network.load_weights(best)
    network.save(os.path.join(output, f"saving-{MODEL}"))
    os.replace(os.path.join(output, f"saving-{MODEL}"), os.path.join(output, MODEL))
    metrics = evaluate_splits(
        network,
        opened,
        ("validation", "test"),
        keep={"test": os.path.join(output, PREDICTIONS)},
    )
    epochs_run, _, best_epoch = standing(log)
    metrics["training"] = {
        "epochs": epochs,
        "epochs_run": epochs_run,
        "epochs_before": before,
        "best_epoch": best_epoch,
        "seconds": round(seconds, 2),
        "examples_per_s": pace.examples_per_s(opened.candidates("train") / steps),
    }
    write_json(os.path.join(output, METRICS_FILE), metrics)
    if os.path.exists(best):
        os.remove(best)
    shutil.rmtree(os.path.join(output, "backup"), ignore_errors=True)
    return metrics


def _check(positive, not_negative, rates, choices):
    for name, value in positive.items():
        if value < 1:
            raise UsageError(f"--{name} must be positive. Received: {value}")
    for name, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"--{name} must not be negative. Received: {value}")
    for name, value in rates.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name} must be positive. Received: {value}")
    for name, (value, known) in choices.items():
        if value not in known:
            raise UsageError(f"--{name} must be one of {', '.join(known)}. Received: {value}")


def _fit(network, opened, watch, **arguments) -> None:
    """Fits; a loss that is no number is explained by the data, if they explain it."""
    try:
        network.fit(**arguments)
    except Diverged:
        check_finite(opened)
        raise
    except tf.errors.InvalidArgumentError as error:
        # Keras 2 checks predictions inside the step, before a callback sees the loss.
        if "predictions must be" not in str(error):
            raise
        check_finite(opened)
        raise Diverged(
            f"The loss became nan at {watch.place}, on finite data: training diverged. Lower "
            "--learning_rate, or bound the step with --clip_norm 1"
        ) from error
