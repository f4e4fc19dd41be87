"""Gradients of embedding tables, split into those of the attention and representation sides.

With ``e`` a row that both sides look up, ``dL/de = g_Att + g_Repr``. The paper measures

* *domination*: ``|g_Repr| / |g_Att|``, how much larger the representation side's gradient is;
* *conflict*: ``cos(g_Att, g_Repr) < 0``, the two sides pull the row in opposite directions.
"""

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
    """Gradients of one batch with respect to the rows of one feature's table (or two tables).

    Attributes:
        ids: int ``[R]``. Rows that the batch looked up, without padding.
        attention: float ``[R, D]``. Gradient of each row through attention scores.
        representation: float ``[R, D']``. Gradient of each row through the pooled representation.
    """

    ids: np.ndarray
    attention: np.ndarray
    representation: np.ndarray


class GradientSplit:
    """Splits the training loss's gradient by the side through which it reaches a table.

    The loss depends on a table through look-ups: those that become attention scores, and those
    that are pooled for the head. ``g_Att`` sums the gradients of the first, ``g_Repr`` those of
    the second. One forward and one backward pass give both, only for the rows in the batch,
    however large the table is. The loss is the training loss: auxiliary loss included, batch
    normalization as in training. The model does not change.

    Args:
        model: RequestModel.
        requests, label, weight: one batch of :func:`tfdare.data.read_requests`.
    """

    def __init__(self, model, requests, label, weight):
        self._model = model
        self._batch = dict(requests), label, weight
        self._step = None

    @property
    def features(self) -> list[str]:
        """Features of the model, and position and time gap where both sides look them up."""
        embedding = self._model.embedding
        names = [
            name
            for name in (POSITION, TIME_GAP)
            if all(getattr(embedding, f"{side}_{name}_table") is not None for side in _SIDES)
        ]
        return [*embedding.schema.names, *names]

    def __call__(self) -> dict[str, SideGradients]:
        """Returns the gradients by feature, with the model's current weights."""
        if self._step is None:
            self._step = tf.function(self._gradients_by_side, autograph=False)
        # A forward pass changes moving averages and dropout seeds, which are restored.
        state = [raw(weight) for weight in self._model.non_trainable_weights]
        before = [weight.numpy() for weight in state]
        try:
            gradients = self._step()
        finally:
            for weight, value in zip(state, before):
                weight.assign(value)
        return {name: _without_padding(name, *values) for name, values in gradients.items()}

    def _gradients_by_side(self):
        model, (requests, label, weight) = self._model, self._batch
        loss = CandidateCrossentropy()
        with tf.GradientTape() as tape, model.embedding.recorded() as lookups:
            outputs = model.forward(requests, training=True)
            total = loss(label, outputs.probability, weight)
            if outputs.auxiliary_probability is not None:
                total += model.auxiliary_weight * loss(label, outputs.auxiliary_probability, weight)
        gradients = tape.gradient(total, [lookup.rows for lookup in lookups])
        return {name: _sum_by_row(name, lookups, gradients) for name in self.features}


def _sum_by_row(name, lookups, gradients) -> tuple[tf.Tensor, ...]:
    """Returns the rows that were looked up, and the sum of each side's gradients of them."""
    sides: dict[str, list] = {side: [] for side in _SIDES}
    for lookup, gradient in zip(lookups, gradients):
        if lookup.name == name and gradient is not None:
            ids = tf.broadcast_to(lookup.ids, tf.shape(gradient)[:-1])
            gradient = tf.reshape(tf.cast(gradient, tf.float32), [-1, gradient.shape[-1]])
            sides[lookup.side].append((tf.reshape(ids, [-1]), gradient))
    sizes = [sum(tf.size(ids) for ids, _ in pairs) for pairs in sides.values()]
    ids, index = tf.unique(tf.concat([i for pairs in sides.values() for i, _ in pairs], axis=0))
    sums = []
    for pairs, of_side in zip(sides.values(), tf.split(index, sizes)):
        values = tf.concat([gradient for _, gradient in pairs], axis=0)
        sums.append(tf.math.unsorted_segment_sum(values, of_side, tf.size(ids)))
    return ids, *sums


def _without_padding(name, ids, attention, representation) -> SideGradients:
    ids = ids.numpy()
    order = np.argsort(ids, kind="stable")
    order = order if name == POSITION else order[ids[order] > 0]
    return SideGradients(ids[order], attention.numpy()[order], representation.numpy()[order])


