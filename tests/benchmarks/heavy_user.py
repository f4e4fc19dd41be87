"""One user with millions of events among 2,000 others: what the job keeps, cuts, and needs.

python -m tests.benchmarks.heavy_user --events 5000000
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

USERS, EVENTS_OF_A_USER = 2_000, 260


def write_log(path: pathlib.Path, events: int) -> None:
    """Writes a csv log in random order: user 0 has `events` events, the others 260 each."""
    draw = np.random.default_rng(0)
    user = np.concatenate(
        [np.zeros(events, np.int64), np.repeat(np.arange(1, USERS + 1), EVENTS_OF_A_USER)]
    )
    rows = len(user)
    table = pa.table(
        {
            "user": draw.permutation(user),
            "item": draw.zipf(1.3, rows) % 100_000,
            "category": np.ones(rows, np.int64),
            "time": 1_500_000_000 + draw.integers(0, 10_000_000, rows),
        }
    )
    pa_csv.write_csv(table, path)


def build(log: str, output: str) -> None:
    """Runs the job in this process; prints counts and the peak of its memory."""
    from beam_jobs.build_sequences import build as build_sequences
    from beam_jobs.options import parse

    manifest = build_sequences(
        parse(["--input", log, "--format", "csv", "--output", output], "heavy")
    )
    rows = manifest["counts"]["rows"]
    print(
        json.dumps(
            {
                **{name: rows[name] for name in ("read", "rejected", "cut", "kept")},
                "longest_history": manifest["counts"]["events"]["longest_history"],
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "seconds": manifest["seconds"],
            }
        )
    )


def main() -> int:
    """Writes the log and runs the job in a process of its own."""
    if sys.argv[1:2] == ["--build"]:
        build(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log.csv"
        write_log(log, options.events)
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.heavy_user",
                "--build",
                str(log),
                f"{folder}/sequences",
            ],
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
