"""The paper's findings, and whether they hold on this data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOLDS, FAILS, UNSETTLED = "holds", "does not hold", "not separable"
SMALL_LOSS = 0.001


@dataclass(frozen=True)
class Finding:
    """One claim of the paper on this data.

    Attributes:
        claim: str. What the paper says.
        paper: str. Its own figure.
        here: str. The figure on this data, with its 95% interval.
        verdict: str. ``"holds"``, ``"does not hold"`` or ``"not separable"``: whether the interval
            lies on the claim's side, on the other, or on both.
    """

    claim: str
    paper: str
    here: str
    verdict: str


def list_findings(numbers: Mapping[str, Any]) -> list[Finding]:
    """All findings that the numbers of an analysis can speak to.

    Args:
        numbers: mapping. What `tfdare analyze` writes to ``analysis.json``.
    """
    found: list[Finding] = []
    for model, one in numbers.get("gradients", {}).items():
        for name, feature in one["features"].items():
            if feature["shared"] and name != "position":
                found += _of_gradients(model, name, feature)
    found += _of_search(numbers.get("search", {}))
    found += _of_discriminability(numbers.get("discriminability", {}))
    found += _of_convergence(numbers.get("convergence", {}))
    found += _of_accuracy(numbers.get("accuracy", {}))
    found += _of_efficiency(numbers.get("efficiency") or {})
    return found


def _of_gradients(model, name, feature):
    return [
        Finding(
            f"{model}: gradients from the representation side are larger ({name} table)",
            "about 5 times the norm",
            f"{_shown(feature['ratio'], '.2f')} times",
            _verdict(feature["ratio"], 1),
        ),
        Finding(
            f"{model}: the two gradients point against each other in most cases ({name} table)",
            "64% of cases",
            _shown(feature["conflict"], ".1%"),
            _verdict(feature["conflict"], 0.5),
        ),
    ]


def _of_search(search):
    found = []
    for truth, one in search.get("truths", {}).items():
        if truth == "attention":
            continue
        for pair, difference in one["differences"].items():
            first, other = pair.split(" - ")
            if not _claimed(first, other):
                continue
            values = [one["models"][name]["ndcg"]["estimate"] for name in (first, other)]
            if None in values:
                continue
            figures = "0.8124 against 0.5545" if other == "TWIN" else "not measured"
            against = {
                "information": "mutual information",
                "information_for": "mutual information, of behaviors that speak for the click",
                "planted": "the planted relations",
            }.get(truth, truth)
            found.append(
                Finding(
                    f"Search of {first} finds what matters better than that of {other} "
                    f"(NDCG@{search['top_k']} against {against})",
                    figures if truth == "information" else "not measured",
                    f"{values[0]:.3f} against {values[1]:.3f}; difference "
                    f"{_shown(difference['ndcg'], '+.3f')}",
                    _verdict(difference["ndcg"], 0),
                )
            )
    return found


def _of_discriminability(one):
    found = []
    for pair, differences in one.get("differences", {}).items():
        first, other = pair.split(" - ")
        if not _claimed(first, other):
            continue
        for place in sorted({len(differences) // 2, len(differences) - 1}):
            values = [
                one["models"][name]["information"][place]["estimate"] for name in (first, other)
            ]
            found.append(
                Finding(
                    f"Representations of {first} discriminate better than those of {other} "
                    f"({one['clusters'][place]} clusters)",
                    "yes, at all numbers of clusters",
                    f"{values[0]:.3f} against {values[1]:.3f} nats; difference "
                    f"{_shown(differences[place], '+.3f')}",
                    _verdict(differences[place], 0),
                )
            )
    return found


def _of_convergence(one):
    found = []
    for name, speed in one.get("speed", {}).items():
        if not _claimed(speed["reference"], name):
            continue
        claim = f"{speed['reference']} needs fewer examples than {name} for {name}'s best AUC"
        if speed["reference_examples"] is None:
            found.append(
                Finding(
                    claim,
                    "about 450 iterations against 1,300",
                    f"never reaches {speed['auc']:.4f}",
                    FAILS,
                )
            )
            continue
        found.append(
            Finding(
                claim,
                "about 450 iterations against 1,300 (2.9 times)",
                f"{speed['reference_examples']:,.0f} against {speed['examples']:,.0f}: "
                f"{_shown(speed['ratio'], '.2f')} times",
                _verdict(speed["ratio"], 1),
            )
        )
    return found


def _of_accuracy(one):
    found = []
    if "slices" not in one:
        return found
    for pair, metrics in one["slices"]["all"]["parts"][0]["differences"].items():
        first, other = pair.split(" - ")
        if _claimed(first, other):
            found.append(
                Finding(
                    f"{first} ranks better than {other} (AUC, {one['split']})",
                    "yes, on both logs",
                    f"difference {_shown(metrics['auc'], '+.4f')}",
                    _verdict(metrics["auc"], 0),
                )
            )
    return found


def _of_efficiency(one):
    found = []
    for model, rows in one.get("models", {}).items():
        if not model.startswith("DARE") or len(rows) < 2:
            continue
        wide = rows[-1]["attention_dim"]
        for row in rows:
            if row["attention_dim"] * 2 == wide:
                loss = row["to_widest"]
                small = loss["low"] is not None and loss["low"] > -SMALL_LOSS
                found.append(
                    Finding(
                        f"{model}: half the attention columns ({wide} to {row['attention_dim']}) "
                        f"cost less than {SMALL_LOSS} AUC",
                        "no loss from 128 to 64",
                        _shown(loss, "+.4f"),
                        HOLDS if small else _verdict(loss, -SMALL_LOSS),
                    )
                )
    return found


def _claimed(first: str, other: str) -> bool:
    """Whether the paper puts the first above the other: DARE above the shared tables."""
    return first.startswith("DARE") and not other.startswith("DARE")


def _verdict(one: Mapping[str, Any], bound: float) -> str:
    if one["low"] is None or one["low"] <= bound <= one["high"]:
        return UNSETTLED
    return HOLDS if one["low"] > bound else FAILS


def _shown(one: Mapping[str, Any], form: str) -> str:
    if one["estimate"] is None:
        return "n/a"
    if one["low"] is None:
        return f"{one['estimate']:{form}}"
    return f"{one['estimate']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"


def findings_table(found: Sequence[Finding]) -> str:
    """Findings as a person reads them on a terminal."""
    return "\n".join(f"  {one.verdict:<14} {one.claim}: {one.here}" for one in found)
