"""What training leaves after every epoch, so that it may be killed at any moment and go on."""

from __future__ import annotations

import csv
import os

from tfdare.compat import raw, tf


class Backup(tf.keras.callbacks.Callback):
    """Keeps the state after the last finished epoch: weights, optimizer, number of epochs.

    A new state takes the place of the old one in one step, under either Keras. (Keras's own
    `BackupAndRestore` writes over its only copy: killed while it writes, it cannot be resumed.)

    Args:
        folder: str. Where the state is kept.
        model: compiled model with all its weights made.
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
        """Brings the kept state back, if there is one; returns the epochs it has finished."""
        if self._manager.latest_checkpoint:
            found = self._manager.checkpoint.restore(self._manager.latest_checkpoint)
            found.assert_existing_objects_matched()
        return int(self._finished)

    def on_epoch_end(self, epoch, logs=None):
        self._finished.assign(epoch + 1)
        self._manager.save()


class KeepBest(tf.keras.callbacks.Callback):
    """Keeps the weights of the epoch with the highest value of a metric, replaced in one step.

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
            folder, name = os.path.split(self._path)
            unfinished = os.path.join(folder, f"saving-{name}")
            self.model.save_weights(unfinished)
            os.replace(unfinished, self._path)
            self._best = value


def keep_epochs(log: str, epochs: int, monitor: str = "val_auc") -> float | None:
    """Cuts a `CSVLogger`'s file after its first `epochs` rows, those that will not be repeated.

    Returns:
        The highest `monitor` among the rows kept; None without rows.
    """
    if not os.path.exists(log):
        return None
    with open(log, newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    kept = lines[: 1 + epochs] if epochs else []
    with open(f"{log}.tmp", "w", newline="", encoding="utf-8") as file:
        file.writelines(kept)
    os.replace(f"{log}.tmp", log)
    return max((float(row[monitor]) for row in csv.DictReader(kept)), default=None)
