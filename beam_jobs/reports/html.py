"""HTML pages with tables and charts that need no other files."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #e1e6ea; text-align: right; }
td:first-child, th:first-child { text-align: left; }
svg { width: 100%; height: auto; }
"""
NOW, BEFORE = "#33567a", "#c1440e"


def page(title: str, parts: Sequence[str]) -> str:
    """Returns the page; ``parts`` are HTML."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table; numbers have thousands separators, None is a dash."""

    def cell(kind, value):
        return f"<{kind}>{html.escape(_format(value))}</{kind}>"

    lines = ["".join(cell("th", head) for head in heads)]
    lines += ["".join(cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def charts(
    panels: Sequence[tuple[str, str, str, Mapping[str, Sequence]]], logarithmic: bool
) -> str:
    """Draws panels side by side as one SVG.

    Args:
        panels: sequence of (title, label of x, label of y, mapping of name to ``[x, y]`` pairs).
        logarithmic: bool. Whether the y axis is logarithmic; the x axis always is, starting at 0.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tfdare"}):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(4.2 * len(panels), 3.2), layout="constrained", squeeze=False
        )
        for axis, (title, across, up, lines) in zip(axes[0], panels):
            for (name, points), color in zip(lines.items(), (NOW, BEFORE)):
                x, y = [point[0] for point in points], [point[1] for point in points]
                axis.plot(x, y, color=color, marker="o", markersize=2.5, linewidth=1.4, label=name)
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=0)
            if logarithmic:
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(across, fontsize=9)
            axis.set_ylabel(up, fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="#e6e9ec", linewidth=0.8)
            if len(lines) > 1:
                axis.legend(fontsize=8, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :]


def _format(value: Any) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
