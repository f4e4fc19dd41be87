"""Formats a comparison, of one log or of several, as Markdown tables, for a README."""

from __future__ import annotations

from typing import Any

from tfdare.comparison.measure import BEHAVIORS, CANDIDATES
from tfdare.comparison.paper import DARE, LOGS
from tfdare.comparison.plan import settings_text
from tfdare.comparison.tuning import SPACE
from tfdare.metrics import Interval


def markdown(comparison: dict[str, Any]) -> str:
    """Formats a comparison as Markdown tables, with notes on data and method under them.

    Args:
        comparison: dict. What :func:`tfdare.comparison.runner.compare` returns.
    """
    rows = comparison["rows"]
    columns = have_several_columns(rows)
    parts = [
        "# Comparison",
        _accuracy(rows, columns),
        _cost(rows, columns),
        _tuned(comparison, columns),
        _about(comparison),
        "## The paper's orderings on this data",
        _orderings(comparison, columns),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def logs_markdown(summary: dict[str, Any]) -> str:
    """Formats a comparison over several logs as one Markdown table, with notes under it.

    Args:
        summary: dict. What :func:`tfdare.comparison.logs.summarize_logs` returns.
    """
    rows, logs = summary["rows"], summary["logs"]
    columns = have_several_columns(rows)
    references = sorted(references_of(n for row in rows for n in row["logs"].values() if n))
    what = f", difference to {references[0]} [95%]" if references else ""
    heads = ["model", *(["columns"] if columns else []), "mean rank"]
    heads += [f"{name}: test AUC{what}" for name in logs]
    lines = [
        [
            _title(row),
            *([row["columns"]] if columns else []),
            _number(row["mean_rank"], ".2f"),
            *(_on_log(row["logs"][name]) for name in logs),
        ]
        for row in rows
    ]
    tuned = f", each model tuned by {summary['tune']} trials on each log" if summary["tune"] else ""
    notes = [
        f"Seeds {_listed(summary['seeds'])}{tuned}. ± is the deviation over seeds; "
        f"{_intervals(summary)}, differences paired by users. Models rank by their mean test AUC; "
        "the log's own `comparison.md` says more.",
        "\n".join(
            f"- {name}: {log['data']['users']:,} users, {log['data']['train_targets']:,} targets "
            f"to train on, {log['data']['test_targets']:,} to test on. `{log['command']}`"
            for name, log in logs.items()
        ),
    ]
    return "\n\n".join([f"# Comparison over {len(logs)} logs", _table(heads, lines), *notes]) + "\n"


def _on_log(numbers) -> str:
    if numbers is None:
        return "diverged"
    difference = _difference(numbers["difference"])
    return _with_deviation(numbers["auc"]) + (f", {difference}" if difference else "")


def have_several_columns(rows) -> bool:
    """Returns whether rows of a comparison differ in the columns of their tables."""
    return len({(row["attention_dim"], row["representation_dim"]) for row in rows}) > 1


def references_of(rows) -> set[str]:
    """Returns the models to which rows of a comparison, or their numbers on a log, differ."""
    return {row["difference"]["to"]["model"] for row in rows if row["difference"]}


def _intervals(comparison) -> str:
    """Says over what the intervals of a comparison are."""
    seeds = " and seeds" if len(comparison["seeds"]) > 1 else "; other seeds are not in them"
    return f"intervals are over users ({comparison['resamples']:,} resamples){seeds}"


def _accuracy(rows, columns) -> str:
    paper = any(row["paper"] for row in rows)
    references = references_of(rows)
    heads = ["model", *(["columns"] if columns else []), "test AUC"]
    heads += [f"difference to {model} [95%]" for model in sorted(references)]
    heads += ["AUC, item seen before", "AUC, new item", "GAUC", "log loss"]
    heads += [f"paper, {log}" for log in LOGS] if paper else []
    lines = []
    for row in rows:
        test = row["test"]
        cells = [_title(row), *([row["columns"]] if columns else []), _with_deviation(test["auc"])]
        cells += [_difference(row["difference"]) for _ in references]
        cells += [
            _number(test[name]["mean"], ".4f")
            for name in ("auc_seen", "auc_new", "gauc", "logloss")
        ]
        cells += [_number((row["paper"] or {}).get(log), ".4f") for log in LOGS] if paper else []
        lines.append(cells)
    return _table(heads, lines)


def _cost(rows, columns) -> str:
    heads = [
        "model",
        *(["columns"] if columns else []),
        "validation AUC",
        "epochs to the best",
        "learning rate",
        "training examples/s",
        "parameters",
        "search tables, MB",
        "search, ms",
    ]
    lines = []
    for row in rows:
        milliseconds = _number(row.get("search_ms"), ".1f")
        lines.append(
            [
                row["title"],
                *([row["columns"]] if columns else []),
                _with_deviation(row["validation_auc"]),
                _number(row["best_epoch"]["mean"], ".1f"),
                _number(row["learning_rate"], "g"),
                _number(row["examples_per_s"], ",.0f"),
                _number(row.get("parameters"), ",d"),
                _number((row["search_bytes"] / 1e6) if "search_bytes" in row else None, ".2f"),
                f"{milliseconds} *" if row.get("whole_call") else milliseconds,
            ]
        )
    return _table(heads, lines)


def _tuned(comparison, columns) -> str:
    if not comparison["tune"]:
        return ""
    heads = ["model", *(["columns"] if columns else []), "tuned"]
    heads += ["validation AUC, tuned", "validation AUC, settings given"]
    chosen = {(row["model"], row["columns"]): row for row in comparison["rows"]}
    lines = []
    for entry in comparison["tuning"]:
        row = chosen.get((entry["model"], entry["columns"]))
        if row is None:
            continue
        given = entry["trials"][0]
        best = max(t["validation_auc"] for t in entry["trials"] if t["validation_auc"] is not None)
        lines.append(
            [
                row["title"],
                *([row["columns"]] if columns else []),
                settings_text(row["settings"]),
                _number(best, ".4f"),
                _number(given["validation_auc"], ".4f"),
            ]
        )
    ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in SPACE.items())
    return (
        f"{_table(heads, lines)}\n\nTuned: {comparison['tune']} trials of each model with seed "
        f"{comparison['seeds'][0]}, the first with the settings given; {ranges} (of models with an "
        "auxiliary head). The best validation AUC chooses the settings of all seeds."
    )


