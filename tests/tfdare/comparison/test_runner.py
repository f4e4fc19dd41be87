"""``tfdare compare``: which runs are trained, which model wins, and the report."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.folders import make_splits, write_folder
from tests.tfdare.comparison.stand_in import LABEL, USER, Trainer
from tfdare.commands.compare import main
from tfdare.comparison import (
    Row,
    Trial,
    Trials,
    markdown,
    measure_costs,
    rows_of,
    shares_tables,
    summarize_trials,
)
from tfdare.comparison.measure import make_request, search_bytes
from tfdare.comparison.paper import AUC, ORDERINGS, holds_in
from tfdare.comparison.runner import TRAINING_DEFAULTS, compare
from tfdare.errors import UsageError
from tfdare.models import MODELS, build_model

ROOT = pathlib.Path(__file__).parents[3]


def test_which_models_have_one_table():
    several = {model for model in MODELS if not shares_tables(model)}
    assert {"DARE", "DARE-whole", "TWIN-4E"} <= several
    assert not several & {"TWIN", "DIN", "SDIM", "TWIN-proj", "ETA", "SIM-hard", "TWIN-V2"}


def test_rows_of_models_and_dimensions():
    assert rows_of(["DARE", "TWIN"], [2, 4], [4, 8]) == [
        Row("DARE", 2, 4),
        Row("DARE", 2, 8),
        Row("DARE", 4, 4),
        Row("DARE", 4, 8),
        Row("TWIN", 2, 2),
        Row("TWIN", 4, 4),
    ]
    assert Row("DARE", 2, 4).columns == "2 + 4" and Row("TWIN", 2, 2).columns == "2"
    names = {Trial(Row("DARE", 2, 4), rate, seed).name for rate in (0.1, 0.01) for seed in (1, 2)}
    assert len(names) == 4 and "DARE-2-4-lr0.01-seed2" in names


def test_tuning_picks_by_validation(folder, tmp_path, stand_in):
    best = {"DARE": 0.03, "TWIN": 0.1}
    trainer = stand_in(
        Trainer(
            lambda model, rate, seed: 0.8 if rate == best[model] else 0.7,
            test=lambda model, rate, seed: 0.6 if rate == best[model] else 0.9,  # a lure
        )
    )
    said = []
    comparison = compare(
        folder.path,
        str(tmp_path / "c"),
        ["DARE", "TWIN"],
        seeds=[3, 1, 2],
        learning_rates=[0.01, 0.03, 0.1],
        resamples=20,
        say=said.append,
    )
    assert trainer.calls == [
        *(("DARE", 16, 16, rate, 3) for rate in (0.01, 0.03, 0.1)),
        *(("TWIN", 16, 16, rate, 3) for rate in (0.01, 0.03, 0.1)),
        ("DARE", 16, 16, 0.03, 1),
        ("TWIN", 16, 16, 0.1, 1),
        ("DARE", 16, 16, 0.03, 2),
        ("TWIN", 16, 16, 0.1, 2),
    ]
    rows = {row["model"]: row for row in comparison["rows"]}
    assert {model: row["learning_rate"] for model, row in rows.items()} == best
    assert rows["DARE"]["seeds"] == [3, 1, 2] and rows["DARE"]["test"]["auc"]["mean"] == 0.6
    assert rows["DARE"]["examples_per_s"] == 2000
    assert comparison["tuning"][0]["validation_auc"] == {"0.01": 0.7, "0.03": 0.8, "0.1": 0.7}
    lines = [line for line in said if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{n}/10" for n in range(1, 11)]
    assert "DARE 16 + 16, lr 0.01, seed 3: validation AUC 0.7000, test 0.9000" in lines[0]
    assert "; 9 left, about " in lines[0] and "left" not in lines[-1]


def test_nothing_is_repeated_and_a_comparison_grows(folder, tmp_path, stand_in):
    output = str(tmp_path / "c")
    trainer = stand_in(Trainer(lambda *_: 0.7))
    common = {"resamples": 20, "say": lambda line: None}
    compare(folder.path, output, ["DARE"], [1, 2], **common)
    assert len(trainer.calls) == 2
    said = []
    compare(folder.path, output, ["DARE"], [1, 2], resamples=20, say=said.append)
    assert len(trainer.calls) == 2 and "1 of 1 runs were finished before" in said
    comparison = compare(
        folder.path, output, ["DARE", "TWIN", "DIN"], [1, 2, 3], attention_dims=[16, 8], **common
    )
    assert len(trainer.calls) == 2 + 6 * 3 - 2
    assert len(set(trainer.calls)) == len(trainer.calls) and len(comparison["rows"]) == 6
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert "| model | columns | test AUC |" in text
    assert "TWIN > DIN (8 against 8)" in text and "is not among the models" in text
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_diverged_runs_are_left_out(folder, tmp_path, stand_in):
    trainer = stand_in(
        Trainer(
            lambda model, rate, seed: None if rate == 9.0 or (model, seed) == ("TWIN", 2) else 0.7
        )
    )
    comparison = compare(
        folder.path,
        str(tmp_path / "c"),
        ["DARE", "TWIN"],
        [1, 2],
        learning_rates=[9.0, 0.01],
        resamples=20,
        say=lambda line: None,
    )
    rows = {row["model"]: row for row in comparison["rows"]}
    assert rows["DARE"]["learning_rate"] == 0.01 and rows["TWIN"]["diverged"] == [2]
    assert "Diverged, and left out: TWIN (16), seeds 2." in markdown(comparison)
    calls = len(trainer.calls)
    compare(
        folder.path,
        str(tmp_path / "c"),
        ["DARE", "TWIN"],
        [1, 2],
        learning_rates=[9.0, 0.01],
        resamples=20,
        say=lambda line: None,
    )
    assert len(trainer.calls) == calls
    with pytest.raises(UsageError, match="Every run diverged"):
        compare(
            folder.path,
            str(tmp_path / "d"),
            ["DARE"],
            [1],
            learning_rates=[9.0],
            say=lambda line: None,
        )


def test_other_options_are_refused_by_name(folder, tmp_path, stand_in, capsys):
    trainer = stand_in(Trainer(lambda *_: 0.7))
    arguments = [
        "--sequences",
        folder.path,
        "--output",
        str(tmp_path / "c"),
        "--models",
        "DARE",
        "--seeds",
        "1",
        "--resamples",
        "5",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "[1/1] DARE 16 + 16" in out and "| **DARE** |" in out and "comparison.md" in out
    assert main([*arguments, "--epochs", "7", "--dropout", "0.1"]) == 2
    err = capsys.readouterr().err
    assert "dropout: 0.0, now 0.1" in err and "epochs: 4, now 7" in err and "top_k" not in err
    other = write_folder(tmp_path / "sequences", make_splits(users=3), window=13)
    assert main(["--sequences", other.path, *arguments[2:]]) == 2
    assert "schema_digest" in capsys.readouterr().err
    assert len(trainer.calls) == 1


@pytest.mark.parametrize(
    "more, words",
    [
        (["--seeds", "-1"], "--seeds must not be negative. Received: -1"),
        (["--attention_dims", "0"], "--attention_dims must be positive. Received: 0"),
        (["--learning_rates", "nan"], "--learning_rates must be positive. Received: nan"),
        (["--resamples", "0"], "--resamples must be positive. Received: 0"),
    ],
)
def test_bad_options(folder, tmp_path, capsys, more, words):
    output = tmp_path / "c"
    assert main(["--sequences", folder.path, "--output", str(output), *more]) == 2
    assert words in capsys.readouterr().err and not output.exists()


def test_invalid_arguments_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="`models` must be one of .*DARE.*Received: 'BST'"):
        compare(folder.path, str(tmp_path / "c"), ["BST"])
    with pytest.raises(UsageError, match="`seeds` must name at least one"):
        compare(folder.path, str(tmp_path / "c"), seeds=[])
    with pytest.raises(TypeError, match="learning_rate"):
        compare(folder.path, str(tmp_path / "c"), learning_rate=0.1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is no comparison"):
        compare(folder.path, str(tmp_path / "mine"))


def test_predictions_of_other_targets(folder, tmp_path, stand_in):
    stand_in(Trainer(lambda *_: 0.7))
    compare(folder.path, str(tmp_path / "c"), ["DARE"], [1, 2], resamples=5, say=lambda line: None)
    path = tmp_path / "c" / "runs" / "DARE-16-16-lr0.01-seed2" / "predictions.npz"
    np.savez(path, label=1 - LABEL, user=USER, probability=LABEL * 1.0)
    with pytest.raises(UsageError, match="seed2.*other targets"):
        compare(folder.path, str(tmp_path / "c"), ["DARE"], [1, 2], say=lambda line: None)


def test_verdicts_and_markdown(folder, tmp_path, stand_in):
    """Ranks the paper's DARE above all; TWIN above DIN, below SDIM, level with ETA."""
    strength = {"DARE-paper": 0.8, "SDIM": 0.25, "TWIN": 0.12, "ETA": 0.12, "DIN": 0.0, "DARE": 0.9}
    stand_in(Trainer(lambda *_: 0.7, test=lambda model, *_: strength[model], noise=0.02))
    comparison = compare(
        folder.path,
        str(tmp_path / "c"),
        list(strength),
        [1, 2],
        resamples=200,
        say=lambda line: None,
    )
    verdicts = {
        (ordering["better"], ordering["worse"]): ordering for ordering in comparison["orderings"]
    }
    assert {pair: ordering["verdict"] for pair, ordering in verdicts.items()} == {
        ("DARE-paper", "TWIN"): "holds",
        ("TWIN", "DIN"): "holds",
        ("TWIN", "SDIM"): "reversed",
        ("TWIN", "ETA"): "not separable",
        ("DARE-paper", "all"): "holds",
    }
    above = verdicts["DARE-paper", "all"]
    assert (above["above"], above["of"], above["closest"]) == (4, 4, "SDIM")
    assert (above["paper_holds"], above["paper_settings"]) == (6, 6)
    assert [row["model"] for row in comparison["rows"]][:3] == ["DARE", "DARE-paper", "SDIM"]
    twin = next(row for row in comparison["rows"] if row["model"] == "TWIN")
    assert twin["difference"]["to"] == {"model": "DARE", "columns": "16 + 16"}
    assert twin["difference"]["estimate"] <= -verdicts["DARE-paper", "TWIN"]["estimate"] < 0
    assert twin["paper"] == {"Taobao": 0.91688, "Tmall": 0.95812}
    assert json.loads((tmp_path / "c" / "comparison.json").read_text()) == comparison

    text = (tmp_path / "c" / "comparison.md").read_text()
    assert text == markdown(comparison)
    lines = text.splitlines()
    assert lines[0] == "# Comparison" and lines[2] == (
        "| model | test AUC | difference to DARE [95%] | AUC, item seen before | AUC, new item "
        "| GAUC | log loss | paper, Taobao | paper, Tmall |"
    )
    dare = next(line for line in lines if line.startswith("| **DARE** | 0.9000"))
    assert dare == "| **DARE** | 0.9000 ± 0.0000 |  | 0.9000 |  | 0.9000 | 0.5000 |  |  |"
    published = next(line for line in lines if line.startswith("| DARE, as published | 0.8000"))
    assert published.endswith("| 0.8000 |  | 0.8000 | 0.5000 | 0.9257 | 0.9680 |")
    assert "| SDIM | 0.7000 ± 0.0000 | 1.0 | 0.01 | 1,500 | 1,000 | 0.06 | 2.0 * |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 2 * (2 + 6) + 2 + 5
    assert any(line.startswith("| TWIN > SDIM | reversed | -") for line in tables)
    above_all = "| DARE, as published > all | holds: above 4 of 4 | +"
    assert any(line.startswith(above_all) for line in tables)
    assert f"20 users, {folder.candidates('train')} targets" in text
    assert "Seeds 1, 2; at most 4 epochs, stopped after 1" in text
    assert "--models DARE-paper SDIM TWIN ETA DIN DARE --seeds 1 2" in text
    assert str(tmp_path) not in text


