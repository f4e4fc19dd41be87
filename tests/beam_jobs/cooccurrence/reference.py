"""Plain and dense ways to count pairs and to compute information."""

from collections import Counter
from itertools import pairwise

import numpy as np

from beam_jobs.cooccurrence.pairs import UNIT


def count_plainly(behaviors, coarse_clock, gap):
    """Counts the weight of every ordered pair of row ids, in plain Python."""
    total, start = Counter(), 0
    for length in behaviors.length.tolist():
        events = list(
            zip(
                behaviors.time[start : start + length].tolist(),
                behaviors.rows["item"][start : start + length].tolist(),
            )
        )
        start += length
        sessions = [events[:1]]
        for before, event in pairwise(events):
            if gap is not None and event[0] - before[0] > gap:
                sessions.append([])
            sessions[-1].append(event)
        for session in sessions:
            baskets = []
            for before, event in zip([None, *session], session):
                if coarse_clock or before is None or event[0] != before[0]:
                    baskets.append([])
                baskets[-1].append(event[1])
            for first, basket in enumerate(baskets):
                for second in range(first, len(baskets)):
                    steps = second - first
                    between = sum(map(len, baskets[first + 1 : second]))
                    if steps > 3 and between >= 10:
                        continue
                    for row in {known for known in basket if known >= 2}:
                        for other in {known for known in baskets[second] if known >= 2}:
                            if steps:
                                total[row, other] += UNIT // (steps + 1)
                                total[other, row] += UNIT // (steps + 1)
                            elif row != other:
                                total[row, other] += UNIT
    return total


def dense_information(counts):
    """Computes the positive pointwise mutual information of all cells, float64."""
    share = counts.sum(axis=0) ** 0.75
    share /= share.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / (counts.sum(axis=1)[:, None] * share))
    return np.where(information > 0, information, 0)