def row_numbers(gradients: SideGradients, shared: bool) -> dict[str, np.ndarray]:
    """Computes the norms of each row's two gradients, and their cosine.

    Args:
        gradients: SideGradients.
        shared: bool. Whether both sides read one table; with two tables nothing can conflict.

    Returns:
        ``attention`` and ``representation`` norms and ``cosine``, float64 ``[R]``; the cosine is
        NaN where tables are not shared or a norm is 0.
    """
    attention, representation = (
        np.float64(gradients.attention),
        np.float64(gradients.representation),
    )
    norms = [np.linalg.norm(side, axis=1) for side in (attention, representation)]
    cosine = np.full(len(attention), np.nan)
    if shared:
        both = (norms[0] > 0) & (norms[1] > 0)
        product = np.sum(attention[both] * representation[both], axis=1)
        cosine[both] = np.clip(product / (norms[0][both] * norms[1][both]), -1, 1)
    return {"attention": norms[0], "representation": norms[1], "cosine": cosine}


class GradientProbe(tf.keras.callbacks.Callback):
    """Measures both sides' gradients of one fixed batch every few training steps.

    Gradients are split by :class:`GradientSplit`. Training gives the same weights, bit for bit, as
    without the probe. One measurement costs about one training step on the batch: `every` 20 and
    256 requests add a few percent to the time.

    Args:
        batch: ``(requests, label, weight)``.
        every: int. Steps between two measurements; the first comes before the first step.
            Defaults to 20.

    Attributes:
        steps: list of int. Training steps before each measurement.
        rows: dict of feature to row ids, int ``[R]``.
        shared: dict of feature to bool. Whether both sides read one table.

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
        self._batch, self._step = batch, 0
        self._split: GradientSplit | None = None
        self._numbers: dict[str, list[dict[str, np.ndarray]]] = {}

    def on_train_begin(self, logs=None):
        """Measures before the first step, unless an earlier fit did."""
        if self._split is None:
            self.measure()

    def on_train_batch_end(self, batch, logs=None):
        """Measures after every `every` steps."""
        self._step += 1
        if self._step % self.every == 0:
            self.measure()

    def measure(self) -> None:
        """Measures the split gradients with the model's current weights."""
        if self._split is None:
            self._split = GradientSplit(self.model, *self._batch)
            self.shared = {n: self.model.embedding.shares(n) for n in self._split.features}
        self.steps.append(self._step)
        for name, gradients in self._split().items():
            self.rows[name] = gradients.ids
            numbers = row_numbers(gradients, self.shared[name])
            self._numbers.setdefault(name, []).append(numbers)

    def values(self, name: str, quantity: str) -> np.ndarray:
        """Returns a quantity of a feature's rows at every measurement.

        Args:
            name: str. The feature.
            quantity: str. ``"attention"`` or ``"representation"`` (norms) or ``"cosine"``.

        Returns:
            float64 ``[measurements, R]``.
        """
        return np.stack([numbers[quantity] for numbers in self._numbers[name]])


def gradients_of(model, batch) -> GradientProbe:
    """Measures a trained model once.

    Args:
        model: RequestModel.
        batch: ``(requests, label, weight)``.

    Returns:
        GradientProbe with a single step, 0.
    """
    probe = GradientProbe(batch)
    probe.set_model(model)
    probe.measure()
    return probe


def gradient_numbers(probe: GradientProbe, resamples: int = 1000) -> dict[str, Any]:
    """Summarizes the measurements of a probe, ready for JSON.

    Args:
        probe: GradientProbe.
        resamples: int. Resamples of rows, for the intervals.

    Returns:
        ``steps``, and by feature: ``shared`` (whether both sides read one table), ``rows`` (with a
        gradient of both sides), ``attention_norm``, ``representation_norm`` and ``norm_ratio`` by
        step (mean over rows; ratio of the means), ``ratio`` (the same over all steps, with a 95%
        interval over rows) and ``median_ratio`` (of single rows); where the table is shared also
        ``conflict_by_step``, ``conflict`` (share of row and step pairs whose cosine is negative,
        with the interval), ``cosine_histogram`` (counts in `BINS` bins from -1 to 1),
        ``mean_cosine``; and ``by_row``: for every row id both mean norms and, where the table is
        shared, its share of conflict and mean cosine.
    """
    return {
        "steps": [int(step) for step in probe.steps],
        "features": {name: _feature_numbers(probe, name, resamples) for name in probe.rows},
    }


