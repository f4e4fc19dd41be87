"""Every notebook runs from top to bottom, and is small."""

from __future__ import annotations

import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWS = {
    "quick_start": r"greatest difference between split and whole: 0\.0",
    "own_log": r"116 rejected(.*\n)*.*DARE above repeat counts: True",
    "paper_figures": r"planted +DARE +NDCG 0\.[1-9](.*\n)*DARE: validation AUC 0\.[789]",
    "split_serving": r"difference between split and whole: (0\.0|[0-9.]+e-0[6-9])\n"
    r"(.*\n)*StatusCode\.UNAVAILABLE from the search server: True",
}
"""What each notebook must have printed by its end."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()  # raises where a cell does
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert re.search(SHOWS[path.stem], printed), printed
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert figures


def test_there_are_notebooks_and_they_are_small():
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWS)
    for path in NOTEBOOKS:
        assert path.stat().st_size < 300_000, path
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text, f"{path.name} keeps a path"
        assert '"output_type": "error"' not in text and "Traceback" not in text, path
