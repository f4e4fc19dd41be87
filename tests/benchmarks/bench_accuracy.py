"""Test AUC of DARE and TWIN on the check-ins, three seeds each, beside the trivial baselines.

Skipped with a message where the log is absent.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import tempfile

from beam_jobs.build_sequences import main as prepare
from tests.real_logs import CHECKINS, CHECKINS_PROTOCOL
from tfdare.training import train

SEEDS, EPOCHS = (1, 2, 3), 2


def measure() -> dict[str, float]:
    """Measures medians over the seeds, and each seed's figure."""
    if not CHECKINS.exists():
        print(f"  skipped: {CHECKINS.name} is not in shared/data", file=sys.stderr)
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sequences = pathlib.Path(folder) / "sequences"
        if prepare(["--input", str(CHECKINS), "--output", str(sequences), *CHECKINS_PROTOCOL]):
            raise RuntimeError("tfdare prepare failed; see above")
        medians = {}
        for model in ("DARE", "TWIN"):
            tests = []
            for seed in SEEDS:
                run = pathlib.Path(folder) / f"{model}-{seed}"
                test = train(str(sequences), str(run), model, epochs=EPOCHS, seed=seed, verbose=0)[
                    "test"
                ]
                tests.append(test)
                key = f"checkins_auc_{model.lower()}"
                figures[f"{key}_seed{seed}"] = test["auc"]
                print(f"  {model}, seed {seed}: {test['auc']:.4f}", file=sys.stderr)
            for name in ("auc", "auc_seen", "auc_new", "gauc"):
                figures[f"checkins_{name}_{model.lower()}"] = statistics.median(
                    test[name] for test in tests
                )
            medians[model] = figures[key]
        figures["checkins_auc_gain"] = medians["DARE"] - medians["TWIN"]
        figures["checkins_auc_repeat_counts"] = tests[0]["baselines"]["repeat_counts"]
        figures["checkins_auc_seen_before_alone"] = tests[0]["baselines"]["seen"]
    return figures
