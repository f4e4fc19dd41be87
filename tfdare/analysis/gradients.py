"""Whose gradient moves a shared table: attention's or representation's, and do they agree?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfdare.compat import raw, tf
from tfdare.files import as_json
from tfdare.layers.embedding import POSITION, TIME_GAP
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics.bootstrap import ratio_interval

BINS = 20
_SIDES = ("attention", "representation")


class SideGradients(NamedTuple):
    """Gradients of one batch that reach the rows of one feature's table (or two tables).

    Attributes:
        ids: int ``[R]``. Rows that the batch looked up, padding left out.
        attention: float ``[R, D]``. What the attention side sends to each row.
        representation: float ``[R, D']``. What the representation side sends.
    """

    ids: np.ndarray
    attention: np.ndarray
    representation: np.ndarray


class GradientSplit:
    """The training loss's gradient, taken apart by the side through which it reaches a table.

    The loss of a step depends on a table through look-ups: those that become attention scores,
    and those that are pooled for the head. With ``e`` a row that both read,
    ``dL/de = g_Att + g_Repr``, where ``g_Att`` is the sum over look-ups of the attention side and
    ``g_Repr`` over those of the other. One forward and one backward pass give both, of the rows
    of the batch alone, however large the table is. The loss is the one that is trained: auxiliary
    loss included, batch normalization as in training. Nothing in the model changes.

    Args:
        model: RequestModel.
        requests, label, weight: one batch, as :func:`tfdare.data.read_requests` gives it.
    """

    def __init__(self, model, requests, label, weight):
        self._model = model
        self._batch = dict(requests), label, weight
        self._step = None

    @property
    def features(self) -> list[str]:
        """Features of the model, and position and time gap where both sides know them."""
        embedding = self._model.embedding
        names = [
            name
            for name in (POSITION, TIME_GAP)
            if all(getattr(embedding, f"{side}_{name}_table") is not None for side in _SIDES)
        ]
        return [*embedding.schema.names, *names]

    def __call__(self) -> dict[str, SideGradients]:
        """Gradients by feature, with the model's present weights."""
        if self._step is None:
            self._step = tf.function(self._both_sides, autograph=False)
        aside = [raw(weight) for weight in self._model.non_trainable_weights]
        before = [weight.numpy() for weight in aside]
        try:
            found = self._step()
        finally:  # moving averages and dropout seeds, which a forward pass moves
            for weight, value in zip(aside, before):
                weight.assign(value)
        return {name: _real_rows(name, *values) for name, values in found.items()}

    def _both_sides(self):
        model, (requests, label, weight) = self._model, self._batch
        loss = CandidateCrossentropy()
        with tf.GradientTape() as tape, model.embedding.recorded() as lookups:
            outputs = model.forward(requests, training=True)
            total = loss(label, outputs.probability, weight)
            if outputs.auxiliary_probability is not None:
                total += model.auxiliary_weight * loss(label, outputs.auxiliary_probability, weight)
        gradients = tape.gradient(total, [one.rows for one in lookups])
        return {name: _by_row(name, lookups, gradients) for name in self.features}


def _by_row(name, lookups, gradients):
    """Rows that were looked up, and the sum of gradients that each side sends to them."""
    sides = {side: [] for side in _SIDES}
    for lookup, gradient in zip(lookups, gradients):
        if lookup.name == name and gradient is not None:
            ids = tf.broadcast_to(lookup.ids, tf.shape(gradient)[:-1])
            gradient = tf.reshape(tf.cast(gradient, tf.float32), [-1, gradient.shape[-1]])
            sides[lookup.side].append((tf.reshape(ids, [-1]), gradient))
    sizes = [sum(tf.size(ids) for ids, _ in found) for found in sides.values()]
    ids, place = tf.unique(tf.concat([i for found in sides.values() for i, _ in found], axis=0))
    summed = []
    for found, of_side in zip(sides.values(), tf.split(place, sizes)):
        values = tf.concat([gradient for _, gradient in found], axis=0)
        summed.append(tf.math.unsorted_segment_sum(values, of_side, tf.size(ids)))
    return ids, *summed


def _real_rows(name, ids, attention, representation) -> SideGradients:
    ids = ids.numpy()
    order = np.argsort(ids, kind="stable")
    order = order if name == POSITION else order[ids[order] > 0]
    return SideGradients(ids[order], attention.numpy()[order], representation.numpy()[order])


def row_numbers(gradients: SideGradients, shared: bool) -> dict[str, np.ndarray]:
    """Norms of each row's two gradients, and their cosine (NaN where a side sends nothing, or
    where the two sides have a table each and nothing can conflict)."""
    one, other = np.float64(gradients.attention), np.float64(gradients.representation)
    norms = [np.linalg.norm(side, axis=1) for side in (one, other)]
    cosine = np.full(len(one), np.nan)
    if shared:
        both = (norms[0] > 0) & (norms[1] > 0)
        product = np.sum(one[both] * other[both], axis=1)
        cosine[both] = np.clip(product / (norms[0][both] * norms[1][both]), -1, 1)
    return {"attention": norms[0], "representation": norms[1], "cosine": cosine}


class GradientProbe(tf.keras.callbacks.Callback):
    """Watches, while a model trains, what each side sends to its tables.

    Every so many steps the gradients of one fixed batch are taken apart (:class:`GradientSplit`).
    The training itself is left as it was, to the bit. One look costs about one training step on
    the batch, so that `every` 20 and a batch of 256 requests cost a few percent of the time.

    Args:
        batch: ``(requests, label, weight)``. The batch.
        every: int. Steps between two looks; the first is before the first step. Defaults to 20.

    Example::

        probe = GradientProbe(next(iter(read_requests(sequences, "train", 256))), every=20)
        model.fit(..., callbacks=[probe])
        plot_gradients({"TWIN": gradient_numbers(probe)})
    """

    def __init__(self, batch, every: int = 20):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be positive. Received: every={every}")
        self.every = int(every)
        self.steps: list[int] = []
        self.rows: dict[str, np.ndarray] = {}
        self.shared: dict[str, bool] = {}
        self._batch, self._split, self._found, self._step = batch, None, {}, 0

    def on_train_begin(self, logs=None):
        if self._split is None:
            self.look()

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self.every == 0:
            self.look()

    def look(self) -> None:
        """Measures now."""
        if self._split is None:
            self._split = GradientSplit(self.model, *self._batch)
            self.shared = {n: self.model.embedding.shares(n) for n in self._split.features}
        self.steps.append(self._step)
        for name, gradients in self._split().items():
            self.rows[name] = gradients.ids
            self._found.setdefault(name, []).append(row_numbers(gradients, self.shared[name]))

    def values(self, name: str, what: str) -> np.ndarray:
        """``"attention"`` or ``"representation"`` norms, or ``"cosine"``: ``[looks, R]``."""
        return np.stack([found[what] for found in self._found[name]])


def gradients_of(model, batch) -> GradientProbe:
    """One look at a trained model, as a probe with a single step."""
    probe = GradientProbe(batch)
    probe.set_model(model)
    probe.look()
    return probe


def gradient_numbers(probe: GradientProbe, resamples: int = 1000) -> dict[str, Any]:
    """What a probe has seen, ready for JSON.

    Args:
        probe: GradientProbe.
        resamples: int. Of rows, for the intervals.

    Returns:
        ``steps``, and by feature: ``shared`` (one table for both sides?), ``rows`` (that both
        sides reach), ``attention_norm``, ``representation_norm`` and ``norm_ratio`` by step (mean
        over rows; ratio of the means), ``ratio`` (the same over all steps, with a 95% interval
        over rows) and ``median_ratio`` (of single rows); where the table is shared also
        ``conflict_by_step``, ``conflict`` (share of row and step pairs whose cosine is negative,
        with the interval), ``cosine_histogram`` (counts in `BINS` bins from -1 to 1),
        ``mean_cosine``; and ``by_row``: of every row id both means and its share of conflict.
    """
    return {
        "steps": [int(step) for step in probe.steps],
        "features": {name: _feature_numbers(probe, name, resamples) for name in probe.rows},
    }


def _feature_numbers(probe, name, resamples):
    norms = {side: probe.values(name, side) for side in _SIDES}
    reached = (norms["attention"] > 0) & (norms["representation"] > 0)
    rows = reached.any(axis=0)
    one, other = (np.where(reached, norms[side], 0)[:, rows] for side in _SIDES)
    counts = reached[:, rows]
    numbers = {
        "shared": probe.shared[name],
        "rows": int(rows.sum()),
        "attention_norm": _means(one, counts),
        "representation_norm": _means(other, counts),
        "norm_ratio": _ratios(other.sum(axis=1), one.sum(axis=1)),
        "ratio": as_json(ratio_interval(other.sum(axis=0), one.sum(axis=0), resamples)),
        "median_ratio": float(np.median(other[counts] / one[counts])) if counts.any() else None,
    }
    by_row = {
        "id": probe.rows[name][rows].tolist(),
        "attention_norm": _means(one.T, counts.T),
        "representation_norm": _means(other.T, counts.T),
    }
    if probe.shared[name]:
        cosine = probe.values(name, "cosine")[:, rows]
        against = np.where(counts, cosine < 0, False)
        numbers["conflict"] = as_json(
            ratio_interval(against.sum(axis=0), counts.sum(axis=0), resamples)
        )
        numbers["conflict_by_step"] = _ratios(against.sum(axis=1), counts.sum(axis=1))
        numbers["mean_cosine"] = float(cosine[counts].mean()) if counts.any() else None
        numbers["cosine_histogram"] = np.histogram(cosine[counts], bins=BINS, range=(-1, 1))[
            0
        ].tolist()
        by_row["conflict"] = _ratios(against.sum(axis=0), counts.sum(axis=0))
        by_row["mean_cosine"] = _means(np.where(counts, cosine, 0).T, counts.T)
    numbers["by_row"] = by_row
    return numbers


def _means(values, counts):
    return _ratios(values.sum(axis=1), counts.sum(axis=1))


def _ratios(above, below) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(above, below)]


