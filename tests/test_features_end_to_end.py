"""Every kind of feature, from a log to the published model, by the commands."""

import csv
import json

import numpy as np
import pytest

from beam_jobs.build_sequences import main as prepare
from serving.client import one_request
from serving.client.lookup import newest_request
from tfdare.commands import evaluate, export, train
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds
from tfdare.sequences.requests import search_inputs
from tfdare.session import SavedModelSession

NAMES = ["user", "item", "category", "brand", "tag_ids", "city", "price", "timestamp"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Writes 40 users with 40 events; an item in three has 3 tags, a price in ten is unknown."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(NAMES)
        for user in range(40):
            time = 1_600_000_000 + int(random.integers(1_000_000))
            for item in random.integers(1, 100, 40):
                time += int(random.integers(1, 40_000))
                tags = [item % 7, 10 + item % 5, *([20] if item % 3 == 0 else [])]
                price = "" if random.random() < 0.1 else round(item % 50 + random.random(), 2)
                rows.writerow(
                    [
                        user,
                        item,
                        item % 20,
                        item % 33,
                        "|".join(map(str, tags)),
                        user % 9,
                        price,
                        time,
                    ]
                )
    return path


def test_every_kind_of_feature_reaches_the_signatures(log, tmp_path, capsys):
    sequences, run, base = (str(tmp_path / name) for name in ("sequences", "run", "servables"))
    assert (
        prepare(
            [
                "--input",
                str(log),
                "--format",
                "csv",
                "--output",
                sequences,
                "--columns",
                "brand=brand,tags=tag_ids,time=timestamp",
                "--multi_hot",
                "tags=3",
                "--context",
                "hour=hour_of_day",
                "city=city",
                "--numeric",
                "price=price",
                "--time_gap",
                "3600",
                "--split",
                "last_fraction",
                "--min_events",
                "30",
                "--window",
                "20",
            ]
        )
        == 0
    )
    assert (
        train.main(
            [
                "--sequences",
                sequences,
                "--output",
                run,
                "--epochs",
                "1",
                "--top_k",
                "5",
                "--attention_dim",
                "4",
            ]
        )
        == 0
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert evaluate.main(["--run", run, "--sequences", sequences, "--split", "test"]) == 0
    assert f"{metrics['auc']:.4f}" in capsys.readouterr().out
    assert metrics["baselines"]["repeat_counts"] is not None
    assert export.main(["--run", run, "--output", base, "--name", "rich"]) == 0
    opened = open_sequences(sequences)
    newest = newest_request(opened, "test", "7", RawIds(opened))
    request = one_request(
        newest.history, newest.target, newest.time_gap, newest.context, {"tags": 3}
    )
    assert set(request) == {
        *(
            f"{side}_{name}"
            for side in ("history", "target")
            for name in ("item", "category", "brand", "tags", "length")
        ),
        "history_time_gap",
        "context_hour",
        "context_city",
        "context_price",
    } - {"target_length"}
    session = SavedModelSession(str(tmp_path / "servables" / "rich" / "1"))
    whole = session.run("serving_default", request)
    search = session.run("search", search_inputs(request))
    np.testing.assert_array_equal(whole["behavior_index"], search["behavior_index"])
    assert whole["probability"].shape == (1, 3) and np.isfinite(whole["probability"]).all()
