"""Trains a published model on a folder of sequences; resumable after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from tfdare.compat import KERAS_VERSION, tf
from tfdare.data import read_requests, read_searched, write_searched
from tfdare.data.searched import LAYOUT, NoSpace
from tfdare.errors import UsageError
from tfdare.evaluation import evaluate_splits
from tfdare.files import TEMPORARY, replacing, write_json
from tfdare.schema import Schema, SchemaError
from tfdare.sequences import SPLITS, Sequences, open_sequences
from tfdare.training.callbacks import (
    Backup,
    Diverged,
    KeepBest,
    Pace,
    Patience,
    StopWhenNotFinite,
    check_finite,
    divergence,
    keep_epochs,
    read_history,
)
from tfdare.training.compile import make_network, starting_vectors
from tfdare.training.options import TrainOptions
from tfdare.training.run_folder import METRICS_FILE, MODEL, PREDICTIONS, load_run, start_run
from tfdare.training.warm_start import warm_start

HISTORY, BACKUP, BEST, SEARCHED = "history.csv", "backup", "best.weights.h5", "searched"


def train(
    sequences: str,
    output: str,
    model: str | None = None,
    options: TrainOptions | None = None,
    *,
    overwrite: bool = False,
    verbose: int | str = "auto",
    **changes: Any,
) -> dict[str, Any]:
    """Trains one published model and writes a run to `output`.

    After every epoch the validation AUC decides whether its weights are the best so far; the best
    are saved and evaluated. A killed training resumes after its last finished epoch when called
    again with the same arguments.

    Args:
        sequences: str. Finished folder of sequences.
        output: str. Folder for the run.
        model: str or None. A key of :data:`tfdare.models.MODELS`; None: that of `options`, which
            is DARE by default.
        options: TrainOptions or None. None: its defaults.
        overwrite: bool. Whether an existing run is replaced. Defaults to False.
        verbose: int or ``"auto"``. As Keras's ``fit`` takes it.
        **changes: fields of :class:`TrainOptions` that differ from `options`, such as `epochs`.

    Returns:
        The content of ``metrics.json``: ``{"validation": ..., "test": ...}`` of
        :func:`tfdare.evaluation.evaluate`, and ``"training"``: ``epochs`` requested,
        ``epochs_run``, ``best_epoch`` (from 1), ``epochs_before`` (how many of them an earlier,
        interrupted call had run), and ``seconds`` and ``examples_per_s`` of this call (the latter
        without tracing and validation; None if fewer than two steps were run).

    Raises:
        UsageError: an argument or the output folder is not usable.
        Diverged: (a UsageError) the loss was not a finite number; it names epoch and step.
        SchemaError: the sequences are not usable.
    """
    if model is not None:
        changes["model"] = model
    options = dataclasses.replace(options or TrainOptions(), **changes)
    options.check()
    opened = _open_with_requests(sequences)
    schema = opened.schema.with_dims(options.attention_dim, options.representation_dim)
    if options.top_k > schema.window:
        raise UsageError(f"`top_k` {options.top_k} exceeds the window of {schema.window} behaviors")
    recorded = _run_options(options, opened, schema)
    steps = -(-opened.requests("train") // options.batch_size)
    vectors = starting_vectors(opened, options.model)
    network = make_network(recorded, schema, options.epochs * steps, vectors)
    if options.warm_start is not None:
        _copy_weights(network, options.warm_start, opened)
    resumed = start_run(output, opened, schema, recorded, overwrite)
    backup = Backup(os.path.join(output, BACKUP), network)
    epochs_before = backup.restore()
    if resumed:
        print(
            f"Resuming the training that was cut off at {output}: "
            f"{epochs_before} of {options.epochs} epochs are done",
            file=sys.stderr,
        )
    training = _fit(network, opened, output, options, backup, epochs_before, verbose)
    _save_best(network, output)
    metrics = evaluate_splits(
        network,
        opened,
        ("validation", "test"),
        keep={"test": os.path.join(output, PREDICTIONS)},
    )
    metrics["training"] = training
    write_json(os.path.join(output, METRICS_FILE), metrics)
    _remove_state(output)
    return metrics


def _open_with_requests(path: str) -> Sequences:
    sequences = open_sequences(path)
    for split in SPLITS:
        if not sequences.requests(split):
            raise SchemaError(f"The {split} split of {path!r} holds no requests")
    return sequences


def _run_options(options: TrainOptions, sequences: Sequences, schema: Schema) -> dict[str, Any]:
    """Returns the content of ``run.json``; of folders it holds only the names."""
    start = options.warm_start
    return {
        **dataclasses.asdict(options),
        "warm_start": start and os.path.basename(os.path.abspath(start)),
        "sequences": os.path.basename(os.path.abspath(sequences.path)),
        "schema_digest": schema.digest,
        "keras": KERAS_VERSION,
        "tensorflow": tf.__version__,
    }


def _copy_weights(network, run: str, sequences: Sequences) -> None:
    new_ids = warm_start(network, load_run(run), sequences)
    counts = ", ".join(f"{name} {count:,}" for name, count in new_ids.items())
    print(f"Starting from {run}; new ids: {counts}", file=sys.stderr)


def _fit(
    network,
    sequences: Sequences,
    output: str,
    options: TrainOptions,
    backup: Backup,
    epochs_before: int,
    verbose: int | str,
) -> dict[str, Any]:
    """Trains the remaining epochs; returns the entry ``"training"`` of ``metrics.json``."""
    history = os.path.join(output, HISTORY)
    steps = -(-sequences.requests("train") // options.batch_size)
    best_auc = keep_epochs(history, epochs_before)
    patience = Patience(
        options.patience, best_auc, epochs_before - read_history(history).best_epoch
    )
    watch, pace = StopWhenNotFinite(steps), Pace()
    callbacks = [
        watch,
        pace,
        KeepBest(os.path.join(output, BEST), best=best_auc),
        patience,
        tf.keras.callbacks.CSVLogger(history, append=True),
        tf.keras.callbacks.TensorBoard(os.path.join(output, "tensorboard"), write_graph=False),
        backup,  # last: an epoch in the backup is then in the files of the others, too
    ]
    started = time.perf_counter()
    verbose = (1 if sys.stderr.isatty() else 2) if verbose == "auto" else verbose
    if epochs_before < options.epochs and not patience.ended:
        with _explained_divergence(sequences, watch):
            network.fit(
                x=_train_requests(network, sequences, output, options, epochs_before, verbose),
                validation_data=read_requests(sequences, "validation", options.batch_size),
                initial_epoch=epochs_before,
                epochs=options.epochs,
                callbacks=callbacks,
                verbose=verbose,
                shuffle=False,
            )
    seconds = time.perf_counter() - started
    progress = read_history(history)
    return {
        "epochs": options.epochs,
        "epochs_run": progress.epochs,
        "epochs_before": epochs_before,
        "best_epoch": progress.best_epoch,
        "seconds": round(seconds, 2),
        "examples_per_s": pace.examples_per_s(sequences.candidates("train") / steps),
    }


def _train_requests(network, sequences, output, options, epochs_before, verbose):
    """Returns the training requests; where search never changes, it runs once, before training."""
    read = functools.partial(
        read_requests,
        sequences,
        "train",
        options.batch_size,
        shuffle=True,
        shorten=options.shorten,
    )
    seed = options.seed + epochs_before
    if not network.searches_once:
        return read(seed=seed)
    folder = os.path.join(output, SEARCHED)
    if not os.path.exists(os.path.join(folder, LAYOUT)):
        requests = read(seed=options.seed)
        progress = tf.keras.utils.Progbar(len(requests), verbose=verbose, unit_name="search")
        try:
            write_searched(network, requests, folder, progress.update)
        except NoSpace as error:
            print(f"{error}; every step searches instead", file=sys.stderr)
            return read(seed=seed)
    return read_searched(folder, options.batch_size, shuffle=True, seed=seed)


@contextlib.contextmanager
def _explained_divergence(sequences: Sequences, watch: StopWhenNotFinite) -> Iterator[None]:
    """Raises an error about the data instead, if a loss is not finite because they are not."""
    try:
        yield
    except Diverged:
        check_finite(sequences)
        raise
    except tf.errors.InvalidArgumentError as error:
        # Keras 2 checks predictions inside the step, before a callback sees the loss.
        if "predictions must be" not in str(error):
            raise
        check_finite(sequences)
        raise divergence("nan", f"at {watch.position}") from error


def _save_best(network, output: str) -> None:
    """Saves the model with the weights of the best epoch."""
    best = os.path.join(output, BEST)
    if os.path.exists(best):
        network.load_weights(best)
    with replacing(os.path.join(output, MODEL)) as temporary:
        network.save(temporary)


def _remove_state(output: str) -> None:
    """Removes files that only a resumed training needs, and temporary files of killed ones."""
    for name in os.listdir(output):
        if name == BEST or name.startswith(TEMPORARY):
            os.remove(os.path.join(output, name))
    for folder in (BACKUP, SEARCHED):
        shutil.rmtree(os.path.join(output, folder), ignore_errors=True)
