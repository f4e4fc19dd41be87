"""Checks which of the paper's claims hold on this data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfdare.metrics import Interval
from tfdare.text import text_table

HOLDS, FAILS, UNSETTLED = "holds", "does not hold", "not separable"
SMALL_LOSS = 0.001


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what this data says about it.

    Attributes:
        claim: str. The claim, for one model or a pair of models.
        paper: str. The number in the paper.
        here: str. The number on this data, with its 95% interval.
        verdict: str. ``"holds"`` or ``"does not hold"`` where the whole interval lies on one side
            of the claim's bound, otherwise ``"not separable"``.
    """

    claim: str
    paper: str
    here: str
    verdict: str


def list_findings(numbers: Mapping[str, Any]) -> list[Finding]:
    """Tests every claim that the numbers of an analysis cover.

    Args:
        numbers: mapping. What `tfdare analyze` writes to ``analysis.json``.
    """
    findings: list[Finding] = []
    for model, of_model in numbers.get("gradients", {}).items():
        for name, feature in of_model["features"].items():
            if feature["shared"] and name != "position":
                findings += _of_gradients(model, name, feature)
    findings += _of_search(numbers.get("search", {}))
    findings += _of_discriminability(numbers.get("discriminability", {}))
    findings += _of_convergence(numbers.get("convergence", {}))
    findings += _of_accuracy(numbers.get("accuracy", {}))
    findings += _of_efficiency(numbers.get("efficiency") or {})
    return findings


def _of_gradients(model: str, name: str, feature: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding(
            f"{model}: gradients from the representation side are larger ({name} table)",
            "about 5 times the norm",
            f"{format_interval(feature['ratio'], '.2f')} times",
            _verdict(feature["ratio"], 1),
        ),
        Finding(
            f"{model}: the two gradients point against each other in most cases ({name} table)",
            "64% of cases",
            format_interval(feature["conflict"], ".1%"),
            _verdict(feature["conflict"], 0.5),
        ),
    ]


def _of_search(search: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for truth, of_truth in search.get("truths", {}).items():
        if truth == "attention":
            continue
        for pair, difference in of_truth["differences"].items():
            first, other = pair.split(" - ")
            if not _paper_claims(first, other):
                continue
            values = [of_truth["models"][name]["ndcg"]["estimate"] for name in (first, other)]
            if None in values:
                continue
            figures = "0.8124 against 0.5545" if other == "TWIN" else "not measured"
            relevance = {
                "information": "mutual information",
                "information_for": "mutual information, of behaviors that raise the click rate",
                "planted": "the planted relations",
            }.get(truth, truth)
            findings.append(
                Finding(
                    f"Search of {first} finds relevant behaviors better than that of {other} "
                    f"(NDCG@{search['top_k']}; relevance: {relevance})",
                    figures if truth == "information" else "not measured",
                    f"{values[0]:.3f} against {values[1]:.3f}; difference "
                    f"{format_interval(difference['ndcg'], '+.3f')}",
                    _verdict(difference["ndcg"], 0),
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
                    f"Representations of {first} discriminate better than those of {other} "
                    f"({numbers['clusters'][index]} clusters)",
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
        if speed["reference_examples"] is None:
            findings.append(
                Finding(
                    claim,
                    "about 450 iterations against 1,300",
                    f"never reaches {speed['auc']:.4f}",
                    FAILS,
                )
            )
            continue
        findings.append(
            Finding(
                claim,
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
                    f"{first} ranks better than {other} (AUC, {numbers['split']} split)",
                    "yes, on both logs",
                    f"difference {format_interval(metrics['auc'], '+.4f')}",
                    _verdict(metrics["auc"], 0),
                )
            )
    return findings


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
    return text_table([(f.verdict, f"{f.claim}: {f.here}") for f in findings], "<")
