"""AUC and GAUC: exact over arrays for reports, streaming for ``model.fit``."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from tfdare.compat import register, tf


def auc(label: np.ndarray, score: np.ndarray) -> float | None:
    """Computes the exact area under the ROC curve; ties count half.

    Args:
        label: ``[n]``, 1 clicked, 0 not.
        score: ``[n]``, higher is more likely.

    Returns:
        float in [0, 1], or None when one of the two classes is absent.
    """
    label = np.asarray(label) > 0.5
    positives = int(label.sum())
    negatives = label.size - positives
    if not positives or not negatives:
        return None
    ranks = rankdata(score)[label].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def gauc(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> float | None:
    """Averages the AUC inside each group (such as a user), weighted by the group's targets.

    Groups without both classes have no AUC and are left out.

    Args:
        label: ``[n]``, 1 clicked, 0 not.
        score: ``[n]``.
        group: ``[n]``, integers or strings.

    Returns:
        float in [0, 1], or None when no group has both classes.

    References:
        - [Deep Interest Network](https://arxiv.org/abs/1706.06978), section 6.2 (user-weighted AUC)
    """
    if not np.size(label):
        return None
    value, size = auc_by_group(label, score, np.unique(np.asarray(group), return_inverse=True)[1])
    both = np.isfinite(value)
    return float(np.average(value[both], weights=size[both])) if both.any() else None


def auc_by_group(label, score, group, groups: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Computes the AUC inside each group, NaN where a class is missing, and counts its targets.

    Args:
        label, score: as of :func:`gauc`.
        group: int ``[n]``, not negative.
        groups: int. Least length of the results. Defaults to 0.

    Returns:
        AUC, float64 ``[G]``, and number of targets, int ``[G]``.
    """
    label, group = (np.asarray(label) > 0.5).astype(np.float64), np.asarray(group)
    order = np.lexsort((score, group))
    label, group, score = label[order], group[order], np.asarray(score)[order]
    size = np.bincount(group, minlength=groups)
    start = np.cumsum(size) - size
    # Rank inside the group; equal scores share the mean of their ranks.
    rank = np.arange(label.size) - start[group] + 1.0
    new_run = np.r_[True, (group[1:] != group[:-1]) | (score[1:] != score[:-1])]
    run = np.cumsum(new_run) - 1
    rank = (np.bincount(run, rank) / np.bincount(run))[run]
    positives = np.bincount(group, label, size.size)
    pairs = positives * (size - positives)
    above = np.bincount(group, rank * label, size.size) - positives * (positives + 1) / 2
    return np.divide(above, pairs, out=np.full(size.size, np.nan), where=pairs > 0), size


def logloss(label: np.ndarray, probability: np.ndarray) -> float:
    """Computes the mean cross-entropy in nats; probabilities are clipped 1e-7 from 0 and 1."""
    probability = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    label = np.asarray(label)
    return float(-np.mean(label * np.log(probability) + (1 - label) * np.log1p(-probability)))


@register
class CandidateAUC(tf.keras.metrics.AUC):
    """AUC over all candidates, each of which counts once, whatever its sample weight.

    Streaming; goes into ``weighted_metrics``, so that candidates of weight 0, such as padded ones,
    are left out.

    Args:
        **kwargs: those of ``tf.keras.metrics.AUC``.

    Example:
        >>> metric, weight = CandidateAUC(), [[4.0, 2.0, 0.0]]
        >>> _ = metric.update_state([[1.0, 0.0, 0.0]], [[0.5, 0.2, 0.9]], sample_weight=weight)
        >>> round(float(metric.result()), 2)
        1.0
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            sample_weight = tf.cast(tf.convert_to_tensor(sample_weight) > 0, tf.float32)
        return super().update_state(y_true, y_pred, sample_weight=sample_weight)


@register
class RequestGAUC(tf.keras.metrics.Metric):
    """GAUC with a request as the group: does the click rank above the request's other candidates?

    Streaming and mergeable; goes into ``weighted_metrics``, so that padded candidates are left
    out. Reports by user need all of a user's requests together: see :func:`gauc`.

    Args:
        name: str. Defaults to ``"request_gauc"``.
    """

    def __init__(self, name: str = "request_gauc", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.targets = self.add_weight(name="targets", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = tf.cast(y_pred, tf.float32)
        real = tf.ones_like(y_pred) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        real = tf.cast(tf.broadcast_to(real, tf.shape(y_pred)) > 0, tf.float32)
        clicked = tf.cast(tf.cast(y_true, tf.float32) > 0.5, tf.float32) * real
        other = real - clicked
        gap = y_pred[:, :, tf.newaxis] - y_pred[:, tf.newaxis, :]
        wins = 0.5 * (tf.sign(gap) + 1) * clicked[:, :, tf.newaxis] * other[:, tf.newaxis, :]
        pairs = tf.reduce_sum(clicked, axis=1) * tf.reduce_sum(other, axis=1)
        value = tf.math.divide_no_nan(tf.reduce_sum(wins, axis=[1, 2]), pairs)
        targets = tf.reduce_sum(real, axis=1) * tf.cast(pairs > 0, tf.float32)
        self.total.assign_add(tf.reduce_sum(value * targets))
        self.targets.assign_add(tf.reduce_sum(targets))

    def result(self):
        return tf.math.divide_no_nan(
            tf.convert_to_tensor(self.total), tf.convert_to_tensor(self.targets)
        )
