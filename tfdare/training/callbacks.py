"""Callbacks of training: saving its state and best weights, stopping it, measuring its speed."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfdare.compat import raw, tf
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.files import replacing
from tfdare.schema import SchemaError
from tfdare.sequences import Sequences


class Diverged(UsageError):
    """The loss was not a finite number although the data are finite."""


class Backup(tf.keras.callbacks.Callback):
    """Saves the state after each epoch: weights, optimizer, number of finished epochs.

    A new state replaces the old one atomically, under Keras 2 and 3. (Keras's own
    `BackupAndRestore` overwrites its only copy: killed while it writes, it cannot be resumed.)

    Args:
        folder: str. Where the state is saved.
        model: compiled model whose weights all exist.
    """

    def __init__(self, folder: str, model: tf.keras.Model):
        super().__init__()
        model.optimizer.build(model.trainable_variables)
        self._finished = tf.Variable(0, dtype=tf.int64, trainable=False)
        state = tf.train.Checkpoint(
            finished=self._finished,
            weights=[raw(weight) for weight in model.weights],
            optimizer=[raw(slot) for slot in model.optimizer.variables],
        )
        self._manager = tf.train.CheckpointManager(state, folder, max_to_keep=1)

    def restore(self) -> int:
        """Loads the saved state, if there is one; returns the number of epochs it has finished."""
        if self._manager.latest_checkpoint:
            status = self._manager.checkpoint.restore(self._manager.latest_checkpoint)
            status.assert_existing_objects_matched()
        return int(self._finished)

    def on_epoch_end(self, epoch, logs=None):
        self._finished.assign(epoch + 1)
        self._manager.save()


class KeepBest(tf.keras.callbacks.Callback):
    """Saves the weights of the epoch with the highest value of a metric, replaced atomically.

    Args:
        path: str. Ends in ``.weights.h5``.
        monitor: str. Name in the logs. Defaults to ``"val_auc"``.
        best: float or None. Value that must be exceeded.
    """

    def __init__(self, path: str, monitor: str = "val_auc", best: float | None = None):
        super().__init__()
        self._path, self._monitor = path, monitor
        self._best = float("-inf") if best is None else best

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self._monitor])
        if value > self._best:
            with replacing(self._path) as temporary:
                self.model.save_weights(temporary)
            self._best = value


class Patience(tf.keras.callbacks.Callback):
    """Ends training after a number of epochs without a better value of a metric.

    Args:
        epochs: int. The number of epochs; 0 never ends it.
        best: float or None. Value that must be exceeded, as :func:`read_history` returns it.
        waited: int. Epochs since that value. Defaults to 0.
        monitor: str. Name in the logs. Defaults to ``"val_auc"``.
    """

    def __init__(
        self, epochs: int, best: float | None = None, waited: int = 0, monitor: str = "val_auc"
    ):
        super().__init__()
        self._epochs, self._waited, self._monitor = epochs, waited, monitor
        self._best = float("-inf") if best is None else best

    @property
    def ended(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._epochs <= self._waited

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self._monitor])
        self._waited = 0 if value > self._best else self._waited + 1
        self._best = max(self._best, value) if value == value else self._best
        if self.ended:
            self.model.stop_training = True


class StopWhenNotFinite(tf.keras.callbacks.Callback):
    """Ends training with an error at the first step whose loss is not a finite number.

    Args:
        steps: int. Steps per epoch, for the message.

    Raises:
        Diverged: from the step, or from the validation that follows.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.epoch = self.step = 0

    @property
    def position(self) -> str:
        """The current step: ``"epoch 1, step 7 of 120"``."""
        return f"epoch {self.epoch + 1}, step {self.step + 1} of {self.steps}"

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.step = batch

    def on_train_batch_end(self, batch, logs=None):
        # Keras logs the mean of the epoch so far, which stays non-finite once it is.
        self._check(logs, f"at {self.position}")

    def on_test_batch_end(self, batch, logs=None):
        self._check(logs, f"in the validation after epoch {self.epoch + 1}")

    def _check(self, logs, where):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise divergence(loss, where)


class Pace(tf.keras.callbacks.Callback):
    """Measures the time of training steps, without validation, files, and tracing at the start."""

    def __init__(self):
        super().__init__()
        self.seconds, self.steps, self._since = 0.0, 0, None

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.perf_counter() if self.steps else None

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
            self.steps += 1
        elif not self.steps:
            self.steps = 1  # the first step includes tracing
        self._since = now

    def examples_per_s(self, examples_a_step: float) -> int | None:
        """Returns examples per second; None if fewer than two steps were measured."""
        if self.steps < 2 or not self.seconds:
            return None
        return round(examples_a_step * (self.steps - 1) / self.seconds)


class History(NamedTuple):
    """The epochs in a `CSVLogger`'s file.

    Attributes:
        epochs: int. How many there are.
        best: float or None. Highest value of the monitored metric; None without any.
        best_epoch: int. The epoch that had it first, counted from 1; 0 without any.
    """

    epochs: int
    best: float | None
    best_epoch: int


def keep_epochs(log: str, epochs: int, monitor: str = "val_auc") -> float | None:
    """Cuts a `CSVLogger`'s file after its first `epochs` rows; later epochs will be repeated.

    Returns:
        The highest `monitor` among the rows kept; None without rows.
    """
    if not os.path.exists(log):
        return None
    with open(log, newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    kept = lines[: 1 + epochs] if epochs else []
    with replacing(log) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.writelines(kept)
    return read_history(log, monitor).best


def read_history(log: str, monitor: str = "val_auc") -> History:
    """Reads a `CSVLogger`'s file; one that does not exist holds no epochs."""
    if not os.path.exists(log):
        return History(0, None, 0)
    with open(log, newline="", encoding="utf-8") as file:
        values = [float(row[monitor]) for row in csv.DictReader(file)]
    best, best_epoch = None, 0
    for epoch, value in enumerate(values, 1):
        if value == value and (best is None or value > best):
            best, best_epoch = value, epoch
    return History(len(values), best, best_epoch)


def divergence(loss: float | str, where: str) -> Diverged:
    """Returns the error for a loss that is not finite: where it happened, and what to change."""
    return Diverged(
        f"The loss became {loss} {where}, on finite data: training diverged. Lower "
        "`learning_rate`, or bound the step with a `clip_norm` of 1"
    )


def check_finite(
    sequences: Sequences, splits: Sequence[str] = ("train", "validation"), batch_size: int = 512
) -> None:
    """Checks labels, weights and numeric context, to explain a loss that is not finite.

    NaN in numeric context stands for unknown and is allowed; infinite values are not.

    Raises:
        SchemaError: a label or a weight is not finite, or numeric context is infinite; it names
            the first one, its request and split.
    """
    for split in splits:
        start = 0
        for requests, label, weight in read_requests(sequences, split, batch_size):
            columns = {"label": ~np.isfinite(label.numpy()), "weight": ~np.isfinite(weight.numpy())}
            for name, value in requests.items():
                if name.startswith("context_") and value.dtype.is_floating:
                    columns[name] = np.isinf(value.numpy())
            for name, bad in columns.items():
                if bad.any():
                    row = int(np.argwhere(bad)[0][0])
                    raise SchemaError(
                        f"`{name}` is not finite in request {start + row:,} (from 0, in file "
                        f"order) of the {split} split of {sequences.path!r}; {int(bad.sum()):,} "
                        "such values in its batch. Correct the log and run `tfdare prepare` again"
                    )
            start += int(label.shape[0])
