"""How much of the label is in a representation: k-means, and what its clusters tell of a click."""

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
    """Mutual information between cluster and label, for growing numbers of clusters.

    The representation is what pooling hands to the head (`RequestModel.represent`), ``[v, h,
    v * h]`` where it is target-aware, without evidence and context, so that models compare alike.
    Its columns are standardized, as the head's batch normalization does before anything else;
    then `MiniBatchKMeans` of scikit-learn.

    Args:
        models: mapping of name to RequestModel; the first is the reference of the differences.
        sequences: Sequences.
        clusters: sequence of int. Numbers of clusters m.
        split: str.
        limit: int or None. Requests, about.
        seed: int. Of k-means.
        resamples: int. Of users, for the intervals (clusters stay as they are).
        batch_size: int. Requests at once.
        progress: function that passes batches on, to show progress.

    Returns:
        ``clusters``, ``targets``, ``entropy`` of the label in nats (the most that is possible),
        ``models``: by name ``information`` with 95% intervals over users for each m; and
        ``differences`` to the reference, resample by resample. With n targets, m clusters of a
        representation that tells nothing would show about (m - 1) / 2n nats (``bias``): the same
        for all models.
    """
    columns, label, user = _represented(models, sequences, split, limit, batch_size, progress)
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
    drawn = {}
    for name in models:
        found = [
            _of_clusters(columns[name], label, user, users, m, seed, resamples)
            for m in progress(kept)
        ]
        drawn[name] = [of_m for _, of_m in found]
        numbers["models"][name] = {
            "columns": int(columns[name].shape[1]),
            "information": [interval(value, of_m) for value, of_m in found],
        }
    first = next(iter(models))
    for name in [name for name in models if name != first]:
        pairs = zip(
            numbers["models"][first]["information"],
            numbers["models"][name]["information"],
            drawn[first],
            drawn[name],
        )
        numbers["differences"][f"{first} - {name}"] = [
            interval(one.estimate - other.estimate, a - b) for one, other, a, b in pairs
        ]
    return as_json(numbers)


def _represented(models, sequences, split, limit, batch_size, progress):
    askers = {
        name: Predictor(model, lambda network, requests: network.represent(requests))
        for name, model in models.items()
    }
    columns: dict[str, list] = {name: [] for name in models}
    labels, users = [], []
    for requests, label, weight, user in progress(UserBatches(sequences, split, batch_size, limit)):
        real = weight.numpy() > 0
        for name, ask in askers.items():
            columns[name].append(ask(requests)[real])
        labels.append(label.numpy()[real])
        users.append(np.broadcast_to(user[:, None], real.shape)[real])
    joined = {name: _standardized(np.concatenate(parts)) for name, parts in columns.items()}
    user = np.unique(np.concatenate(users), return_inverse=True)[1]
    return joined, np.concatenate(labels) > 0.5, user


def _standardized(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    spread = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def _of_clusters(values, label, user, users, m, seed, resamples):
    """Information of m clusters, and that of each resample of users."""
    kmeans = MiniBatchKMeans(m, random_state=seed, n_init=1, batch_size=2048, max_iter=20)
    with threadpool_limits(1):  # for such small products, threads wait for each other
        cluster = kmeans.fit_predict(values)
    counts = np.zeros((users, m * 2), np.float32)
    np.add.at(counts, (user, cluster * 2 + label), 1)
    drawn = [
        _information((weights.astype(np.float32) @ counts).reshape(len(weights), m, 2))
        for weights in resamples_of(users, resamples)
    ]
    value, drawn = float(mutual_info_score(label, cluster)), np.concatenate(drawn)
    # Resamples are of fewer users, which makes information seem larger: the spread alone counts.
    return value, drawn - drawn.mean() + value


def _information(counts: np.ndarray) -> np.ndarray:
    """I(row; column) in nats of tables ``[B, m, 2]``."""
    total = counts.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    joint = counts / total
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, apart, out=np.ones_like(joint), where=joint > 0)
    return np.sum(joint * np.log(ratio), axis=(1, 2))


def plot_discriminability(numbers: Mapping[str, Any]):
    """Draws information against the number of clusters, and the differences to the reference.

    Args:
        numbers: mapping. What :func:`measure_discriminability` returns.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import FAINT, band, color_of, finish, new_figure

    figure, ((curves, differences),) = new_figure(1, 2, height=3.4)
    for model, one in numbers["models"].items():
        band(curves, numbers["clusters"], one["information"], color_of(model), model)
    curves.plot(
        numbers["clusters"],
        numbers["bias"],
        color=FAINT,
        linestyle=":",
        label="of a representation that tells nothing",
    )
    curves.set(
        xlabel="clusters",
        ylabel="information about the label, nats",
        title=f"Discriminability (all there is: {numbers['entropy']:.3f} nats)",
    )
    for pair, values in numbers["differences"].items():
        band(differences, numbers["clusters"], values, color_of(pair.split(" - ")[1]), pair)
    differences.axhline(0, color="black", linewidth=0.8)
    differences.set(xlabel="clusters", title="difference, with 95% intervals over users")
    for axes in (curves, differences):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers["clusters"], [str(m) for m in numbers["clusters"]])
        axes.minorticks_off()
    return finish(figure)
