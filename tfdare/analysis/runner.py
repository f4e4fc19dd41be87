"""Takes all measurements of trained models, and writes the report and its numbers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from tfdare.analysis.findings import list_findings
from tfdare.analysis.measure_all import Measurements
from tfdare.analysis.report import render
from tfdare.analysis.sections import sections_of
from tfdare.errors import UsageError
from tfdare.files import as_json, write_json, write_text
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
        runs: sequence of str. Folders that `tfdare train` wrote; the first is the reference, which
            is compared to each other one.
        sequences: str. Folder of sequences that all of them were trained on.
        output: str. Folder for both files.
        truth: str or None. The ``.truth.json`` of a simulated log, for its planted relations.
        comparison: str or None. Folder that `tfdare compare` wrote, for efficiency.
        split: str. The split to measure on.
        limit: int. About how many requests are read for search and discriminability.
        steps: int. Most training steps of the new training in which gradients and convergence are
            measured; 0 measures the gradients of the trained models instead.
        every: int. Steps between measurements.
        min_count: int. Observations below which the information of a (category, position) is 0.
        smoothing: float. Added to each count of the mutual information.
        resamples: int. Resamples of users, for the intervals.
        progress: bool. Whether to show progress on standard error.

    Returns:
        The content of ``analysis.json``.

    Raises:
        UsageError, SchemaError: a run, the sequences or an option are not usable; `output` stays
            as it was.
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
            raise UsageError(f"`{name}` must be at least {least}. Received: {value}")
    if os.path.lexists(output) and not os.path.isdir(output):
        raise UsageError(f"{output!r} exists and is not a folder; choose another `output`")
    if truth is not None and not os.path.exists(truth):
        raise UsageError(
            f"No planted truth at {truth!r}; `tfdare simulate` writes it beside its log"
        )
    started = time.perf_counter()
    loaded = [load_run(path) for path in runs]
    named = {run_name(run, loaded): run for run in loaded}
    if len(named) < len(loaded):
        raise UsageError(f"Runs must have different names. Received: {', '.join(runs)}")
    for run in loaded:
        folder = open_matching(sequences, run.schema)
    if not folder.requests(split):
        raise UsageError(f"The {split} split of {sequences!r} holds no requests")

    def show_progress(title):
        return lambda iterable: tqdm(
            iterable,
            desc=f"  {title}",
            leave=False,
            file=sys.stderr,
            disable=None if progress else True,
        )

    measurements = Measurements(
        named,
        folder,
        split=split,
        limit=limit,
        resamples=resamples,
        show_progress=show_progress,
        say=(lambda line: print(line, file=sys.stderr, flush=True)) if progress else None,
    )
    numbers = measurements.measure_all(
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
    findings = list_findings(numbers)
    numbers["findings"] = findings
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    numbers = as_json(numbers)
    page = render(
        f"{', '.join(named)} on {os.path.basename(os.path.abspath(sequences))}",
        _facts(numbers),
        findings,
        sections_of(numbers),
    )
    os.makedirs(output, exist_ok=True)
    write_json(os.path.join(output, NUMBERS), numbers)
    write_text(os.path.join(output, REPORT), page)
    return numbers


def _facts(numbers):
    data = numbers["data"]
    yield (
        f"{data['requests']:,} requests of {data['users']:,} users in the {data['split']} "
        f"split; histories of up to {data['window']} behaviors."
    )
    for name, model in numbers["models"].items():
        yield (
            f"{name}: {model['title']}, attention width K_A = {model['attention_dim']}, "
            f"representation width K_R = {model['representation_dim']}, search keeps K = "
            f"{model['top_k']} behaviors, {model['epochs']} epochs, seed {model['seed']}."
        )
