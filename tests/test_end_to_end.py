"""The whole path by its commands, on real logs: log, sequences, model, SavedModel, gRPC."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.real_logs import CHECKINS, CHECKINS_PROTOCOL, TAOBAO, needs_real_logs

pytestmark = needs_real_logs


def tfdare(*arguments):
    """Runs a command in a process of its own."""
    command = [sys.executable, "-m", "tfdare.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def served_taobao(tmp_path_factory):
    """Serves a model trained on Taobao's log by the paper's protocol."""
    folder = tmp_path_factory.mktemp("taobao")
    sequences, run, base = folder / "sequences", folder / "run", folder / "servables"
    tfdare("prepare", "--input", TAOBAO, "--format", "taobao", "--output", sequences)
    tfdare(
        "train",
        "--sequences",
        sequences,
        "--model",
        "DARE",
        "--output",
        run,
        "--epochs",
        1,
        "--batch_size",
        128,
    )
    tfdare("export", "--run", run, "--output", base, "--name", "dare")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tfdare.cli",
            "serve",
            "--model_base_path",
            str(base / "dare"),
            "--model_name",
            "dare",
            "--port",
            "0",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in server.stdout:
        if "served at" in line:
            address = line.split("served at ")[1].split()[0]
            break
    else:
        pytest.fail("the server stopped before it served")
    yield sequences, run, address
    server.terminate()
    assert server.wait(timeout=30) == 0


def test_taobao_goes_through_by_the_papers_protocol(served_taobao):
    sequences, run, _ = served_taobao
    manifest = json.loads((sequences / "manifest.json").read_text())
    schema = json.loads((sequences / "schema.json").read_text())
    assert manifest["counts"]["rows"]["read"] == 84_475
    assert manifest["counts"]["users"]["kept"] == 78  # users with 210 page views
    assert schema["window"] == 200
    splits = manifest["counts"]["splits"]
    assert splits["test"]["requests"] == splits["validation"]["requests"] == 78
    assert splits["train"]["requests"] == 78 * 19
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["targets"] == 78 * 3
    assert 0 <= metrics["test"]["auc"] <= 1


def test_taobao_is_ranked_over_grpc_split_and_whole(served_taobao):
    sequences, _, address = served_taobao
    answer = json.loads(
        tfdare("query", "--address", address, "--model", "dare", "--sequences", sequences, "--json")
    )
    assert answer["agree"] and answer["difference"] <= 1e-6
    probabilities = [row["probability"] for row in answer["candidates"]]
    assert probabilities == sorted(probabilities, reverse=True) and len(probabilities) == 3
    scores = [row["attention_score"] for row in answer["behaviors"]]
    assert len(scores) == 20 and scores == sorted(scores, reverse=True)
    assert all(1 <= row["position"] <= 200 for row in answer["behaviors"])


def test_dare_beats_twin_on_checkins(tmp_path):
    sequences = tmp_path / "sequences"
    tfdare("prepare", "--input", CHECKINS, "--output", sequences, *CHECKINS_PROTOCOL)
    auc = {}
    for model in ("DARE", "TWIN"):
        run = tmp_path / model
        tfdare("train", "--sequences", sequences, "--model", model, "--output", run, "--epochs", 2)
        test = json.loads((run / "metrics.json").read_text())["test"]
        auc[model] = test["auc"]
    assert auc["DARE"] >= 0.928, auc
    assert auc["DARE"] - auc["TWIN"] >= 0.004, auc
    assert auc["TWIN"] > test["baselines"]["repeat_counts"] > test["baselines"]["seen"]
