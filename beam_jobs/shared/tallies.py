"""Tallies: counts that pass through the pipeline, so that the manifest is exact on every runner.

Beam's own counters are shown in consoles, but a bundle that a runner retries may count twice.
A tally is a dict of name to int; tallies add up, and names that start with ``longest`` keep the
largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apache_beam as beam
from apache_beam.metrics import Metrics

LONGEST = "longest"
DAMAGED = "damaged/"
"""Prefix of names that contain the message about an input that cannot be read."""
TALLY = "tally"
"""Tag of the output of a DoFn for its tallies."""


def add(total: dict[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Adds ``more`` to ``total`` and returns it."""
    for name, value in more.items():
        if name.startswith(LONGEST):
            total[name] = max(total.get(name, 0), value)
        else:
            total[name] = total.get(name, 0) + value
    return total


def tagged(counts: Mapping[str, int]) -> beam.pvalue.TaggedOutput:
    """Makes a tally an output of a DoFn, and adds it to Beam's counters of the same names."""
    counts = {name: int(value) for name, value in counts.items()}
    for name, value in counts.items():
        if abs(value) >= 2**63:
            continue  # no number for Beam's counters
        if name.startswith(LONGEST):
            Metrics.distribution("tfdare", name).update(value)
        elif name.startswith(DAMAGED):
            Metrics.counter("tfdare", "chunks_damaged").inc(value)
        elif not name.startswith("digest"):
            Metrics.counter("tfdare", name).inc(value)
    return beam.pvalue.TaggedOutput(TALLY, counts)


class AddTallies(beam.CombineFn):
    """Sums tallies."""

    def create_accumulator(self) -> dict[str, int]:
        return {}

    def add_input(self, accumulator, element):
        return add(accumulator, element)

    def merge_accumulators(self, accumulators: Iterable[dict[str, int]]):
        total: dict[str, int] = {}
        for accumulator in accumulators:
            add(total, accumulator)
        return total

    def extract_output(self, accumulator):
        return accumulator