def _feature_numbers(probe, name, resamples):
    norms = {side: probe.values(name, side) for side in _SIDES}
    reached = (norms["attention"] > 0) & (norms["representation"] > 0)
    rows = reached.any(axis=0)
    attention, representation = (np.where(reached, norms[side], 0)[:, rows] for side in _SIDES)
    counts = reached[:, rows]
    numbers = {
        "shared": probe.shared[name],
        "rows": int(rows.sum()),
        "attention_norm": _means(attention, counts),
        "representation_norm": _means(representation, counts),
        "norm_ratio": _ratios(representation.sum(axis=1), attention.sum(axis=1)),
        "ratio": as_json(
            ratio_interval(representation.sum(axis=0), attention.sum(axis=0), resamples)
        ),
        "median_ratio": float(np.median(representation[counts] / attention[counts]))
        if counts.any()
        else None,
    }
    by_row = {
        "id": probe.rows[name][rows].tolist(),
        "attention_norm": _means(attention.T, counts.T),
        "representation_norm": _means(representation.T, counts.T),
    }
    if probe.shared[name]:
        cosine = probe.values(name, "cosine")[:, rows]
        conflict = np.where(counts, cosine < 0, False)
        numbers["conflict"] = as_json(
            ratio_interval(conflict.sum(axis=0), counts.sum(axis=0), resamples)
        )
        numbers["conflict_by_step"] = _ratios(conflict.sum(axis=1), counts.sum(axis=1))
        numbers["mean_cosine"] = float(cosine[counts].mean()) if counts.any() else None
        histogram, _ = np.histogram(cosine[counts], bins=BINS, range=(-1, 1))
        numbers["cosine_histogram"] = histogram.tolist()
        by_row["conflict"] = _ratios(conflict.sum(axis=0), counts.sum(axis=0))
        by_row["mean_cosine"] = _means(np.where(counts, cosine, 0).T, counts.T)
    numbers["by_row"] = by_row
    return numbers


def _means(values, counts):
    return _ratios(values.sum(axis=1), counts.sum(axis=1))


def _ratios(above, below) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(above, below)]


def plot_gradients(numbers: Mapping[str, Mapping[str, Any]], feature: str = "category"):
    """Draws each model's gradient norms and conflict over training, and the cosines' histogram.

    Args:
        numbers: mapping of model to what :func:`gradient_numbers` returns.
        feature: str. Feature whose table is drawn; a model without it shows its first table.

    Returns:
        matplotlib Figure.
    """
    from tfdare.analysis.style import FAINT, MUTED, color_of, finish, new_figure

    figure, axes = new_figure(len(numbers), 3, height=2.7)
    for (model, of_model), (norms, share, histogram) in zip(numbers.items(), axes):
        tables, steps, color = of_model["features"], of_model["steps"], color_of(model)
        name = feature if feature in tables else next(iter(tables))
        table = tables[name]
        norms.plot(steps, table["representation_norm"], color=color, label="representation side")
        norms.plot(
            steps, table["attention_norm"], color=color, linestyle="--", label="attention side"
        )
        norms.set(
            yscale="log", title=f"{model}: gradient norm, {name} table", xlabel="training step"
        )
        if not table["shared"]:
            for empty in (share, histogram):
                empty.axis("off")
            share.text(
                0,
                0.5,
                "Attention and representation have\nseparate tables: no conflict is possible.",
                fontsize=9,
                color=MUTED,
                va="center",
                transform=share.transAxes,
            )
            continue
        share.plot(steps, table["conflict_by_step"], color=color)
        share.axhline(0.5, color=FAINT, linewidth=1)
        share.set(
            ylim=(0, 1), title="Share of rows in conflict (cosine < 0)", xlabel="training step"
        )
        edges = np.linspace(-1, 1, len(table["cosine_histogram"]) + 1)
        counts = np.array(table["cosine_histogram"], float)
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
            title=f"Cosine of the two gradients: {table['conflict']['estimate']:.0%} below 0",
            xlabel="cosine",
            ylabel="share of rows",
        )
    return finish(figure)
