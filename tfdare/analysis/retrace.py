"""Repeats a run's training to measure gradients and AUC along the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfdare.analysis.convergence import AUCProbe
from tfdare.analysis.gradients import GradientProbe
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.sequences import Sequences
from tfdare.training import Run, make_network, starting_vectors


def retrace_training(
    run: Run,
    sequences: Sequences,
    batch,
    held_out: Sequence[tuple],
    every: int = 20,
    most_steps: int = 240,
    after_step: Callable[[], None] | None = None,
) -> tuple[GradientProbe | None, AUCProbe]:
    """Trains a fresh model with a run's options and seed, and measures it every few steps.

    The run's own model does not change. A warm-started run is repeated from random weights.

    Args:
        run: Run.
        sequences: Sequences. Those that it was trained on.
        batch: ``(requests, label, weight)`` whose gradients are measured.
        held_out: sequence of ``(requests, label, weight, user)`` on which AUC is measured.
        every: int. Steps between measurements.
        most_steps: int. Upper bound of the training steps.
        after_step: function called after each step, to show progress.

    Returns:
        The probes of the gradients, None where attention is given and has none, and of the AUC.
    """
    options = run.options
    per_epoch = -(-sequences.requests("train") // options["batch_size"])
    steps = trace_steps(run, sequences, most_steps)
    network = make_network(
        options,
        run.schema,
        options["epochs"] * per_epoch,
        starting_vectors(sequences, options["model"]),
    )
    data = read_requests(
        sequences,
        "train",
        options["batch_size"],
        shuffle=True,
        seed=options["seed"],
        shorten=options.get("shorten", 0.0),
    )
    gradients = None if network.embedding.attention_given else GradientProbe(batch, every)
    auc = AUCProbe(held_out, every, sequences.candidates("train") / per_epoch)
    step_callback = tf.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: after_step() if after_step else None
    )
    network.fit(
        data.repeat(options["epochs"]).take(steps),
        epochs=1,
        verbose=0,
        shuffle=False,
        callbacks=[probe for probe in (gradients, auc, step_callback) if probe is not None],
    )
    return gradients, auc


def trace_steps(run: Run, sequences: Sequences, most_steps: int) -> int:
    """Returns the number of steps of :func:`retrace_training`."""
    per_epoch = -(-sequences.requests("train") // run.options["batch_size"])
    return min(most_steps, run.options["epochs"] * per_epoch)
