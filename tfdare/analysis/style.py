"""How the figures of the analyses look."""

from __future__ import annotations

import numpy as np

FAINT = "#9aa7b3"
_COLORS = {"DARE": "#c1440e", "TWIN": "#33567a"}
_FURTHER = ("#2f7d4f", "#8a4fa3", "#b8860b", "#00838f")


def color_of(model: str) -> str:
    """A model's color, the same in all figures."""
    if model in _COLORS:
        return _COLORS[model]
    if model.startswith("DARE"):
        return "#e2894b"
    known = ("TWIN-noTR", "TWIN-proj", "DIN", "ETA")
    place = known.index(model) if model in known else sum(map(ord, model))
    return _FURTHER[place % len(_FURTHER)]


def new_figure(rows: int, columns: int, height: float = 3.0, width: float = 11.0):
    """A figure without global state, and its axes as an array ``[rows, columns]``.

    What draws on it ends with :func:`finish`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e6e9ec", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def finish(figure, size: float = 9):
    """Small words, and a legend where curves have names; returns the figure."""
    for axes in figure.axes:
        axes.tick_params(labelsize=size - 1)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(size)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=size - 1)
    return figure


def band(axes, x, values, color: str, label: str) -> None:
    """A curve of intervals: estimates as a line, the intervals as a band."""
    known = [(at, one) for at, one in zip(x, values) if one["estimate"] is not None]
    at = [place for place, _ in known]
    axes.plot(
        at,
        [one["estimate"] for _, one in known],
        color=color,
        marker="o",
        markersize=3.5,
        label=label,
    )
    bounded = [(place, one) for place, one in known if one["low"] is not None]
    axes.fill_between(
        [place for place, _ in bounded],
        [one["low"] for _, one in bounded],
        [one["high"] for _, one in bounded],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
