"""Metrics of a model on requests whose histories are cut to their newest behaviors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdare.compat import tf
from tfdare.evaluation.predictions import Predictor, predict
from tfdare.metrics import auc, expected_calibration_error, logloss
from tfdare.sequences import Sequences
from tfdare.text import text_table

_HISTORY, _LENGTH = "history_", "history_length"


def evaluate_lengths(
    model, sequences: Sequences, split: str, batch_size: int = 512
) -> list[dict[str, Any]]:
    """Computes metrics with histories cut to their 0, 1, 2, 4, ... newest behaviors.

    The same targets at every length: what the model knows of a user who has just arrived, and how
    much each doubling of the history adds.

    Args:
        model: RequestModel.
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once.

    Returns:
        For each length ``length``, ``auc``, ``logloss``, ``ece`` (calibration error),
        ``predicted`` (mean probability) and ``clicked`` (share of targets clicked).
    """
    window = sequences.schema.window
    lengths = [0, *(1 << power for power in range((window - 1).bit_length())), window]
    rows = []
    for length in lengths:

        def answer(model, requests, length=length):
            return model(keep_newest(requests, length), training=False)

        predictions = predict(Predictor(model, answer), sequences, split, batch_size)
        label, probability = predictions.label, predictions.probability
        rows.append(
            {
                "length": length,
                "auc": auc(label, probability),
                "logloss": logloss(label, probability),
                "ece": expected_calibration_error(label, probability),
                "predicted": float(probability.mean()),
                "clicked": float(label.mean()),
            }
        )
    return rows


def keep_newest(requests: Mapping[str, tf.Tensor], count: int) -> dict[str, tf.Tensor]:
    """Cuts the histories of requests to their newest behaviors.

    Args:
        requests: mapping of tensors, as a model takes them.
        count: int. Behaviors kept at most.

    Returns:
        The requests with shorter histories; a history keeps one column at least, of padding.
    """
    length = tf.cast(requests[_LENGTH], tf.int32)
    kept = tf.minimum(length, count)
    column = tf.range(max(count, 1))[tf.newaxis]
    shorter = dict(requests)
    shorter[_LENGTH] = tf.cast(kept, requests[_LENGTH].dtype)
    for name, ids in requests.items():
        if name.startswith(_HISTORY) and name != _LENGTH:
            source = tf.minimum(column + (length - kept)[:, tf.newaxis], tf.shape(ids)[1] - 1)
            values = tf.gather(ids, source, batch_dims=1)
            real = tf.reshape(
                column < kept[:, tf.newaxis], [-1, max(count, 1), *[1] * (ids.shape.rank - 2)]
            )
            shorter[name] = tf.where(real, values, tf.zeros_like(values))
    return shorter


def lengths_table(rows: list[dict[str, Any]]) -> str:
    """Formats what :func:`evaluate_lengths` returns for a terminal."""
    title = ["behaviors kept", "AUC", "log loss", "calibration error", "predicted", "clicked"]
    return text_table(
        [
            title,
            *(
                [
                    f"{row['length']:,}",
                    "n/a" if row["auc"] is None else f"{row['auc']:.4f}",
                    *(f"{row[name]:.4f}" for name in ("logloss", "ece", "predicted", "clicked")),
                ]
                for row in rows
            ),
        ]
    )
