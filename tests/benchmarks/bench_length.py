"""Training on ever longer histories: time and memory of a step, N from 200 to 20,000.

Every length runs in a process of its own, so that its greatest memory is its own: over a million
items, 16 + 16 columns, SparseAdam, 32 requests x 3 candidates a step. ``DARE-learned`` with the
auxiliary loss on; for ``DARE``, whose attention is given, a step on what search returned, and half
of the time of the search, as one search is for two epochs. Writes ``build/length.png``.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

LENGTHS = (200, 1_000, 2_000, 5_000, 10_000, 20_000)
REQUESTS, CANDIDATES, ITEMS = 32, 3, 1_000_000
STEPS, EPOCHS = 10, 2
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
        figures[f"length_given_ms_per_example@{length}"] = result["given_ms"]
    given = {length: result["given_ms"] for length, result in results.items()}
    figures["length_time_10000_over_200"] = given[10_000] / given[200]
    figures["length_learned_time_10000_over_200"] = results[10_000]["ms"] / results[200]["ms"]
    # For twice the length: 2 if time is linear in it, 4 if quadratic.
    figures["length_time_20000_over_10000"] = results[20_000]["ms"] / results[10_000]["ms"]
    base = results[200]["gib"]
    figures["length_memory_20000_over_10000"] = (results[20_000]["gib"] - base) / (
        results[10_000]["gib"] - base
    )
    return figures


def measure_length(length: int) -> dict[str, float]:
    """Measures one length, in this process."""
    from tests.benchmarks.bench_training import StepTimes, searched, variant
    from tfdare.compat import tf
    from tfdare.optimizers import SparseAdam

    model, data = variant(SparseAdam(0.01), REQUESTS, CANDIDATES, ITEMS, window=length)
    times = StepTimes()
    model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=[times], shuffle=False)
    peak = next(
        line
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    model, data = variant(
        SparseAdam(0.01), REQUESTS, CANDIDATES, ITEMS, model="DARE", window=length
    )
    search, search_seconds = tf.function(model.search), []
    for inputs, _, _ in data.take(STEPS):
        start = time.perf_counter()
        search(inputs)["attention_score"].numpy()
        search_seconds.append(time.perf_counter() - start)
    steps = StepTimes()
    model.fit(
        searched(model, data), steps_per_epoch=STEPS, verbose=0, callbacks=[steps], shuffle=False
    )
    given = statistics.median(steps.seconds) + statistics.median(search_seconds) / EPOCHS
    return {
        "ms": statistics.median(times.seconds) * 1e3 / (REQUESTS * CANDIDATES),
        "given_ms": given * 1e3 / (REQUESTS * CANDIDATES),
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
