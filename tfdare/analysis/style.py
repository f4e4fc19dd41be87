"""Colors and layout of the analysis figures."""

from __future__ import annotations

import numpy as np

FAINT, GRID, MUTED = "#9aa7b3", "#e6e9ec", "#5c6873"
"""Reference lines, grid and background, secondary text."""
_COLORS = {"DARE": "#c1440e", "TWIN": "#33567a"}
_FURTHER = ("#2f7d4f", "#8a4fa3", "#b8860b", "#00838f")


def color_of(model: str) -> str:
    """Returns a model's color, the same in all figures."""
    if model in _COLORS:
        return _COLORS[model]
    if model.startswith("DARE"):
        return "#e2894b"
    known = ("TWIN-noTR", "TWIN-proj", "DIN", "ETA")
    index = known.index(model) if model in known else sum(map(ord, model))
    return _FURTHER[index % len(_FURTHER)]


def new_figure(rows: int, columns: int, height: float = 3.0, width: float = 11.0):
    """Returns a figure, without pyplot's global state, and its axes ``[rows, columns]``.

    Call :func:`finish` after drawing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def finish(figure, size: float = 9):
    """Sets text sizes, adds a legend where curves have names, and returns the figure."""
    for axes in figure.axes:
        axes.tick_params(labelsize=size - 1)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(size)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=size - 1)
    return figure


def band(axes, x, values, color: str, label: str) -> None:
    """Draws intervals along `x`: the estimates as a line, the intervals as a band."""
    known = [(at, value) for at, value in zip(x, values) if value["estimate"] is not None]
    axes.plot(
        [at for at, _ in known],
        [value["estimate"] for _, value in known],
        color=color,
        marker="o",
        markersize=3.5,
        label=label,
    )
    bounded = [(at, value) for at, value in known if value["low"] is not None]
    axes.fill_between(
        [at for at, _ in bounded],
        [value["low"] for _, value in bounded],
        [value["high"] for _, value in bounded],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
