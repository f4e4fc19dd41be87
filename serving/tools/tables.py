"""Aligned text tables."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Aligns cells in columns, two spaces apart.

    Args:
        rows: sequence of equally many cells each, the head among them.
        left: int. Columns aligned to the left, from the first; the others are aligned to the
            right. Defaults to 0.

    Returns:
        A line for each row.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
