"""Runs every analysis on trained models, and writes the page and its data."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from tfdare.analysis.findings import list_findings
from tfdare.analysis.measure_all import Measured
from tfdare.analysis.report import render
from tfdare.analysis.sections import sections_of
from tfdare.errors import UsageError
from tfdare.files import as_json, write_json
from tfdare.sequences import open_matching
from tfdare.training import load_run
from tfdare.training.run_folder import run_name

NUMBERS, REPORT = "analysis.json", "report.html"


def analyze(
    runs: Sequence[str],
    sequences: str,
    output: str,
    truth: str | None = None,
    comparison: str | None = None,
    split: str = "test",
    limit: int = 6000,
    steps: int = 240,
    every: int = 20,
    min_count: int = 20,
    smoothing: float = 0.0,
    resamples: int = 200,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures trained models and writes ``report.html`` and ``analysis.json``.

    Args:
        runs: sequence of str. Folders that `tfdare train` wrote; the first is the one that is
            compared to each other one.
        sequences: str. Folder that all of them were trained on.
        output: str. Folder for both files.
        truth: str or None. What was planted in a simulated log, its ``.truth.json``.
        comparison: str or None. Folder that `tfdare compare` wrote, for efficiency.
        split: str. That is ranked.
        limit: int. Requests for search and discriminability, about.
        steps: int. Most steps of the training that is traced again; 0 leaves that out.
        every: int. Steps between looks.
        min_count: int. Observations below which a (category, position) informs nothing.
        smoothing: float. Added to each count of the mutual information.
        resamples: int. Of users, for the intervals.
        progress: bool. Whether progress is shown on a terminal's stderr.

    Returns:
        The content of ``analysis.json``.

    Raises:
        UsageError, SchemaError: a run, the sequences or an option are not usable; what lies at
            `output` stays as it was.
    """
    for name, value, least in (
        ("limit", limit, 1),
        ("steps", steps, 0),
        ("every", every, 1),
        ("min_count", min_count, 1),
        ("smoothing", smoothing, 0),
        ("resamples", resamples, 1),
    ):
        if not value >= least:
            raise UsageError(f"--{name} must be at least {least}. Received: {value}")
    if os.path.lexists(output) and not os.path.isdir(output):
        raise UsageError(f"{output!r} exists and is not a folder; choose another --output")
    if truth is not None and not os.path.exists(truth):
        raise UsageError(
            f"No planted truth at {truth!r}; `tfdare simulate` writes it beside its log"
        )
    started = time.perf_counter()
    opened = [load_run(path) for path in runs]
    named = {run_name(one, opened): one for one in opened}
    if len(named) < len(opened):
        raise UsageError(f"Runs must have different names. Received: {', '.join(runs)}")
    folder = next(open_matching(sequences, one.schema) for one in opened)
    if not folder.requests(split):
        raise UsageError(f"The {split} split of {sequences!r} holds no requests")

    def shown(title):
        return lambda parts: tqdm(
            parts,
            desc=f"  {title}",
            leave=False,
            file=sys.stderr,
            disable=None if progress else True,
        )

    measured = Measured(
        named,
        folder,
        split=split,
        limit=limit,
        resamples=resamples,
        shown=shown,
        say=(lambda line: print(line, file=sys.stderr, flush=True)) if progress else None,
    )
    numbers = measured.everything(
        truth=truth,
        comparison=comparison,
        steps=steps,
        every=every,
        min_count=min_count,
        smoothing=smoothing,
    )
    numbers["options"] = {
        "split": split,
        "limit": limit,
        "steps": steps,
        "every": every,
        "min_count": min_count,
        "smoothing": smoothing,
        "resamples": resamples,
    }
    found = list_findings(numbers)
    numbers["findings"] = found
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    numbers = as_json(numbers)
    page = render(
        f"{', '.join(named)} on {os.path.basename(os.path.abspath(sequences))}",
        _facts(numbers),
        found,
        sections_of(numbers),
    )
    os.makedirs(output, exist_ok=True)
    unfinished = os.path.join(output, f"{REPORT}.tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(page)
    write_json(os.path.join(output, NUMBERS), numbers)
    os.replace(unfinished, os.path.join(output, REPORT))
    return numbers


def _facts(numbers):
    data = numbers["data"]
    yield (
        f"{data['requests']:,} requests of {data['users']:,} users in the {data['split']} "
        f"split, window {data['window']}."
    )
    for name, one in numbers["models"].items():
        yield (
            f"{name}: {one['title']}, K_A = {one['attention_dim']}, K_R = "
            f"{one['representation_dim']}, K = {one['top_k']}, {one['epochs']} epochs, "
            f"seed {one['seed']}."
        )
