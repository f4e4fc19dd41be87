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
    """A figure without global state, and its axes as an array ``[rows, columns]``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in np.ravel(axes):
        plain(one)
    return figure, axes


def plain(axes) -> None:
    """Small words, faint lines, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(9)
    axes.title.set_loc = "left"
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
