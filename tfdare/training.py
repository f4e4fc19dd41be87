"""``tfdare train``: sequences in, trained model and its metrics out, resumable after a kill."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

from tfdare.checkpoints import Backup, KeepBest, keep_epochs
from tfdare.command import Parser, UsageError, run
from tfdare.compat import KERAS_VERSION, tf
from tfdare.data import read_requests
from tfdare.evaluation import evaluate_splits, summary
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics import RequestGAUC
from tfdare.models import MODELS, build_model
from tfdare.optimizers import SparseAdam
from tfdare.runs import METRICS, MODEL, start_run, write_json
from tfdare.schema import Schema, SchemaError
from tfdare.sequences import SPLITS, open_sequences

SHUFFLE_BYTES = 256 << 20


def compile_model(model, learning_rate: float = 0.01, weight_decay: float | None = None) -> None:
    """Compiles with this package's defaults: SparseAdam, candidate cross-entropy, AUC and GAUC."""
    model.compile(
        optimizer=SparseAdam(learning_rate, weight_decay=weight_decay),
        loss=CandidateCrossentropy(),
        weighted_metrics=[tf.keras.metrics.AUC(name="auc", num_thresholds=1000), RequestGAUC()],
        jit_compile=False,
    )


def shuffle_buffer(schema: Schema) -> int:
    """Requests in the shuffle buffer: at most 50,000, and at most 256 MiB of histories."""
    bytes_a_request = 4 * len(schema.features) * (schema.window + schema.max_candidates) + 64
    return max(1000, min(50_000, SHUFFLE_BYTES // bytes_a_request))


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
) -> dict[str, Any]:
    """Trains one published model and leaves a run at `output`.

    After every epoch the validation AUC decides whether its weights are the best so far; the best
    are saved and evaluated. A killed training resumes after its last finished epoch when called
    again with the same arguments.

    Returns:
        The content of ``metrics.json``: ``{"validation": ..., "test": ...}`` of
        :func:`tfdare.evaluation.evaluate`, and ``"training"``: ``epochs``, how many of them were
        done by an earlier call that was cut off (``epochs_before``), and ``seconds`` and
        ``examples_per_s`` of this call.

    Raises:
        UsageError: an argument or the output folder is not usable.
        SchemaError: the sequences are not.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("top_k", top_k)):
        if value < 1:
            raise UsageError(f"--{name} must be positive. Received: {value}")
    for name, value in (("weight_decay", weight_decay), ("auxiliary_weight", auxiliary_weight),
                        ("seed", seed)):
        if value < 0:
            raise UsageError(f"--{name} must not be negative. Received: {value}")
    if not learning_rate > 0:
        raise UsageError(f"--learning_rate must be positive. Received: {learning_rate}")
    if model not in MODELS:
        raise UsageError(f"--model must be one of {', '.join(sorted(MODELS))}. Received: {model}")
    opened = open_sequences(sequences)
    for split in SPLITS:
        if not opened.requests(split):
            raise SchemaError(f"The {split} split of {sequences!r} holds no requests")
    schema = opened.schema.with_dims(attention_dim, representation_dim)
    if top_k > schema.window:
        raise UsageError(f"--top_k {top_k} exceeds the window of {schema.window} behaviors")
    tf.keras.utils.set_random_seed(seed)
    network = build_model(model, schema, top_k=top_k, auxiliary_weight=auxiliary_weight)
    compile_model(network, learning_rate, weight_decay or None)
    options = {
        "model": model, "epochs": epochs, "batch_size": batch_size, "top_k": top_k,
        "attention_dim": attention_dim, "representation_dim": representation_dim,
        "learning_rate": learning_rate, "weight_decay": weight_decay,
        "auxiliary_weight": auxiliary_weight, "seed": seed,
        "sequences": os.path.basename(os.path.abspath(sequences)),
        "schema_digest": schema.digest,
        "keras": KERAS_VERSION, "tensorflow": tf.__version__,
    }
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
    started = time.perf_counter()
    if before < epochs:
        network.fit(
            read_requests(
                opened, "train", batch_size, shuffle=shuffle_buffer(schema), seed=seed + before
            ),
            validation_data=read_requests(opened, "validation", batch_size),
            initial_epoch=before,
            epochs=epochs,
            callbacks=[
                KeepBest(best, best=best_so_far),
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
    targets = opened.candidates("train")
    metrics = evaluate_splits(network, opened, ("validation", "test"))
    metrics["training"] = {
        "epochs": epochs,
        "epochs_before": before,
        "seconds": round(seconds, 2),
        "examples_per_s": round(targets * (epochs - before) / seconds),
    }
    write_json(os.path.join(output, METRICS), metrics)
    if os.path.exists(best):
        os.remove(best)
    shutil.rmtree(os.path.join(output, "backup"), ignore_errors=True)
    return metrics


def main(argv: list[str] | None = None) -> int:
    """``tfdare train``."""
    parser = Parser(
        "train",
        "tfdare train --sequences build/sequences --model DARE --output build/dare",
        "Trains a model, keeps the epoch with the best validation AUC, evaluates it. "
        "Writes model.keras and metrics.json. Called again after a kill, it resumes.",
    )
    add = parser.add_argument
    add("--sequences", required=True, help="folder that `tfdare prepare` wrote")
    add("--output", required=True, help="folder for the run")
    add("--model", default="DARE", choices=sorted(MODELS), help="which published model")
    add("--epochs", type=int, default=2, help="passes over the train split")
    add("--batch_size", type=int, default=683, help="requests a step, each with its candidates")
    add("--attention_dim", type=int, default=16, help="K_A, columns per attention table")
    add("--representation_dim", type=int, default=16, help="K_R, columns per representation table")
    add("--top_k", type=int, default=20, help="K, behaviors that search keeps")
    add("--learning_rate", type=float, default=0.01, help="of SparseAdam")
    add("--weight_decay", type=float, default=0.0, help="decoupled; of tables, rows in the batch")
    add("--auxiliary_weight", type=float, default=1.0, help="of the whole-history loss; 0: off")
    add("--seed", type=int, default=1, help="of initial weights and shuffling")
    add("--overwrite", action="store_true", help="replace a run that is already at --output")

    def action(options):
        metrics = train(**vars(options))
        for split in ("validation", "test"):
            print(f"{options.model}, {split}")
            print(summary(metrics[split]))
        print(f"{metrics['training']['examples_per_s']:,} examples/s; run kept at {options.output}")

    return run(parser, argv, action)
