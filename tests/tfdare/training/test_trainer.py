"""``tfdare train``: what a run holds, what is refused, and resuming a killed run."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.folders import WINDOW, make_splits, write_folder
from tests.tfdare.test_cli import NOISE
from tests.tfdare.test_cli import run as run_tfdare
from tfdare.commands import evaluate
from tfdare.commands.train import main
from tfdare.compat import raw, tf
from tfdare.data import read_requests
from tfdare.errors import UsageError
from tfdare.metrics import auc, gauc
from tfdare.models import build_model
from tfdare.schema import SchemaError
from tfdare.training import TrainOptions, compile_model, load_run, train
from tfdare.training import callbacks as stopping
from tfdare.training.callbacks import Backup, KeepBest, check_finite, keep_epochs
from tfdare.training.compile import _head, _rate

ROOT = pathlib.Path(__file__).parents[3]
SMALL = ("--batch_size", "16", "--attention_dim", "4", "--representation_dim", "4", "--top_k", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("training") / "sequences", make_splits(seed=7, users=20), shards=2
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    """Trains two epochs in a new process: the run's folder, and what the process printed."""
    output = tmp_path_factory.mktemp("trained") / "run"
    return output, run_tfdare("train", *arguments(folder, output, "--epochs", "2"))


@pytest.fixture(scope="module")
def trained(finished):
    """Returns the folder of a finished run of two epochs; tests only read it."""
    output, process = finished
    assert process.returncode == 0, process.stderr
    return output


def arguments(folder, output, *more):
    return ["--sequences", folder.path, "--output", str(output), *SMALL, *more]


def read_json(path):
    return json.loads(path.read_text())


def epochs_of(run):
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        return [(int(row["epoch"]), float(row["val_auc"])) for row in csv.DictReader(file)]


def small_model(folder, seed=0, **options):
    tf.keras.utils.set_random_seed(seed)
    model = build_model("DARE", folder.schema.with_dims(4, 4), top_k=4)
    compile_model(model, **options)
    return model


def test_a_run(trained, folder):
    metrics = read_json(trained / "metrics.json")
    assert sorted(metrics) == ["test", "training", "validation"]
    for split in ("validation", "test"):
        for name in ("auc", "gauc", "auc_seen", "auc_new", "gauc_seen", "gauc_new"):
            assert 0 <= metrics[split][name] <= 1, name
        assert metrics[split]["logloss"] > 0
        assert metrics[split]["requests"] == folder.requests(split)
    assert metrics["training"]["epochs"] == 2 and metrics["training"]["epochs_before"] == 0
    assert metrics["training"]["seconds"] > 0 and metrics["training"]["examples_per_s"] > 0
    assert [epoch for epoch, _ in epochs_of(trained)] == [0, 1]
    assert {path.name for path in trained.iterdir()} == {
        "history.csv",
        "metrics.json",
        "model.keras",
        "predictions.npz",
        "run.json",
        "schema.json",
        "tensorboard",
        "vocabulary",
    }
    epochs = epochs_of(trained)
    assert metrics["training"]["epochs_run"] == 2
    assert metrics["training"]["best_epoch"] == 1 + (epochs[1][1] > epochs[0][1])
    with np.load(trained / "predictions.npz") as kept:
        assert kept["label"].size == folder.candidates("test") == kept["user"].size
        assert auc(kept["label"], kept["probability"]) == pytest.approx(metrics["test"]["auc"])
        assert gauc(kept["label"], kept["probability"], kept["user"]) == pytest.approx(
            metrics["test"]["gauc"]
        )
    options = read_json(trained / "run.json")
    assert options["model"] == "DARE" and options["top_k"] == 4 and options["seed"] == 1
    assert {
        name: options[name]
        for name in (
            "patience",
            "schedule",
            "optimizer",
            "table_learning_rate",
            "clip_norm",
            "dropout",
        )
    } == {
        "patience": 0,
        "schedule": "constant",
        "optimizer": "adam",
        "table_learning_rate": None,
        "clip_norm": 0.0,
        "dropout": 0.0,
    }
    assert str(folder.path) not in (trained / "run.json").read_text()
    opened = load_run(str(trained))
    assert opened.schema == folder.schema.with_dims(4, 4)


