"""The reader alone: requests from disk to batches, shuffled, with a window of 200 behaviors.

Two random folders: users with a hundred to three hundred behaviors and a request at every third
from the 20th on, as of the check-ins; and users with 2,000 behaviors and 20 requests near their
end, as of the paper's protocol. An epoch is read and, in turns with it, the same batches are
copied by NumPy, which is the least that any reader must do.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from tests.folders import write_folder
from tfdare.data import read_requests
from tfdare.sequences.record import UserRecord

SIZES = {"item": 100_000, "category": 1_000}
WINDOW, CANDIDATES, BATCH, SHARDS = 200, 3, 683, 8
ROUNDS = 7


def make_user(random: np.random.Generator, name: str, length: int, position: np.ndarray):
    """Makes a user whose ids are drawn uniformly, with `CANDIDATES` for every request."""
    draw = lambda size, rows: random.integers(2, rows, size, dtype=np.int32)
    candidates = CANDIDATES * len(position)
    time = np.arange(length) * 60
    return UserRecord(
        user=name,
        history={feature: draw(length, rows) for feature, rows in SIZES.items()},
        history_time=time,
        position=position.astype(np.int32),
        target_length=np.full(len(position), CANDIDATES, np.int32),
        target={feature: draw(candidates, rows) for feature, rows in SIZES.items()},
        label=np.tile(np.arange(CANDIDATES) == 0, len(position)).astype(np.uint8),
        request_time=time[position] + 30,
    )


def short_histories(random: np.random.Generator, users: int = 3_000):
    """Makes users like those of the check-ins."""
    for user in range(users):
        length = int(random.integers(100, 300))
        yield make_user(random, f"s{user}", length, np.arange(20, length, 3))


def long_histories(random: np.random.Generator, users: int = 4_000):
    """Makes users with 2,000 behaviors and 20 requests, at every fifth of the last 100."""
    for user in range(users):
        yield make_user(random, f"l{user}", 2_000, np.arange(1_900, 2_000, 5))


def epoch(dataset) -> tuple[float, list]:
    """Reads all batches; returns the seconds and the batches."""
    started = time.perf_counter()
    batches = list(dataset)
    return time.perf_counter() - started, batches


def copy(batches: list) -> float:
    """Measures the seconds of a NumPy copy of the batches."""
    arrays = [
        [part.numpy() for part in (*requests.values(), label, weight)]
        for requests, label, weight in batches
    ]
    started = time.perf_counter()
    for parts in arrays:
        for part in parts:
            part.copy()
    return time.perf_counter() - started


def measure() -> dict[str, float]:
    """Measures examples (requests x candidates) a second, and the time over a plain copy's."""
    figures: dict[str, float] = {}
    kinds = (("", short_histories), ("_long", long_histories))
    for suffix, users in kinds:
        with tempfile.TemporaryDirectory() as folder:
            records = list(users(np.random.default_rng(0)))
            sequences = write_folder(
                pathlib.Path(folder) / "s",
                {"train": records},
                shards=SHARDS,
                sizes=SIZES,
                window=WINDOW,
                candidates=CANDIDATES,
            )
            dataset = read_requests(sequences, "train", BATCH, shuffle=True, seed=1)
            epoch(dataset)  # files and functions are warm after it
            reading, copying = [], []
            for _ in range(ROUNDS):
                seconds, batches = epoch(dataset)
                reading.append(seconds)
                copying.append(copy(batches))
                del batches
            rate = sequences.candidates("train") / statistics.median(reading)
            figures[f"reader_examples_per_s{suffix}"] = rate
            figures[f"reader_over_copy{suffix}"] = statistics.median(reading) / statistics.median(
                copying
            )
            print(f"  {users.__name__}: {rate:,.0f} examples/s", file=sys.stderr)
    return figures
