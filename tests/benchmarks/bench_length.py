"""Training on ever longer histories: time and memory of a step, N from 200 to 20,000.

Every length runs in a process of its own, so that its greatest memory is its own: DARE over
a million items, 16 + 16 columns, auxiliary loss on, SparseAdam, 32 requests x 3 candidates a step.
Writes ``build/length.png``.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys

LENGTHS = (200, 1_000, 2_000, 5_000, 10_000, 20_000)
REQUESTS, CANDIDATES, ITEMS = 32, 3, 1_000_000
STEPS = 10
PLOT = pathlib.Path("build") / "length.png"


def measure() -> dict[str, float]:
    """Measures milliseconds an example and GiB by length, and how they grow."""
    results = {}
    for length in LENGTHS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_length", str(length)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": "."},
        )
        if done.returncode:
            raise RuntimeError(f"N = {length} failed: {done.stderr.strip()[-2000:]}")
        results[length] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"  N = {length:,}: {results[length]['ms']:.2f} ms an example, "
            f"{results[length]['gib']:.2f} GiB",
            file=sys.stderr,
        )
    _plot(results)
    figures = {}
    for length, result in results.items():
        figures[f"length_ms_per_example@{length}"] = result["ms"]
        figures[f"length_peak_gib@{length}"] = result["gib"]
    # For twice the length: 2 if time is linear in it, 4 if quadratic.
    figures["length_time_20000_over_10000"] = results[20_000]["ms"] / results[10_000]["ms"]
    base = results[200]["gib"]
    figures["length_memory_20000_over_10000"] = (results[20_000]["gib"] - base) / (
        results[10_000]["gib"] - base
    )
    return figures


def measure_length(length: int) -> dict[str, float]:
    """Measures one length, in this process."""
    from tests.benchmarks.bench_training import StepTimes, variant
    from tfdare.optimizers import SparseAdam

    model, data = variant(SparseAdam(0.01), REQUESTS, CANDIDATES, ITEMS, window=length)
    times = StepTimes()
    model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=[times], shuffle=False)
    peak = next(
        line
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return {
        "ms": statistics.median(times.seconds) * 1e3 / (REQUESTS * CANDIDATES),
        "gib": int(peak.split()[1]) / 2**20,
    }


def _plot(results):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    lengths = list(results)
    for axis, key, title in (
        (axes[0], "ms", "time per example, ms"),
        (axes[1], "gib", "greatest memory, GiB"),
    ):
        values = [results[length][key] for length in lengths]
        axis.plot(lengths, values, marker="o", color="tab:blue")
        slope = (values[-1] - values[0]) / (lengths[-1] - lengths[0])
        axis.plot(
            lengths,
            [values[0] + slope * (n - lengths[0]) for n in lengths],
            ls=":",
            color="gray",
            label="a straight line",
        )
        axis.set(title=title, xlabel="behaviors in a history", ylim=(0, None))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Training DARE, {REQUESTS} requests x {CANDIDATES} candidates a step")
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    print(json.dumps(measure_length(int(sys.argv[1]))))
