"""Renders the report of an analysis: one HTML page with its figures embedded."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfdare.analysis.findings import FAILS, HOLDS, Finding

_STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #22303c; max-width: 1120px;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2.6rem;
     border-bottom: 1px solid #e6e9ec; padding-bottom: .3rem }
img { max-width: 100%; display: block; margin: 1rem 0 }
table { border-collapse: collapse; font-size: 13.5px; width: 100% }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e6e9ec;
         vertical-align: top; font-variant-numeric: tabular-nums }
th { color: #5c6873; font-weight: 600 } .note { color: #5c6873 }
.holds { color: #2f7d4f } .fails { color: #c1440e } .open { color: #8a6d00 }
td.verdict { font-weight: 600; white-space: nowrap }
code { background: #f3f5f7; padding: .1rem .3rem; border-radius: 3px }
details { margin: .6rem 0 } summary { cursor: pointer; color: #33567a }
"""


@dataclass
class Section:
    """One measurement in the report.

    Attributes:
        key: str. Key of its numbers in ``analysis.json``.
        title: str.
        text: str. A paragraph: what is measured and how.
        figures: list of (alternative text, matplotlib Figure).
        tables: list of (title, header, rows of str).
    """

    key: str
    title: str
    text: str
    figures: list[tuple[str, Any]] = field(default_factory=list)
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)


def render(
    title: str, facts: Iterable[str], findings: Sequence[Finding], sections: Sequence[Section]
) -> str:
    """Renders the page.

    Args:
        title: str.
        facts: iterable of str. Lines about data and models.
        findings: sequence of Finding.
        sections: sequence of Section.

    Returns:
        HTML.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<div class='note'>{html.escape(fact)}</div>" for fact in facts),
        "<h2>Do the paper's claims hold here, and which attention does this data want?</h2>",
        "<p>Claims of <a href='https://arxiv.org/abs/2410.02604'>the DARE paper (ICLR 2025)</a> "
        "and the numbers on this data, with 95% intervals over users (for gradients: over rows of "
        "the table). A claim <b>holds</b> or <b>does not hold</b> if the whole interval lies on "
        "one side of its bound, by the measure beside it and no other; otherwise it is <b>not "
        "separable</b>: there is too little data to tell. The intervals do not include the "
        "variation between training seeds, but for those of efficiency.</p>",
        _findings_table(findings),
    ]
    for section in sections:
        parts += _section(section)
    return "\n".join([*parts, "</body></html>\n"])


def _findings_table(findings):
    if not findings:
        return "<p>Nothing here to compare: add a model with <code>--against</code>.</p>"
    rows = []
    for finding in findings:
        kind = {HOLDS: "holds", FAILS: "fails"}.get(finding.verdict, "open")
        texts = (finding.claim, finding.measure, finding.paper, finding.here)
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        verdict = html.escape(finding.verdict)
        rows.append(f"<tr>{cells}<td class='verdict {kind}'>{verdict}</td></tr>")
    return (
        "<table><tr><th>claim</th><th>measure</th><th>in the paper</th><th>on this data</th>"
        "<th>verdict</th></tr>" + "".join(rows) + "</table>"
    )


def _section(section: Section) -> list[str]:
    parts = [
        f"<h2 id='{section.key}'>{html.escape(section.title)}</h2>",
        f"<p>{html.escape(section.text)}</p>",
    ]
    for text, figure in section.figures:
        parts.append(f"<img alt='{html.escape(text, quote=True)}' src='{_data_url(figure)}'>")
    for title, header, rows in section.tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        parts.append(
            f"<details><summary>{html.escape(title)}</summary>"
            f"<table><tr>{head}</tr>{body}</table></details>"
        )
    parts.append(
        f"<p class='note'>All numbers: <code>{section.key}</code> in "
        "<code>analysis.json</code>.</p>"
    )
    return parts


def _data_url(figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