def test_the_papers_own_orderings():
    assert holds_in("DARE-paper", "TWIN") == (6, 6) and holds_in("TWIN", "TWIN-proj") == (5, 6)
    assert all(set(pair) <= set(MODELS) & set(AUC[16]) for pair in ORDERINGS)


def test_costs_are_measured(folder):
    schema = folder.schema
    models = {
        "DARE": build_model("DARE", schema.with_dims(2, 4), top_k=4),
        "DARE-learned": build_model("DARE-learned", schema.with_dims(2, 4), top_k=4),
        "TWIN": build_model("TWIN", schema.with_dims(4, 4), top_k=4),
        "SDIM": build_model("SDIM", schema.with_dims(4, 4), top_k=4),
        "TWIN-4E": build_model("TWIN-4E", schema.with_dims(2, 4), top_k=4),
        "DARE-whole": build_model("DARE-whole", schema.with_dims(2, 4)),  # one call: all tables
    }
    rows = sum(feature.vocabulary_size for feature in schema.features)
    positions = schema.position.size(schema.window)
    assert {name: search_bytes(model) for name, model in models.items()} == {
        "DARE": 4 * 2 * rows,  # position is no part of given attention
        "DARE-learned": 4 * 2 * (rows + positions),
        "TWIN": 4 * 4 * (rows + positions),
        "SDIM": 4 * 4 * (rows + positions),
        "TWIN-4E": 4 * 2 * (2 * rows + positions),
        "DARE-whole": 4 * (2 + 4) * (rows + positions),
    }
    costs = measure_costs(
        {name: models[name] for name in ("DARE", "SDIM")},
        folder,
        behaviors=700,
        candidates=9,
        turns=3,
    )
    assert costs["DARE"].parameters == models["DARE"].count_params()
    assert costs["DARE"].search_ms > 0 and not costs["DARE"].whole_call
    assert costs["SDIM"].whole_call


