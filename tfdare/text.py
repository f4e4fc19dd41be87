"""Tables and times for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def text_table(rows: Iterable[Sequence[str]], align: str = "<>") -> str:
    """Formats rows of cells as indented lines with aligned columns.

    Args:
        rows: iterable of sequences of str, all of the same length.
        align: str. ``<`` (left) or ``>`` (right) for each column; the last one applies to all
            further columns. Defaults to the first left, the others right.

    Example:
        >>> print(text_table([["targets", "AUC"], ["all", "0.7213"]]).replace(" ", "."))
        ..targets.....AUC
        ..all......0.7213
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    sides = align.ljust(len(widths), align[-1])
    return "\n".join(
        f"  {'  '.join(f'{cell:{side}{n}}' for cell, side, n in zip(row, sides, widths))}".rstrip()
        for row in rows
    )


def time_text(time: int, unit: str | None) -> str:
    """Formats a time since 1970 as ISO 8601, UTC; a time of no known unit as the number it is.

    Args:
        time: int.
        unit: str or None. ``s``, ``ms``, ``us`` or ``ns``.

    Example:
        >>> time_text(1_709_856_000, "s"), time_text(17, None)
        ('2024-03-08T00:00:00Z', '17')
    """
    return str(time) if unit is None else f"{np.array(time).astype(f'datetime64[{unit}]')}Z"
