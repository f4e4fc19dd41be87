"""Comparison over several logs: one comparison each, and a table of all of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.stats import rankdata

from tfdare.comparison.plots import plot_logs
from tfdare.comparison.runner import STATE, compare
from tfdare.comparison.table import logs_markdown
from tfdare.errors import UsageError
from tfdare.files import write_json, write_text
from tfdare.sequences import open_sequences


def compare_logs(
    sequences: Sequence[str], output: str, say: Callable[[str], None] = print, **options: Any
) -> dict[str, Any]:
    """Compares the same models on several logs.

    Every log has its own comparison in a subfolder of `output`, which bears the name of the log's
    folder of sequences. All of them go on where they were stopped.

    Args:
        sequences: sequence of str. Finished folders of sequences, with different names.
        output: str. Folder for the comparisons and the results.
        say: function that is called with each line of progress.
        **options: further arguments of :func:`tfdare.comparison.runner.compare`.

    Returns:
        What :func:`summarize_logs` returns; ``logs.json``, ``logs.md`` and ``logs.png`` hold it.

    Raises:
        UsageError: an argument or the output folder is not usable, or every run diverged.
        SchemaError: the sequences are not usable.
    """
    folders = {os.path.basename(os.path.abspath(path)): path for path in sequences}
    if len(folders) < len(sequences):
        raise UsageError(
            "`sequences` must be folders with different names, each for its comparison in "
            f"`output`. Received: {', '.join(sequences)}"
        )
    if os.path.exists(os.path.join(output, STATE)):
        raise UsageError(f"{output!r} holds the comparison of one log; choose another `output`")
    for path in sequences:
        open_sequences(path)
    comparisons: dict[str, dict[str, Any]] = {}
    for name, path in folders.items():
        say(f"{name}, log {len(comparisons) + 1} of {len(folders)}")
        comparisons[name] = compare(path, os.path.join(output, name), say=say, **options)
    summary = summarize_logs(comparisons)
    write_json(os.path.join(output, "logs.json"), summary)
    write_text(os.path.join(output, "logs.md"), logs_markdown(summary))
    plot_logs(summary, os.path.join(output, "logs.png"))
    return summary


def summarize_logs(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Puts comparisons of the same models on several logs into one.

    Args:
        comparisons: mapping of log to what :func:`tfdare.comparison.runner.compare` returned.

    Returns:
        ``logs``: by name the ``data`` and ``command`` of its comparison; ``seeds``, ``tune`` and
        ``resamples``; ``rows``, best mean rank first: ``model``, ``title``, ``attention_dim``,
        ``representation_dim``, ``columns``; ``ranks`` by log (1: the best test AUC; where every run
        diverged, last) and ``mean_rank``; ``logs``: by name ``auc`` (over seeds),
        ``auc_interval``, ``difference`` (to the reference, paired) and ``settings`` as in the
        comparison, None where every run diverged.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    for name, comparison in comparisons.items():
        for row in comparison["rows"]:
            key = row["model"], row["attention_dim"], row["representation_dim"]
            about = ("model", "title", "attention_dim", "representation_dim", "columns")
            rows.setdefault(key, {**{part: row[part] for part in about}, "logs": {}})
            rows[key]["logs"][name] = {
                "auc": row["test"]["auc"],
                "auc_interval": row["auc_interval"],
                "difference": row["difference"],
                "settings": row["settings"],
            }
    for name in comparisons:
        on_log = [row["logs"].setdefault(name, None) for row in rows.values()]
        aucs = [-1.0 if numbers is None else numbers["auc"]["mean"] for numbers in on_log]
        for row, rank in zip(rows.values(), rankdata([-auc for auc in aucs])):
            row.setdefault("ranks", {})[name] = float(rank)
    for row in rows.values():
        row["mean_rank"] = statistics.fmean(row["ranks"].values())
    first = next(iter(comparisons.values()))
    return {
        "logs": {
            name: {"data": comparison["data"], "command": comparison["command"]}
            for name, comparison in comparisons.items()
        },
        **{name: first[name] for name in ("seeds", "tune", "resamples")},
        "rows": sorted(rows.values(), key=lambda row: row["mean_rank"]),
    }
