"""The paper's results: test AUC on two public logs, and the orderings of models they show.

Source: Table 1 of https://arxiv.org/abs/2410.02604. Models are named as in
:data:`tfdare.models.MODELS`; the paper's DARE is ``DARE-paper`` there, since ``DARE`` has
additional parts.
"""

from __future__ import annotations

LOGS = ("Taobao", "Tmall")
DARE = "DARE-paper"
"""The model that the paper calls DARE."""

AUC: dict[int, dict[str, tuple[float, float]]] = {
    16: {
        "ETA": (0.91326, 0.95744),
        "SDIM": (0.90430, 0.93516),
        "DIN": (0.90442, 0.95894),
        "TWIN": (0.91688, 0.95812),
        "TWIN-hard": (0.91002, 0.96026),
        "TWIN-proj": (0.89642, 0.96152),
        "TWIN-noTR": (0.90732, 0.96170),
        "TWIN-V2": (0.89434, 0.94714),
        "TWIN-4E": (0.90414, 0.96124),
        DARE: (0.92568, 0.96800),
    },
    64: {
        "ETA": (0.92300, 0.96658),
        "SDIM": (0.90854, 0.94110),
        "DIN": (0.90912, 0.96194),
        "TWIN": (0.92636, 0.96684),
        "TWIN-hard": (0.91984, 0.96448),
        "TWIN-proj": (0.87176, 0.95570),
        "TWIN-noTR": (0.91590, 0.96320),
        "TWIN-V2": (0.90170, 0.95378),
        "TWIN-4E": (0.90356, 0.96372),
        DARE: (0.92992, 0.97074),
    },
    128: {
        "ETA": (0.92480, 0.96956),
        "SDIM": (0.91108, 0.94298),
        "DIN": (0.91078, 0.96428),
        "TWIN": (0.93116, 0.97060),
        "TWIN-hard": (0.91446, 0.96712),
        "TWIN-proj": (0.87990, 0.95724),
        "TWIN-noTR": (0.92060, 0.96366),
        "TWIN-V2": (0.90586, 0.95732),
        "TWIN-4E": (0.90946, 0.96016),
        DARE: (0.93242, 0.97254),
    },
}
"""Columns of a table -> model -> AUC on each of :data:`LOGS`."""

ORDERINGS = (
    (DARE, "TWIN"),
    ("TWIN", "TWIN-proj"),
    ("TWIN", "TWIN-4E"),
    ("TWIN", "TWIN-noTR"),
    ("TWIN", "DIN"),
    ("TWIN", "SDIM"),
    ("TWIN", "TWIN-V2"),
    ("TWIN", "ETA"),
)
"""Pairs of models of which the paper's text or table ranks the first above the second."""


def holds_in(better: str, worse: str) -> tuple[int, int]:
    """Counts the paper's settings (logs x columns) in which the ordering holds, and all of them."""
    above = [
        first > second
        for of_columns in AUC.values()
        for first, second in zip(of_columns[better], of_columns[worse])
    ]
    return sum(above), len(above)