def test_training_is_quiet(finished):
    output, process = finished
    assert process.returncode == 0, process.stderr
    assert not NOISE.search(process.stderr + process.stdout), process.stderr
    assert "Warning" not in process.stderr and "Traceback" not in process.stderr
    assert "Epoch 2/2" in process.stdout and f"run kept at {output}" in process.stdout


def test_the_model_learns(trained, folder):
    model = load_run(str(trained)).model()
    fresh = small_model(folder)
    requests, label, weight = next(iter(read_requests(folder, "train", 10_000)))
    loss = [
        float(
            m.evaluate(
                requests,
                label,
                sample_weight=weight,
                verbose=0,
                return_dict=True,
                batch_size=10_000,
            )["auc"]
        )
        for m in (fresh, model)
    ]
    assert loss[1] > max(loss[0], 0.55)


def test_evaluate_gives_the_same_numbers(trained, folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = read_json(run / "metrics.json")
    argv = ["--run", str(run), "--sequences", folder.path]
    assert evaluate.main(argv) == 0
    out = capsys.readouterr().out
    assert f"{before['test']['auc']:.4f}" in out
    after = read_json(run / "metrics.json")
    assert after["validation"] == before["validation"] and after["training"] == before["training"]
    for name in ("auc", "gauc", "auc_seen", "auc_new", "logloss"):
        assert after["test"][name] == pytest.approx(before["test"][name], abs=1e-6)
    assert evaluate.main([*argv, "--split", "train", "--batch_size", "7"]) == 0
    assert read_json(run / "metrics.json")["train"]["requests"] == folder.requests("train")


def test_the_best_epoch_is_saved(trained, folder):
    model = load_run(str(trained)).model()
    metrics = model.evaluate(read_requests(folder, "validation", 16), verbose=0, return_dict=True)
    assert metrics["auc"] == pytest.approx(max(auc for _, auc in epochs_of(trained)), abs=1e-6)


def test_keep_best_keeps_the_best(folder, tmp_path):
    model = small_model(folder)
    path = str(tmp_path / "best.weights.h5")
    keeper = KeepBest(path)
    keeper.set_model(model)
    kept = None
    for epoch, value in enumerate([0.5, 0.7, float("nan"), 0.6, 0.7]):
        for weight in model.weights:
            raw(weight).assign_add(tf.ones_like(raw(weight)))
        keeper.on_epoch_end(epoch, {"val_auc": value})
        kept = [w.copy() for w in model.get_weights()] if epoch == 1 else kept
    model.load_weights(path)
    assert all((now == then).all() for now, then in zip(model.get_weights(), kept))
    again = KeepBest(str(tmp_path / "other.weights.h5"), best=0.7)
    again.set_model(model)
    again.on_epoch_end(5, {"val_auc": 0.69})
    assert os.listdir(tmp_path) == ["best.weights.h5"]


def test_backup_brings_all_of_it_back(folder, tmp_path):
    batch = next(iter(read_requests(folder, "train", 16)))
    rates = [_rate(rate, "cosine", 4) for rate in (0.01, 0.02)]
    options = {"learning_rate": rates[0], "table_learning_rate": rates[1]}
    first, second = small_model(folder, 1, **options), small_model(folder, 2, **options)
    backup = Backup(str(tmp_path / "backup"), first)
    assert backup.restore() == 0
    backup.set_model(first)
    for epoch in range(2):
        first.train_on_batch(*batch)
        backup.on_epoch_end(epoch)
    assert Backup(str(tmp_path / "backup"), second).restore() == 2

    def assert_same():
        for ours, theirs in (
            (first.weights, second.weights),
            (first.optimizer.variables, second.optimizer.variables),
        ):
            assert len(ours) == len(theirs)
            for left, right in zip(ours, theirs):
                np.testing.assert_array_equal(raw(left).numpy(), raw(right).numpy())

    assert int(first.optimizer.iterations) == 2
    for model in (first, second):  # the schedule goes on where it was
        assert float(model.optimizer.table_learning_rate) == pytest.approx(0.01)
    assert_same()
    for model in (first, second):
        model.train_on_batch(*batch)
    assert_same()


def test_history_keeps_the_epochs_that_are_done(tmp_path):
    log = tmp_path / "history.csv"
    assert keep_epochs(str(log), 3) is None
    log.write_text("epoch,auc,val_auc\r\n0,0.1,0.6\r\n1,0.2,0.7\r\n2,0.3,0.9\r\n3,0.")
    assert keep_epochs(str(log), 2) == 0.7
    assert log.read_text().split() == ["epoch,auc,val_auc", "0,0.1,0.6", "1,0.2,0.7"]
    assert keep_epochs(str(log), 0) is None
    assert log.read_text() == ""


def test_a_killed_run_is_resumed(folder, tmp_path, capfd):
    run, epochs = tmp_path / "run", 8
    argv = arguments(folder, run, "--epochs", str(epochs))
    process = subprocess.Popen(
        [sys.executable, "-m", "tfdare.cli", "train", *argv],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 120
    while not (run / "backup" / "checkpoint").exists():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "metrics.json").exists()
    capfd.readouterr()
    with pytest.raises(UsageError, match="has not finished"):
        load_run(str(run))

    assert main([*argv, "--seed", "2"]) == 2
    assert "other options (seed)" in capfd.readouterr().err

    assert main(argv) == 0
    captured = capfd.readouterr()
    training = read_json(run / "metrics.json")["training"]
    before = training["epochs_before"]
    assert 1 <= before < epochs and training["epochs"] == epochs
    assert f"{run}: {before} of {epochs} epochs are done" in captured.err
    assert captured.out.count(f"/{epochs}\n") == epochs - before  # Keras's "Epoch 7/30"
    assert f"Epoch {before + 1}/{epochs}" in captured.out
    assert [epoch for epoch, _ in epochs_of(run)] == list(range(epochs))
    assert not (run / "backup").exists() and not list(run.glob("*.weights.h5"))
    model = load_run(str(run)).model()
    metrics = model.evaluate(read_requests(folder, "validation", 16), verbose=0, return_dict=True)
    assert metrics["auc"] == pytest.approx(max(auc for _, auc in epochs_of(run)), abs=1e-6)


def test_a_run_killed_after_the_last_epoch_is_finished(trained, folder, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    expected = read_json(run / "metrics.json")
    os.remove(run / "metrics.json")
    Backup(str(run / "backup"), load_run(str(run)).model()).on_epoch_end(1)
    assert main(arguments(folder, run, "--epochs", "2")) == 0
    captured = capfd.readouterr()
    assert "2 of 2 epochs are done" in captured.err and "Epoch" not in captured.out
    metrics = read_json(run / "metrics.json")
    assert metrics["training"]["epochs_before"] == 2
    assert metrics["test"]["auc"] == pytest.approx(expected["test"]["auc"], abs=1e-6)
    assert len(epochs_of(run)) == 2


def test_a_finished_run_is_refused(trained, folder, capsys):
    before = (trained / "model.keras").read_bytes()
    assert main(arguments(folder, trained, "--epochs", "2")) == 2
    err = capsys.readouterr().err
    assert str(trained) in err and "--overwrite" in err and "Traceback" not in err
    assert (trained / "model.keras").read_bytes() == before


def test_overwrite_replaces_a_run(trained, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    argv = arguments(
        folder,
        run,
        "--epochs",
        "1",
        "--model",
        "TWIN",
        "--overwrite",
        "--auxiliary_weight",
        "0",
        "--weight_decay",
        "0.01",
    )
    assert main(argv) == 0
    assert [epoch for epoch, _ in epochs_of(run)] == [0]
    assert read_json(run / "run.json")["model"] == "TWIN"
    assert load_run(str(run)).model().auxiliary_head is None


@pytest.mark.parametrize(
    "more, words",
    [
        (["--epochs", "0"], ["--epochs", "0"]),
        (["--batch_size", "-3"], ["--batch_size", "-3"]),
        (["--top_k", "0"], ["--top_k", "0"]),
        (["--top_k", str(WINDOW + 1)], ["--top_k", str(WINDOW + 1), str(WINDOW)]),
        (["--attention_dim", "0"], ["attention_dim=0"]),
        (["--model", "TWIN", "--attention_dim", "8"], ["attention_dim=8", "representation_dim=4"]),
        (["--learning_rate", "0"], ["--learning_rate", "0"]),
        (["--learning_rate", "nan"], ["--learning_rate", "nan"]),
        (["--weight_decay", "-1"], ["--weight_decay", "-1"]),
        (["--auxiliary_weight", "-0.5"], ["--auxiliary_weight", "-0.5"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--patience", "-1"], ["--patience", "-1"]),
        (["--clip_norm", "-1"], ["--clip_norm", "-1"]),
        (["--table_learning_rate", "0"], ["--table_learning_rate", "0"]),
        (["--dropout", "1"], ["--dropout", "1"]),
    ],
)
def test_bad_options(folder, tmp_path, capsys, more, words):
    assert main(arguments(folder, tmp_path / "run", *more)) == 2
    err = capsys.readouterr().err
    assert err.startswith("tfdare train: ") and "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "run").exists()


def test_unknown_model(folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "run", "--model", "BST")) == 2
    err = capsys.readouterr().err
    assert "BST" in err and "DARE" in err
    with pytest.raises(UsageError, match="`model` must be one of DARE, .*TWIN.*BST"):
        train(folder.path, str(tmp_path / "run"), model="BST")


def test_options_by_name_and_as_one(folder, tmp_path):
    output = str(tmp_path / "run")
    with pytest.raises(TypeError, match="learning_rat"):
        train(folder.path, output, learning_rat=0.1)
    with pytest.raises(UsageError, match=r"`dropout` must be in \[0, 1\). Received: 1"):
        train(folder.path, output, options=TrainOptions("TWIN", dropout=1.0), epochs=1)
    with pytest.raises(UsageError, match="`epochs` must be positive. Received: 0"):
        train(folder.path, output, "DIN", TrainOptions(), epochs=0)
    assert not os.path.exists(output)


@pytest.mark.parametrize("finished, words", [(False, "_SUCCESS"), (None, "No folder")])
def test_sequences_that_are_not_there(tmp_path, capsys, finished, words):
    path = tmp_path / "s"
    if finished is not None:
        write_folder(path, make_splits(users=2), finished=finished)
    argv = ["--sequences", str(path), "--output", str(tmp_path / "run")]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert str(path) in err and words in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("empty", ["train", "validation", "test"])
def test_a_split_without_requests(tmp_path, capsys, empty):
    opened = write_folder(tmp_path / "s", {**make_splits(users=3), empty: []})
    assert main(arguments(opened, tmp_path / "run")) == 2
    assert f"The {empty} split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_sequences_do_not_resume(trained, folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    os.remove(run / "metrics.json")
    other = write_folder(tmp_path / "sequences", make_splits(users=3), window=WINDOW + 1)
    assert main(arguments(other, run, "--epochs", "2")) == 2
    err = capsys.readouterr().err
    assert "other options (schema_digest)" in err
    assert f"its sequences differ: `window` is {WINDOW + 1}, was {WINDOW}" in err


def test_evaluate_refuses(trained, folder, tmp_path, capsys):
    other = write_folder(tmp_path / "s", make_splits(users=3), window=WINDOW + 1)
    grown = write_folder(tmp_path / "g", make_splits(users=3), sizes={"item": 31, "category": 9})
    for argv, words in [
        (["--run", str(trained), "--sequences", other.path], "digest"),
        (
            ["--run", str(trained), "--sequences", grown.path],
            "the vocabulary of 'item' grew from 30 to 31 rows; the vocabulary of 'category' grew "
            "from 7 to 9 rows",
        ),
        (["--run", str(tmp_path / "no"), "--sequences", folder.path], "No training run"),
        (["--run", str(trained), "--sequences", folder.path, "--batch_size", "0"], "--batch_size"),
    ]:
        assert evaluate.main(argv) == 2
        err = capsys.readouterr().err
        assert words in err and err.startswith("tfdare evaluate: ") and "Traceback" not in err


def test_patience_that_is_used_up_is_known_on_resuming(trained, folder, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    os.remove(run / "metrics.json")
    options = {**read_json(run / "run.json"), "epochs": 9, "patience": 1}
    (run / "run.json").write_text(json.dumps(options))
    (run / "history.csv").write_text("epoch,val_auc\n0,0.9\n1,0.8\n")
    Backup(str(run / "backup"), load_run(str(run)).model()).on_epoch_end(1)
    assert main(arguments(folder, run, "--epochs", "9", "--patience", "1")) == 0
    captured = capfd.readouterr()
    assert "Epoch" not in captured.out and "best epoch 1 of 2; run kept" in captured.out
    done = read_json(run / "metrics.json")["training"]
    assert (done["epochs"], done["epochs_run"], done["best_epoch"]) == (9, 2, 1)
    assert done["examples_per_s"] is None


def test_many_options_at_once(folder, tmp_path):
    """Trains with many options at once, and checks that each took effect."""
    run = tmp_path / "run"
    metrics = train(
        folder.path,
        str(run),
        "SIM-soft",
        epochs=2,
        batch_size=16,
        attention_dim=4,
        representation_dim=4,
        top_k=4,
        verbose=0,
        patience=1,
        schedule="cosine",
        optimizer="rowwise_adagrad",
        table_learning_rate=0.05,
        clip_norm=1.0,
        dropout=0.25,
    )
    options = read_json(run / "run.json")
    assert (options["optimizer"], options["schedule"], options["table_learning_rate"]) == (
        "rowwise_adagrad",
        "cosine",
        0.05,
    )
    assert (options["patience"], options["clip_norm"], options["dropout"]) == (1, 1.0, 0.25)
    assert metrics["training"]["examples_per_s"] > 0
    model = load_run(str(run)).model()
    assert model.head.dropout == 0.25 and not model.head.batch_norm  # SIM's own head otherwise
    assert model.optimizer.name == "rowwise_adagrad"
    assert model.optimizer.global_clipnorm == 1.0
    steps = -(-folder.requests("train") // 16)
    done = metrics["training"]["epochs_run"] * steps
    assert int(model.optimizer.iterations) == done
    expected = 0.05 * 0.5 * (1 + np.cos(np.pi * done / (2 * steps)))
    assert float(model.optimizer.table_learning_rate) == pytest.approx(expected, abs=1e-6)


def test_dropout_changes_no_other_setting_of_the_head():
    assert _head("DARE", 0.5).batch_norm and not _head("SIM-hard", 0.5).batch_norm
    assert _head("DARE", 0.5).dropout == 0.5 and _head("DARE", 0.5).name == "head"


def test_a_diverged_training_is_reported(folder, tmp_path, capsys, monkeypatch):
    argv = arguments(folder, tmp_path / "run", "--learning_rate", "1e30", "--epochs", "2")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "epoch 1, step" in err and "training diverged" in err and "--clip_norm" in err
    assert not (tmp_path / "run" / "metrics.json").exists()

    def poisoned(sequences, split, batch_size, **options):
        for number, (requests, label, weight) in enumerate(
            read_requests(sequences, split, batch_size, **options)
        ):
            if number == 1:
                label = tf.tensor_scatter_nd_update(label, [[3, 0]], [float("nan")])
            yield requests, label, weight

    monkeypatch.setattr(stopping, "read_requests", poisoned)
    with pytest.raises(SchemaError, match=r"`label` is not finite in request 13 .* train split"):
        check_finite(folder, batch_size=10)
    monkeypatch.undo()
    check_finite(folder)
