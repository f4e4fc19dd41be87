"""Every kind of feature and of id, from a log to a server's answer, by the commands."""

import csv
import json
import urllib.request

import numpy as np
import pytest

from beam_jobs import batch_rank
from beam_jobs.build_sequences import main as prepare
from serving.client import Client, ServingError, one_request
from serving.client.lookup import newest_request
from tests.serving.conftest import running
from tfdare import cli
from tfdare.commands import evaluate, export, train
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds, readable
from tfdare.sequences.requests import search_inputs
from tfdare.session import SavedModelSession

NAMES = ["user", "item", "category", "brand", "tag_ids", "city", "price", "timestamp"]
CITIES = ("Łódź", "NA", "")


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
                tags = [f"tag {item % 7}", item % 5, *(["ä"] if item % 3 == 0 else [])]
                price = "" if random.random() < 0.1 else round(item % 50 + random.random(), 2)
                rows.writerow(
                    [
                        user,
                        f"SKU-{item:03d}/b",
                        item % 20,
                        f"brand {item % 33}",
                        "|".join(map(str, tags)),
                        CITIES[user % 3],
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
                "--hash_buckets",
                "brand=20",
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
    assert request["target_item"].dtype.kind == "S" and request["target_category"].dtype == np.int64
    session = SavedModelSession(str(tmp_path / "servables" / "rich" / "1"))
    whole = session.run("serving_default", request)
    search = session.run("search", search_inputs(request))
    np.testing.assert_array_equal(whole["behavior_index"], search["behavior_index"])
    assert whole["probability"].shape == (1, 3) and np.isfinite(whole["probability"]).all()
    served = ("--model_base_path", base + "/rich", "--model_name", "rich", "--port", "0")
    with running(*served, "--rest_api_port", "0", log=tmp_path / "server.log") as server:
        with Client(server.address, "rich") as client:
            answer = client.rank(request, split=True)
            np.testing.assert_allclose(answer.probability, whole["probability"], atol=1e-6)
            with pytest.raises(ServingError, match="string but int64 is provided"):
                numbers = {**request, "target_item": np.array([[1, 2, 3]])}
                client.predict("serving_default", numbers)
        values = {name: readable(value).tolist() for name, value in request.items()}
        document = {"inputs": values}
        body = json.dumps(document).encode()
        reply = urllib.request.urlopen(f"http://{server.rest}/v1/models/rich:predict", body)
        got = json.loads(reply.read())["outputs"]["probability"]
        np.testing.assert_allclose(got, whole["probability"], atol=1e-6)
        for command in (
            ["query", "--candidates", "SKU-007/b", "not there"],
            ["verify", "--run", run, "--servable", base + "/rich/1", "--requests", "8"],
        ):
            here = ["--address", server.address, "--model", "rich", "--sequences", sequences]
            assert cli.main([*command, *here]) == 0
    said = capsys.readouterr().out
    assert "SKU-007/b" in said and "They agree" in said
    ranked = tmp_path / "ranked"
    batch = ["--sequences", sequences, "--model", base + "/rich/1", "--output", str(ranked)]
    assert batch_rank.main([*batch, "--newest", "--format", "jsonl"]) == 2  # brand is hashed
    assert "hashes brand" in capsys.readouterr().err