def plot_gradients(numbers: Mapping[str, Mapping[str, Any]], feature: str = "category"):
    """Draws, for every model, norms and conflict over training, and the cosines' histogram.

    Args:
        numbers: mapping of model to what :func:`gradient_numbers` returns.
        feature: str. Whose table; the first one where a model lacks it.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import FAINT, color_of, finish, new_figure

    figure, axes = new_figure(len(numbers), 3, height=2.7)
    for (model, found), (norms, share, histogram) in zip(numbers.items(), axes):
        name = feature if feature in found["features"] else next(iter(found["features"]))
        one, steps, color = found["features"][name], found["steps"], color_of(model)
        norms.plot(steps, one["representation_norm"], color=color, label="representation side")
        norms.plot(
            steps, one["attention_norm"], color=color, linestyle="--", label="attention side"
        )
        norms.set(yscale="log", title=f"{model}: gradient norm, {name}", xlabel="training step")
        if not one["shared"]:
            for empty in (share, histogram):
                empty.axis("off")
            share.text(
                0,
                0.5,
                "Two tables: each hears its own side alone.\nThere is nothing to conflict.",
                fontsize=9,
                color="#5c6873",
                va="center",
                transform=share.transAxes,
            )
            continue
        share.plot(steps, one["conflict_by_step"], color=color)
        share.axhline(0.5, color=FAINT, linewidth=1)
        share.set(
            ylim=(0, 1), title="share of rows in conflict (cosine < 0)", xlabel="training step"
        )
        edges = np.linspace(-1, 1, len(one["cosine_histogram"]) + 1)
        counts = np.array(one["cosine_histogram"], float)
        colors = [color if right <= 1e-9 else FAINT for right in edges[1:]]
        histogram.bar(
            edges[:-1],
            counts / max(counts.sum(), 1),
            np.diff(edges),
            align="edge",
            color=colors,
            edgecolor="white",
            linewidth=0.5,
        )
        histogram.set(
            title=f"cosine of the two gradients; {one['conflict']['estimate']:.0%} below 0",
            xlabel="cosine",
            ylabel="share of rows",
        )
    return finish(figure)