def _about(comparison) -> str:
    data, options, rows = comparison["data"], comparison["options"], comparison["rows"]
    seeds = comparison["seeds"]
    split = data["split"]
    protocol = ", ".join(
        f"{name} {value}"
        for name, value in sorted(split.items())
        if name != "protocol" and value is not None
    )
    patience = (
        f", stopped after {options['patience']} without a better validation AUC"
        if options["patience"]
        else ""
    )
    rates = comparison["learning_rates"]
    tuned = (
        ""
        if len(rates) == 1
        else f", learning rate chosen among {_listed(rates)} by the validation AUC of seed "
        f"{seeds[0]}"
    )
    log = f" of {_listed(data['input'])}" if data["input"] else ""
    baselines = comparison["baselines"]
    of_paper = any(row["paper"] for row in rows)
    lines = [
        f"Data: `{data['sequences']}`{log}; {data['users']:,} users, "
        f"{data['train_targets']:,} targets to train on, {data['test_targets']:,} to test on, "
        f"histories cut at {data['window']:,}. Protocol `{split.get('protocol')}` ({protocol}). "
        f"Seeds {_listed(seeds)}; at most {options['epochs']} epochs{patience}; the epoch with "
        f"the best validation AUC is tested{tuned}. ± is the deviation over seeds; "
        f"{_intervals(comparison)}. Repeat "
        f"counts of the item and its features alone reach AUC "
        f'{_number(baselines["repeat_counts"], ".4f")}, "was this item in the history" '
        f"{_number(baselines['seen'], '.4f')}.",
        f"Search: one user of {BEHAVIORS:,} behaviors, {CANDIDATES} candidates, alternately in one "
        "process. A search server must hold the tables of the attention side."
        + (
            " * the whole model, as it has no search stage; all tables are counted."
            if any(row.get("whole_call") for row in rows)
            else ""
        ),
    ]
    if any(row["model"] == "DARE" for row in rows):
        lines.append(
            "DARE is given attention, by the vectors of the sequences, and evidence of the "
            f"behaviors found; `{DARE}` is the published model."
        )
    if of_paper:
        lines.append(
            "The paper's numbers are from its Table 1 at the same number of columns, on its "
            "own logs: for reference only."
        )
    lost = [
        f"{row['title']} ({row['columns']}), seeds {_listed(row['diverged'])}"
        for row in rows
        if row["diverged"]
    ] + comparison["without_result"]
    if lost:
        lines.append(f"Diverged, and left out: {'; '.join(lost)}.")
    lines.append(f"`{comparison['command']}`")
    return "\n\n".join(lines)


def _orderings(comparison, columns) -> str:
    orderings = comparison["orderings"]
    models = {row["model"] for row in comparison["rows"]}
    missing = (
        ""
        if DARE in models
        else (
            f"The paper's DARE, `{DARE}`, is not among the models compared here: its claims about "
            "DARE are not tested."
        )
    )
    if not orderings:
        return missing or "None of the models compared here are ordered by the paper."
    lines = []
    for ordering in orderings:
        claim = f"{ordering['better'].replace(DARE, 'DARE, as published')} > {ordering['worse']}"
        if columns:
            claim += f" ({ordering['columns'][0]} against {ordering['columns'][1]})"
        verdict, difference = ordering["verdict"], _difference(ordering)
        if ordering["worse"] == "all":
            verdict += f": above {ordering['above']} of {ordering['of']}"
            if ordering["ahead_of_it"]:
                verdict += f"; behind {_listed(ordering['ahead_of_it'])}"
            if ordering["not_separable"]:
                verdict += f"; not separable from {_listed(ordering['not_separable'])}"
            difference += f" (closest: {ordering['closest']})"
        settings = f"{ordering['paper_holds']} of {ordering['paper_settings']}"
        lines.append([claim, verdict, difference, settings])
    heads = ["the paper says", "here", "AUC difference [95%]", "in the paper's settings"]
    return (
        _table(heads, lines)
        + (
            "\n\n*Holds* or *reversed*: the whole interval lies on one side of zero; otherwise "
            "*not separable*."
        )
        + (f"\n\n{missing}" if missing else "")
    )


def _table(heads, lines) -> str:
    ruler = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ruler, *lines])


def _title(row) -> str:
    return f"**{row['title']}**" if row["model"] == "DARE" else row["title"]


def _with_deviation(over_seeds) -> str:
    mean, deviation = _number(over_seeds["mean"], ".4f"), over_seeds["deviation"]
    return mean if deviation is None else f"{mean} ± {deviation:.4f}"


def _difference(numbers) -> str:
    return "" if numbers is None else f"{Interval.from_json(numbers):+.4f}"


def _number(value, form) -> str:
    return "" if value is None else format(value, form)


def _listed(values) -> str:
    return ", ".join(map(str, values))
