"""Aligned text tables."""

from serving.tools.tables import text_table


def test_columns_are_aligned_to_their_side():
    rows = [["name", "calls", "errors"], ["search", "7", "none"]]
    assert text_table(rows, left=1) == ["name    calls  errors", "search      7    none"]
    assert text_table(rows, left=3) == ["name    calls  errors", "search  7      none"]
    assert text_table(rows) == ["  name  calls  errors", "search      7    none"]
