"""Every notebook runs from top to bottom as it is kept, and is small."""

from __future__ import annotations

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3",
                            resources={"metadata": {"path": str(path.parent)}})
    client.execute()  # raises where a cell does
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "greatest difference between split and whole: 0.0" in printed


def test_there_are_notebooks_and_they_are_small():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert path.stat().st_size < 300_000, path
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text and "Error" not in text, f"{path.name} keeps a path or an error"
