"""Plots the statistics of a simulated log beside those of the real one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.simulation.statistics import LAGS, PARTNER_LAGS, POSITIONS, QUANTILES, ranks


def plot_beside(
    real: Mapping[str, Any], simulated: Mapping[str, Any], path: str | os.PathLike, title: str
) -> None:
    """Draws the statistics of two logs (:func:`tfdare.simulation.statistics.measure`).

    Args:
        real: mapping. Statistics of the real log.
        simulated: mapping. Those of the simulated one.
        path: str. PNG to write.
        title: str. Title of the figure.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 4, figsize=(15, 6.4), layout="constrained")
    lags = "page views back"
    panels = (
        ("repeat rate: same item again", "repeat_rate", LAGS, lags, "share", "loglog"),
        ("items seen before", "seen_before", POSITIONS, "page views before, from", "share", "logx"),
        (
            "category lift: same category again",
            "category_lift",
            LAGS,
            lags,
            "times chance",
            "loglog",
        ),
        (
            "partner lift: the category that follows",
            "partner_lift",
            PARTNER_LAGS,
            lags,
            "times chance",
            "logx",
        ),
        ("item frequency", "item_share", None, "rank", "share of page views", "loglog"),
        ("category frequency", "category_share", None, "rank", "share of page views", "loglog"),
    )
    logs = (("real", real, "black", "o"), ("simulated", simulated, "tab:orange", "s"))
    for axes, (name, key, ticks, across, up, scale) in zip(grid.flat, panels):
        for label, log, color, marker in logs:
            values = np.array([np.nan if v is None else v for v in log[key]])
            x = ranks(10**9)[: values.size] if ticks is None else ticks
            axes.plot(x, values, color=color, marker=marker, markersize=4, label=label)
        axes.set_xscale("log")
        if scale == "loglog":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=name, xlabel=across, ylabel=up)
    length, gap = grid.flat[6], grid.flat[7]
    for _, log, color, marker in logs:
        length.plot(log["length"], QUANTILES, color=color, marker=marker, markersize=4)
        if log["gap"]:
            gap.plot(np.array(log["gap"]) + 1, QUANTILES, color=color, marker=marker, markersize=4)
    length.set(
        title="length of histories",
        xlabel="page views of a user",
        ylabel="share of users",
        xscale="log",
        ylim=(0, 1),
    )
    gap.set(
        title="time between page views", xlabel="seconds", ylabel="share", xscale="log", ylim=(0, 1)
    )
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    grid.flat[0].legend(frameon=False)
    figure.suptitle(title, fontsize=11)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