def test_a_request_is_made_of_real_behaviors_and_targets(folder):
    requests = {name: value.numpy() for name, value in make_request(folder, 700, 9).items()}
    assert {name: value.shape for name, value in requests.items()} == {
        "history_item": (1, 700),
        "history_category": (1, 700),
        "history_length": (1,),
        "target_item": (1, 9),
        "target_category": (1, 9),
        "target_length": (1,),
    }
    for kind in ("history", "target"):
        item, category = requests[f"{kind}_item"], requests[f"{kind}_category"]
        assert (item >= 2).all() and ((item - 2) % 5 + 2 == category).all()


def test_a_killed_comparison_is_resumed(folder, tmp_path, capsys):
    """Kills a real comparison halfway: the next call repeats nothing that was finished."""
    output = tmp_path / "c"
    arguments = [
        "--sequences",
        folder.path,
        "--output",
        str(output),
        "--models",
        "DARE-paper",
        "TWIN",
        "--seeds",
        "1",
        "2",
        "--epochs",
        "1",
        "--attention_dims",
        "4",
        "--representation_dims",
        "4",
        "--top_k",
        "4",
        "--batch_size",
        "32",
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tfdare.commands.compare import main; sys.exit(main(sys.argv[1:]))",
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    second = output / "runs" / "TWIN-4-4-lr0.01-seed1"
    until = time.monotonic() + 300
    while not (second / "run.json").exists():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = output / "runs" / "DARE-paper-4-4-lr0.01-seed1" / "model.keras"
    written = first.stat().st_mtime_ns
    assert not (second / "metrics.json").exists()

    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert first.stat().st_mtime_ns == written
    assert f"Resuming the training that was cut off at {second}" in captured.err
    assert "1 of 2 runs were finished before" in captured.out
    assert [line.split()[0] for line in captured.out.splitlines() if line.startswith("[")] == [
        "[2/4]",
        "[3/4]",
        "[4/4]",
    ]
    assert "Epoch" not in captured.out and "step" not in captured.out
    comparison = json.loads((output / "comparison.json").read_text())
    assert sorted(row["model"] for row in comparison["rows"]) == ["DARE-paper", "TWIN"]
    for row in comparison["rows"]:
        assert len(row["test"]["auc"]["values"]) == 2 and row["search_ms"] > 0
        assert row["auc_interval"]["estimate"] == pytest.approx(row["test"]["auc"]["mean"])
    assert comparison["orderings"][0]["verdict"] in ("holds", "reversed", "not separable")
    assert comparison["orderings"][0]["better"] == "DARE-paper"
    assert {"comparison.md", "comparison.png", "comparison.json"} <= set(os.listdir(output))


def test_a_report_needs_no_costs(folder, tmp_path, stand_in):
    stand_in(Trainer(lambda *_: 0.7))
    row = Row("DARE", 4, 4)
    work = Trials(folder.path, str(tmp_path), TRAINING_DEFAULTS, lambda line: None)
    tried = work.run([row], [0.01], [1])
    assert work.best(tried) == {row: Trial(row, 0.01, 1)}
    comparison = summarize_trials(work, work.best(tried), [1], {}, resamples=5)
    assert "search_ms" not in comparison["rows"][0] and comparison["orderings"] == []
    assert comparison["rows"][0]["test"]["auc"]["deviation"] is None
