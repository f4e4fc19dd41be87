"""Search over raw ids: text beside integers, which the graph looks up in the vocabulary.

DARE over 100,000 items and 1,000 categories, 16 + 16 columns, K = 20; one user, N = 10,000
behaviors, C = 100 candidates. Runs of two sessions in this process take turns; text ids are of 16
bytes.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

from tests.benchmarks.bench_serving import in_turns
from tfdare.export import export_model
from tfdare.models import DARE
from tfdare.schema import INT64, STRING, Feature, Schema
from tfdare.sequences import Sequences
from tfdare.session import SavedModelSession

SIZES = {"item": 100_000, "category": 1_000}
BEHAVIORS, CANDIDATES = 10_000, 100


def measure() -> dict[str, float]:
    """Measures milliseconds of ``search`` by the kind of ids, and their ratio."""
    rng = np.random.default_rng(0)
    rows = {
        f"{side}_{name}": rng.integers(0, size, (1, length))
        for side, length in (("history", BEHAVIORS), ("target", CANDIDATES))
        for name, size in SIZES.items()
    }
    length = {"history_length": np.array([BEHAVIORS], np.int32)}
    with tempfile.TemporaryDirectory() as base:
        searches = {}
        for dtype in (INT64, STRING):
            ids = {name: _write_vocabulary(base, name, dtype) for name in SIZES}
            schema = Schema(
                tuple(
                    Feature(name, size + 2, vocabulary=f"{name}-{dtype}.tsv", dtype=dtype)
                    for name, size in SIZES.items()
                ),
                window=BEHAVIORS,
            )
            model = DARE(schema, auxiliary_weight=0)
            path = export_model(model, base, Sequences(base, schema, {}), name=dtype)
            inputs = {key: ids[key.split("_")[1]][value] for key, value in rows.items()} | length
            session = SavedModelSession(path)
            searches[dtype] = lambda session=session, inputs=inputs: session.run("search", inputs)
        integers, text = in_turns(searches[INT64], searches[STRING])
    size = f"{BEHAVIORS}x{CANDIDATES}"
    return {
        f"search_int64_ms_p50@{size}": integers,
        f"search_string_ms_p50@{size}": text,
        f"search_string_over_int64@{size}": text / integers,
    }


def _write_vocabulary(folder: str, name: str, dtype: str) -> np.ndarray:
    numbers = np.random.default_rng(1).permutation(SIZES[name]) + 10**9
    ids = np.array([f"SKU-{number:012d}".encode() for number in numbers])
    ids = numbers if dtype == INT64 else ids
    with open(os.path.join(folder, f"{name}-{dtype}.tsv"), "w", encoding="utf-8") as file:
        for value in ids.tolist():
            file.write(f"{value.decode() if dtype == STRING else value}\t1\n")
    return ids
