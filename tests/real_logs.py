"""Paths of the two real logs, and the mark of tests that need them."""

from __future__ import annotations

import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "shared" / "data"
CHECKINS = FOLDER / "checkins.csv.gz"
TAOBAO = FOLDER / "taobao_user_behavior_sample.csv.gz"

CHECKINS_PROTOCOL = [
    "--format",
    "csv",
    "--columns",
    "time=timestamp",
    "--split",
    "last_fraction",
    "--test_fraction",
    "0.1",
    "--min_events",
    "60",
    "--window",
    "200",
    "--negatives",
    "2",
    # The clock ticks in hours: two equal check-ins are two visits, in the order of the log.
    "--duplicates",
    "keep",
    "--coarse_clock",
]
"""Arguments of ``tfdare prepare`` for the check-ins."""

needs_real_logs = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the real logs are not in {FOLDER.name} beside the project"
)
