"""Discriminability: mutual information of the label and clusters of representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import mutual_info_score
from threadpoolctl import threadpool_limits

from tfdare.analysis.batches import UserBatches
from tfdare.evaluation import Predictor
from tfdare.files import as_json
from tfdare.metrics.bootstrap import interval, resamples_of
from tfdare.metrics.calibration import entropy
from tfdare.sequences import Sequences

CLUSTERS = (2, 4, 8, 16, 32, 64, 128, 256)


def measure_discriminability(
    models: Mapping[str, Any],
    sequences: Sequences,
    clusters: Sequence[int] = CLUSTERS,
    split: str = "test",
    limit: int | None = 6000,
    seed: int = 0,
    resamples: int = 200,
    batch_size: int = 256,
    progress: Callable = iter,
) -> dict[str, Any]:
    """Clusters representations and computes the mutual information of cluster and label.

    The representation is the pooled input of the head (`RequestModel.represent`), ``[v, h,
    v * h]`` where it is target-aware, without evidence and context, which only some models have.
    Its columns are standardized, as by the head's batch normalization, and clustered by
    `MiniBatchKMeans` of scikit-learn.

    Args:
        models: mapping of name to RequestModel; the first is the reference of the differences.
        sequences: Sequences.
        clusters: sequence of int. Numbers of clusters, m.
        split: str.
        limit: int or None. About how many requests are read; None: all.
        seed: int. Seed of k-means.
        resamples: int. Resamples of users, for the intervals; clusters are computed once.
        batch_size: int. Requests at once.
        progress: function that wraps an iterable of batches to show progress.

    Returns:
        ``clusters``, ``targets``, ``entropy`` of the label in nats (the upper bound), ``models``:
        by name ``information`` with 95% intervals over users for each m; ``differences`` from the
        reference, resample by resample; and ``bias``, the (m - 1) / 2n nats that m random clusters
        of n targets would show on average.
    """
    columns, label, user = _representations(models, sequences, split, limit, batch_size, progress)
    users = int(user.max()) + 1
    kept = [m for m in clusters if m <= label.size]
    numbers: dict[str, Any] = {
        "split": split,
        "clusters": kept,
        "targets": int(label.size),
        "users": users,
        "entropy": float(entropy(label.mean())),
        "bias": [(m - 1) / (2 * label.size) for m in kept],
        "models": {},
        "differences": {},
    }
    resampled = {}
    for name in models:
        information = [
            _cluster_information(columns[name], label, user, users, m, seed, resamples)
            for m in progress(kept)
        ]
        resampled[name] = [of_m for _, of_m in information]
        numbers["models"][name] = {
            "columns": int(columns[name].shape[1]),
            "information": [interval(value, of_m) for value, of_m in information],
        }
    first = next(iter(models))
    for name in [name for name in models if name != first]:
        pairs = zip(
            numbers["models"][first]["information"],
            numbers["models"][name]["information"],
            resampled[first],
            resampled[name],
        )
        numbers["differences"][f"{first} - {name}"] = [
            interval(a.estimate - b.estimate, resampled_a - resampled_b)
            for a, b, resampled_a, resampled_b in pairs
        ]
    return as_json(numbers)


def _representations(
    models, sequences, split, limit, batch_size, progress
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    predictors = {
        name: Predictor(model, lambda network, requests: network.represent(requests))
        for name, model in models.items()
    }
    columns: dict[str, list] = {name: [] for name in models}
    labels, users = [], []
    for requests, label, weight, user in progress(UserBatches(sequences, split, batch_size, limit)):
        real = weight.numpy() > 0
        for name, predictor in predictors.items():
            columns[name].append(predictor(requests)[real])
        labels.append(label.numpy()[real])
        users.append(np.broadcast_to(user[:, None], real.shape)[real])
    joined = {name: _standardized(np.concatenate(parts)) for name, parts in columns.items()}
    user = np.unique(np.concatenate(users), return_inverse=True)[1]
    return joined, np.concatenate(labels) > 0.5, user


def _standardized(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    spread = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def _cluster_information(values, label, user, users, m, seed, resamples):
    """Returns the mutual information of m clusters and the label, and that in each resample."""
    kmeans = MiniBatchKMeans(m, random_state=seed, n_init=1, batch_size=2048, max_iter=20)
    with threadpool_limits(1):  # matrices are so small that threads slow them down
        cluster = kmeans.fit_predict(values)
    counts = np.zeros((users, m * 2), np.float32)
    np.add.at(counts, (user, cluster * 2 + label), 1)
    resampled = np.concatenate(
        [
            _information((weights.astype(np.float32) @ counts).reshape(len(weights), m, 2))
            for weights in resamples_of(users, resamples)
        ]
    )
    value = float(mutual_info_score(label, cluster))
    # A resample has fewer distinct users, which biases information upwards: center it.
    return value, resampled - resampled.mean() + value


def _information(counts: np.ndarray) -> np.ndarray:
    """Returns I(row; column) in nats of tables of counts ``[B, m, 2]``."""
    total = counts.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    joint = counts / total
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
    return np.sum(joint * np.log(ratio), axis=(1, 2))


def plot_discriminability(numbers: Mapping[str, Any]):
    """Draws information against the number of clusters, and differences from the reference.

    Args:
        numbers: mapping. What :func:`measure_discriminability` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import FAINT, band, color_of, finish, new_figure

    figure, ((curves, differences),) = new_figure(1, 2, height=3.4)
    for model, of_model in numbers["models"].items():
        band(curves, numbers["clusters"], of_model["information"], color_of(model), model)
    curves.plot(
        numbers["clusters"],
        numbers["bias"],
        color=FAINT,
        linestyle=":",
        label="expected from random clusters",
    )
    curves.set(
        xlabel="number of clusters",
        ylabel="mutual information with the label, nats",
        title=f"Discriminability (upper bound: {numbers['entropy']:.3f} nats)",
    )
    for pair, values in numbers["differences"].items():
        band(differences, numbers["clusters"], values, color_of(pair.split(" - ")[1]), pair)
    differences.axhline(0, color="black", linewidth=0.8)
    differences.set(xlabel="number of clusters", title="Differences, with 95% intervals over users")
    for axes in (curves, differences):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers["clusters"], [str(m) for m in numbers["clusters"]])
        axes.minorticks_off()
    return finish(figure)
