"""Describes counts as numbers ready for JSON: means, quantiles, histograms, drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_jobs.reports.counts import Measures
from beam_jobs.shared.progress import labeled
from tfdare.schema import FIRST_ID, OOV_ID
from tfdare.sequences import Sequences
from tfdare.sequences.raw_ids import readable

_QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_TOP, _CURVE = 20, 60


def describe(measures: Measures, sequences: Sequences) -> dict[str, Any]:
    """Describes one split.

    Returns:
        ``totals``; ``history_length`` and ``user_requests`` as mean, quantiles and histogram;
        ``time_between_behaviors`` as ``[from, count]`` pairs, each bin twice as wide as the one
        before; for every feature the share out of vocabulary, the number of its ids that occur,
        the most frequent ones as ``[raw id, count]``, the curve of ``[rank, count]``, and, for
        features of one value, ``repeat_rate``: the share of clicked candidates whose value occurs
        in an earlier behavior of the user.
    """
    clicks = measures.totals.get("positives", 0)
    features = {}
    for feature in sequences.schema.features:
        name = feature.name
        features[name] = {
            **_frequencies(measures.behaviors[name], _ids(sequences, name)),
            "out_of_vocabulary_clicks": _share(measures.positives[name]),
        }
        if feature.max_values == 1:
            features[name]["repeat_rate"] = measures.repeats[name] / clicks if clicks else None
    used = np.flatnonzero(measures.gap)
    return {
        "totals": measures.totals,
        "history_length": _distribution(measures.history_length),
        "user_requests": _distribution(measures.user_requests),
        "time_between_behaviors": [
            [0 if power == 0 else 2 ** (power - 1), int(measures.gap[power])]
            for power in range(used[-1] + 1 if used.size else 0)
        ],
        "features": features,
    }


def drift(before: Measures, old: Sequences, after: Measures, new: Sequences) -> dict[str, Any]:
    """Computes how much the distributions of two runs differ.

    The measure is Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint
    ones. Ids are matched by their raw values in the log, not by their rows.

    Returns:
        ``history_length`` and ``user_requests``: the divergence; ``features``, by feature that
        both have: the ``divergence`` of behaviors, the numbers of ``new_ids`` and ``gone_ids`` in
        the vocabulary, and ``behaviors_of_new_ids``, the share of behaviors with new ids.
    """
    features = {}
    for name in new.schema.names:
        if name not in old.schema.names:
            continue
        ids = _ids(old, name), _ids(new, name)
        counts = before.behaviors[name][FIRST_ID:], after.behaviors[name][FIRST_ID:]
        every = np.union1d(*ids)
        spread = [np.zeros(len(every) + 1) for _ in ids]
        for run, measures in enumerate((before, after)):
            spread[run][np.searchsorted(every, ids[run])] = counts[run][: len(ids[run])]
            spread[run][-1] = measures.behaviors[name][OOV_ID]
        fresh = ~np.isin(ids[1], ids[0])
        total = counts[1].sum()
        features[name] = {
            "divergence": divergence(*spread),
            "new_ids": int(fresh.sum()),
            "gone_ids": int((~np.isin(ids[0], ids[1])).sum()),
            "behaviors_of_new_ids": float(counts[1][: len(fresh)][fresh].sum() / total)
            if total
            else None,
        }
    return {
        "history_length": divergence(before.history_length, after.history_length),
        "user_requests": divergence(before.user_requests, after.user_requests),
        "features": features,
    }


def divergence(first, second) -> float | None:
    """Computes the Jensen-Shannon divergence of two sets of counts, in bits; None if one is empty.

    Example:
        >>> divergence([1, 1], [10, 10]), divergence([3, 0], [0, 5])
        (0.0, 1.0)
    """
    size = max(len(first), len(second))
    shares = [np.pad(np.asarray(c, np.float64), (0, size - len(c))) for c in (first, second)]
    if not all(share.sum() > 0 for share in shares):
        return None
    shares = [share / share.sum() for share in shares]
    middle = (shares[0] + shares[1]) / 2
    bits = 0.0
    for share in shares:
        there = share > 0
        bits += float(np.sum(share[there] * np.log2(share[there] / middle[there]))) / 2
    return min(max(bits, 0.0), 1.0)


def _distribution(counts: np.ndarray) -> dict[str, Any]:
    """Describes values 0, 1, 2, ... by their counts: mean, quantiles and histogram."""
    total = int(counts.sum())
    if not total:
        return {"mean": None, "quantiles": {}, "histogram": []}
    below = np.cumsum(counts)
    quantiles = {f"{q:g}": int(np.searchsorted(below, max(q * total, 1))) for q in _QUANTILES}
    top = int(np.flatnonzero(counts)[-1])
    edges = np.unique(np.geomspace(1, top + 1, 41).round().astype(int)) if top else np.array([1])
    edges = np.concatenate([[0], edges]) if counts[0] or len(edges) == 1 else edges
    bins = [
        [int(low), int(counts[low:high].sum())]
        for low, high in zip(edges, [*edges[1:], top + 1])
        if high > low
    ]
    return {
        "mean": float(np.arange(len(counts)) @ counts / total),
        "quantiles": quantiles,
        "histogram": bins,
    }


def _frequencies(counts: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    known = counts[FIRST_ID : FIRST_ID + len(ids)]
    order = np.lexsort((ids, -known))
    seen = int((known > 0).sum())
    ranks = np.unique(np.geomspace(1, max(seen, 1), _CURVE).round().astype(int))
    return {
        "out_of_vocabulary": _share(counts),
        "ids": len(ids),
        "ids_seen": seen,
        "top": [
            [raw, int(known[i])]
            for i, raw in zip(order, readable(ids[order[: min(_TOP, seen)]]).tolist())
        ],
        "curve": [[int(rank), int(known[order[rank - 1]])] for rank in ranks if rank <= seen],
    }


def _ids(sequences: Sequences, name: str) -> np.ndarray:
    """Returns raw ids from row ``FIRST_ID`` on; for a hashed feature, its bucket numbers."""
    (feature,) = (part for part in sequences.schema.features if part.name == name)
    if feature.hash_buckets:
        return np.arange(feature.hash_buckets)
    return sequences.vocabulary(name)


def _share(counts: np.ndarray) -> float | None:
    total = int(counts.sum())
    return int(counts[OOV_ID]) / total if total else None


def plain(facts: Mapping[str, Any], split: str) -> list[str]:
    """Describes a split in a few lines of text."""
    totals, length = facts["totals"], facts["history_length"]
    lines = [
        labeled(
            split,
            f"{totals['users']:,} users, {totals['requests']:,} requests, "
            f"{totals['behaviors']:,} behaviors; length of histories: median "
            f"{length['quantiles'].get('0.5', 0):,}, "
            f"largest {length['quantiles'].get('1', 0):,}",
        )
    ]
    for name, feature in facts["features"].items():
        unknown, rate = feature["out_of_vocabulary"] or 0, feature.get("repeat_rate")
        text = f"{feature['ids_seen']:,} ids, {unknown:.2%} out of vocabulary"
        text += "" if rate is None else f"; {rate:.1%} of clicks repeat an earlier id"
        lines.append(labeled(f"  {name}", text))
    return lines
