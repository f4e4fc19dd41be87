"""Checks which of the paper's claims hold on this data, and which attention it wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfdare.analysis.search_quality import TRUTHS
from tfdare.metrics import Interval
from tfdare.text import text_table

HOLDS, FAILS, UNSETTLED = "holds", "does not hold", "not separable"
SMALL_LOSS = 0.001
SHARED, APART, GIVEN = ATTENTION = ("shared", "learned apart", "given")
"""Where a model's attention comes from: the table of representation, one of its own that is learned
from clicks, too, or vectors that are never trained."""
_NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Finding:
    """A claim, and what this data says about it by one measure.

    Attributes:
        claim: str. The claim, for one model or several.
        measure: str. What was measured; the verdict is about it alone.
        paper: str. The number in the paper.
        here: str. The number on this data, with its 95% interval.
        verdict: str. ``"holds"`` or ``"does not hold"`` where the whole interval lies on one side
            of the claim's bound, otherwise ``"not separable"``.
    """

    claim: str
    measure: str
    paper: str
    here: str
    verdict: str


def list_findings(numbers: Mapping[str, Any]) -> list[Finding]:
    """Tests every claim that the numbers of an analysis cover.

    Args:
        numbers: mapping. What `tfdare analyze` writes to ``analysis.json``.
    """
    findings = _of_attention(numbers.get("models", {}), numbers.get("accuracy", {}))
    for model, of_model in numbers.get("gradients", {}).items():
        for name, feature in of_model["features"].items():
            if feature["shared"] and name != "position":
                findings += _of_gradients(model, name, feature)
    kinds = {name: of_model["attention"] for name, of_model in numbers.get("models", {}).items()}
    findings += _of_search(numbers.get("search", {}), kinds)
    findings += _of_discriminability(numbers.get("discriminability", {}))
    findings += _of_convergence(numbers.get("convergence", {}))
    findings += _of_accuracy(numbers.get("accuracy", {}))
    findings += _of_efficiency(numbers.get("efficiency") or {})
    return findings


def _of_gradients(model: str, name: str, feature: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding(
            f"{model}: gradients from the representation side are larger",
            f"ratio of norms, {name} table",
            "about 5 times the norm",
            f"{format_interval(feature['ratio'], '.2f')} times",
            _verdict(feature["ratio"], 1),
        ),
        Finding(
            f"{model}: the two gradients point against each other in most cases",
            f"share of negative cosines, {name} table",
            "64% of cases",
            format_interval(feature["conflict"], ".1%"),
            _verdict(feature["conflict"], 0.5),
        ),
    ]


def _of_search(search: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Finding]:
    findings = []
    for truth, of_truth in search.get("truths", {}).items():
        if truth == "attention":
            continue
        for pair, differences in of_truth["differences"].items():
            first, other = pair.split(" - ")
            of_pair = {kinds.get(first), kinds.get(other)}
            given = GIVEN in of_pair
            if not (_paper_claims(first, other) or (given and len(of_pair) > 1)):
                continue
            for measure, title in (("ndcg", "NDCG"), ("recall", "recall")):
                values = [of_truth["models"][name][measure]["estimate"] for name in (first, other)]
                if None in values:
                    continue
                published = (truth, measure, other) == ("information", "ndcg", "TWIN") and not given
                findings.append(
                    Finding(
                        f"Search of {first} finds relevant behaviors better than that of {other}",
                        f"{title}@{search['top_k']} by {TRUTHS.get(truth, truth)}",
                        "0.8124 against 0.5545" if published else _NOT_MEASURED,
                        f"{values[0]:.3f} against {values[1]:.3f}; difference "
                        f"{format_interval(differences[measure], '+.3f')}",
                        _verdict(differences[measure], 0),
                    )
                )
    return findings


def _of_discriminability(numbers: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for pair, differences in numbers.get("differences", {}).items():
        first, other = pair.split(" - ")
        if not _paper_claims(first, other):
            continue
        for index in sorted({len(differences) // 2, len(differences) - 1}):
            values = [
                numbers["models"][name]["information"][index]["estimate"] for name in (first, other)
            ]
            findings.append(
                Finding(
                    f"Representations of {first} discriminate better than those of {other}",
                    f"mutual information of click and {numbers['clusters'][index]} clusters",
                    "yes, at all numbers of clusters",
                    f"{values[0]:.3f} against {values[1]:.3f} nats; difference "
                    f"{format_interval(differences[index], '+.3f')}",
                    _verdict(differences[index], 0),
                )
            )
    return findings


def _of_convergence(numbers: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for name, speed in numbers.get("speed", {}).items():
        if not _paper_claims(speed["reference"], name):
            continue
        claim = f"{speed['reference']} reaches {name}'s best AUC with fewer examples than {name}"
        measure = "training examples to this validation AUC"
        if speed["reference_examples"] is None:
            findings.append(
                Finding(
                    claim,
                    measure,
                    "about 450 iterations against 1,300",
                    f"never reaches {speed['auc']:.4f}",
                    FAILS,
                )
            )
            continue
        findings.append(
            Finding(
                claim,
                measure,
                "about 450 iterations against 1,300 (2.9 times)",
                f"{speed['reference_examples']:,.0f} against {speed['examples']:,.0f}: "
                f"{format_interval(speed['ratio'], '.2f')} times",
                _verdict(speed["ratio"], 1),
            )
        )
    return findings


def _of_accuracy(numbers: Mapping[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    if "slices" not in numbers:
        return findings
    for pair, metrics in numbers["slices"]["all"]["parts"][0]["differences"].items():
        first, other = pair.split(" - ")
        if _paper_claims(first, other):
            findings.append(
                Finding(
                    f"{first} ranks better than {other}",
                    f"AUC, {numbers['split']} split",
                    "yes, on both logs",
                    f"difference {format_interval(metrics['auc'], '+.4f')}",
                    _verdict(metrics["auc"], 0),
                )
            )
    return findings


def _of_attention(
    models: Mapping[str, Mapping[str, Any]], accuracy: Mapping[str, Any]
) -> list[Finding]:
    """Returns which attention ranks best, by the best model of each kind."""
    differences = accuracy.get("auc_differences")
    if not differences:
        return []
    of_all = accuracy["slices"]["all"]["parts"][0]["models"]
    ranked = sorted(models, key=lambda name: -of_all[name]["auc"]["estimate"])
    best = {models[name]["attention"]: name for name in reversed(ranked)}
    first, *others = [name for name in ranked if name in best.values()]
    if not others:
        return []
    intervals = [differences[f"{first} - {other}"] for other in others]
    also = [
        part
        for part in ("evidence", "vectors")
        if len({models[name][part] for name in (first, *others)}) > 1
    ]
    compared = ", ".join(f"{kind} ({best[kind]})" for kind in ATTENTION if kind in best)
    return [
        Finding(
            f"Of attention {compared}, this data wants {models[first]['attention']}",
            f"AUC, {accuracy['split']} split",
            "learned apart, not shared",
            "; ".join(
                f"{first} - {other} {format_interval(interval, '+.4f')}"
                for other, interval in zip(others, intervals)
            )
            + (f"; these models differ in {' and '.join(also)}, too" if also else ""),
            HOLDS if all(i["low"] is not None and i["low"] > 0 for i in intervals) else UNSETTLED,
        )
    ]


def _of_efficiency(numbers: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for model, rows in numbers.get("models", {}).items():
        if not model.startswith("DARE") or len(rows) < 2:
            continue
        wide = rows[-1]["attention_dim"]
        for row in rows:
            if row["attention_dim"] * 2 == wide:
                loss = row["to_widest"]
                small = loss["low"] is not None and loss["low"] > -SMALL_LOSS
                findings.append(
                    Finding(
                        f"{model}: half the attention columns ({wide} to {row['attention_dim']}) "
                        f"cost less than {SMALL_LOSS} AUC",
                        "test AUC",
                        "no loss from 128 to 64",
                        format_interval(loss, "+.4f"),
                        HOLDS if small else _verdict(loss, -SMALL_LOSS),
                    )
                )
    return findings


def _paper_claims(first: str, other: str) -> bool:
    """Returns whether the paper ranks the first model higher: a DARE against any other model."""
    return first.startswith("DARE") and not other.startswith("DARE")


def _verdict(interval: Mapping[str, Any], bound: float) -> str:
    if interval["low"] is None or interval["low"] <= bound <= interval["high"]:
        return UNSETTLED
    return HOLDS if interval["low"] > bound else FAILS


def format_interval(interval: Mapping[str, Any], spec: str) -> str:
    """Formats an interval of ``analysis.json``.

    Example:
        >>> format_interval({"estimate": 0.5, "low": 0.4, "high": 0.6}, ".2f")
        '0.50 [0.40, 0.60]'
    """
    return format(Interval.from_json(interval), spec)


def findings_table(findings: Sequence[Finding]) -> str:
    """Formats findings for a terminal, one per line."""
    return text_table([(f.verdict, f.measure, f"{f.claim}: {f.here}") for f in findings], "<")
