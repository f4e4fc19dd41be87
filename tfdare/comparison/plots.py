"""Plots a comparison: accuracy, and its cost; over several logs, differences by log."""

from __future__ import annotations

from typing import Any

from tfdare.comparison.table import have_several_columns, references_of
from tfdare.files import replacing

_DARE, _OTHER, _FAINT = "#c1440e", "#33567a", "#9aa7b3"
_PANELS_ACROSS = 3


def plot(comparison: dict[str, Any], path: str) -> None:
    """Draws a comparison.

    Left, every row's test AUC: a dot for the mean, faint dots for the seeds, a bar for the 95%
    interval of the difference to the reference (of the AUC itself where there is none). Right,
    AUC against the width of the attention tables if there are several, else against the time of
    search.

    Args:
        comparison: dict. What :func:`tfdare.comparison.runner.compare` returns.
        path: str. File of the image (PNG), written atomically.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = comparison["rows"]
    widths = {row["attention_dim"] for row in rows}
    height = max(3.4, 1.4 + 0.3 * len(rows))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, height), width_ratios=(1.25, 1), layout="constrained"
    )
    _dots(left, rows, many=len(widths) > 1 or len({r["representation_dim"] for r in rows}) > 1)
    if len(widths) > 1:
        _curves(right, rows, sorted(widths))
    else:
        _against_search(right, rows)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e9ec", linewidth=0.8)
        axes.set_axisbelow(True)
    data, seeds = comparison["data"], len(comparison["seeds"])
    figure.suptitle(
        f"{data['sequences']}: {data['test_targets']:,} test targets, "
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def plot_logs(summary: dict[str, Any], path: str) -> None:
    """Draws a comparison over several logs.

    A panel a log, all on one scale: of every model the difference of its test AUC to the
    reference's, with the 95% interval, faint where that contains zero; without a reference, the AUC
    itself. Models come in the order of their mean ranks.

    Args:
        summary: dict. What :func:`tfdare.comparison.logs.summarize_logs` returns.
        path: str. File of the image (PNG), written atomically.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, logs = summary["rows"], list(summary["logs"])
    across = min(len(logs), _PANELS_ACROSS)
    down = -(-len(logs) // across)
    references = references_of(n for row in rows for n in row["logs"].values() if n)
    figure, grid = pyplot.subplots(
        down,
        across,
        figsize=(2 + 3 * across, down * (1.2 + 0.28 * len(rows))),
        sharex=bool(references),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, log in zip(grid.flat, logs):
        _differences(axes, rows, log, references)
        axes.set_title(log, fontsize=10)
    for axes in grid.flat[len(logs) :]:
        axes.set_visible(False)
    several = have_several_columns(rows)
    names = [f"{row['title']}  {row['columns']}" if several else row["title"] for row in rows]
    grid[0, 0].set_yticks(range(len(rows)), names)
    grid[0, 0].invert_yaxis()
    what = "test AUC; bar: 95% interval"
    if references:
        what = f"test AUC minus that of {references.pop()}; bar: 95% interval, faint around zero"
    figure.supxlabel(what, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def _differences(axes, rows, log, references) -> None:
    for y, row in enumerate(rows):
        numbers = row["logs"][log]
        if numbers is None:
            continue
        shown = numbers["difference"] if references else numbers["auc_interval"]
        if shown is None:
            axes.plot(0, y, "D", color=_color(row), markersize=6)
            continue
        color = _FAINT if references and shown["low"] <= 0 <= shown["high"] else _color(row)
        axes.plot([shown["low"], shown["high"]], [y, y], color=color, linewidth=2.4)
        axes.plot(shown["estimate"], y, "o", color=color, markersize=6)
    if references:
        axes.axvline(0, color=_DARE, linewidth=0.8, zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=True, labelsize=8)
    axes.locator_params(axis="x", nbins=5)


def _color(row) -> str:
    return _DARE if row["model"].startswith("DARE") else _OTHER


def _dots(axes, rows, many) -> None:
    references = references_of(rows)
    for y, row in enumerate(rows):
        auc, color = row["test"]["auc"], _color(row)
        ends = []
        if row["difference"]:
            base = auc["mean"] - row["difference"]["estimate"]
            ends = [base + row["difference"]["low"], base + row["difference"]["high"]]
        elif not references:
            ends = [row["auc_interval"]["low"], row["auc_interval"]["high"]]
        axes.plot(
            ends, [y] * len(ends), color=color, linewidth=2.4, alpha=0.55, solid_capstyle="butt"
        )
        values = [value for value in auc["values"] if value is not None]
        axes.plot(values, [y] * len(values), "o", color=_FAINT, markersize=3)
        axes.plot(auc["mean"], y, "o", color=color, markersize=7)
        axes.annotate(
            f"{auc['mean']:.4f}",
            (max([auc["mean"], *ends, *values]), y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
        )
    names = [f"{row['title']}  {row['columns']}" if many else row["title"] for row in rows]
    axes.set_yticks(range(len(rows)), names)
    for tick, row in zip(axes.get_yticklabels(), rows):
        if row["model"] == "DARE":
            tick.set_fontweight("bold")
    axes.invert_yaxis()
    axes.margins(x=0.14)
    if len(references) == 1 and not many:
        reference = next(row for row in rows if row["model"] in references)
        axes.axvline(reference["test"]["auc"]["mean"], color=_DARE, linewidth=0.8, zorder=0)
    what = f"difference to {references.pop()}" if references else "AUC"
    axes.set_xlabel(f"test AUC; bar: 95% interval of the {what}", fontsize=9)


def _curves(axes, rows, widths) -> None:
    by_model: dict[str, list] = {}
    many = len({row["representation_dim"] for row in rows if not row["one_table"]}) > 1
    for row in rows:
        name = row["title"]
        if many and not row["one_table"]:
            name += f", {row['representation_dim']} for representation"
        by_model.setdefault(name, []).append(row)
    labels = []
    for index, (name, of_model) in enumerate(by_model.items()):
        of_model = sorted(of_model, key=lambda row: row["attention_dim"])
        main = of_model[0]["model"] in ("DARE", "TWIN")
        color = _color(of_model[0]) if main else _FAINT
        aside = 1 + 0.03 * (index - (len(by_model) - 1) / 2)  # bars of one width, side by side
        x = [row["attention_dim"] * aside for row in of_model]
        y = [row["test"]["auc"]["mean"] for row in of_model]
        spread = [row["test"]["auc"]["deviation"] or 0.0 for row in of_model]
        axes.errorbar(
            x,
            y,
            yerr=spread,
            marker="o",
            markersize=6 if main else 4,
            color=color,
            linewidth=1.8 if main else 1,
            elinewidth=1,
            zorder=3 if main else 2,
        )
        labels.append((y[-1], x[-1], name, color if main else "#5c6873"))
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.set_xlabel("columns of an attention table (or of a shared one)", fontsize=9)
    axes.set_ylabel("test AUC, ± deviation over seeds", fontsize=9)
    axes.figure.draw_without_rendering()
    gap = 11 * axes.figure.dpi / 72  # pixels from line to line
    last, right = float("-inf"), max(x for _, x, _, _ in labels)
    for y, x, name, color in sorted(labels):
        height = axes.transData.transform((x, y))[1]
        last = max(height, last + gap)
        x = right if x * 1.5 > right else x
        axes.annotate(
            name,
            (x, y),
            xytext=(9, (last - height) * 72 / axes.figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )


def _against_search(axes, rows) -> None:
    rows = [row for row in rows if "search_ms" in row]
    whole = any(row["whole_call"] for row in rows)
    axes.set_xlabel(f"search, ms{' (squares: the whole model)' if whole else ''}", fontsize=9)
    axes.set_ylabel("test AUC", fontsize=9)
    if not rows:
        return
    for row in rows:
        axes.plot(
            row["search_ms"],
            row["test"]["auc"]["mean"],
            "s" if row["whole_call"] else "o",
            color=_color(row),
            markersize=6,
        )
    times = [row["search_ms"] for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.3, max(times) * 2.2)  # room for the names
    axes.margins(y=0.1)
    ticks = [mark * 10.0**power for power in range(-3, 6) for mark in (1, 2, 3, 5, 7)]
    ticks = [tick for tick in ticks if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _name_points(axes, rows)


def _name_points(axes, rows) -> None:
    """Writes names beside the points, moved up or down so that none covers another or a point."""
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()
    points = [(row["search_ms"], row["test"]["auc"]["mean"]) for row in rows]
    pixels = axes.transData.transform(points)
    half = 4 * figure.dpi / 72
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in pixels]
    moves = (0, 10, -10, 20, -20, 30, -30, 40, -40, 50, -50)
    for row, point in zip(rows, points):
        for move in moves:
            text = axes.annotate(
                row["title"],
                point,
                xytext=(8, move),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_color(row),
                arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 0.6} if move else None,
            )
            box = _text_box(text, figure)
            if move == moves[-1] or not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        taken.append(box)


def _text_box(text, figure):
    """Returns the extent of an annotation's text, without its line."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    text.get_window_extent(renderer)  # lays out the text
    return Text.get_window_extent(text, renderer)
