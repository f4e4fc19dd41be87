"""``tfdare compare`` over several logs: one comparison each, and one table."""

import json
import os

import pytest

from tests.folders import make_splits, write_folder
from tests.tfdare.comparison.stand_in import Trainer
from tfdare.commands.compare import main
from tfdare.comparison.logs import compare_logs, summarize_logs
from tfdare.comparison.runner import compare
from tfdare.errors import UsageError

MODELS = ["DARE", "TWIN", "SDIM", "DIN"]
QUIET = {"say": lambda line: None}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    return [
        write_folder(folder / name, make_splits(seed=seed, users=8)).path
        for name, seed in (("cities", 1), ("shops", 2))
    ]


def test_two_logs_become_one_table(logs, tmp_path, stand_in, capsys):
    output = str(tmp_path / "c")
    strength = {
        "cities": {"DARE": 0.2, "TWIN": 0.1, "SDIM": 0.0, "DIN": 0.2},
        "shops": {"DARE": 0.1, "TWIN": 0.2, "SDIM": 0.05, "DIN": None},
    }
    comparisons = {}
    for path in logs:
        name = os.path.basename(path)
        trainer = Trainer(
            lambda model, rate, seed, name=name: None if strength[name][model] is None else 0.7,
            test=lambda model, rate, seed, name=name: strength[name][model] + 0.001 * seed,
            noise=0.02,
        )
        stand_in(trainer)
        comparisons[name] = compare(
            path, os.path.join(output, name), MODELS, [1, 2], resamples=50, **QUIET
        )
    nothing = stand_in(Trainer(lambda *_: 0.1))
    arguments = ["--sequences", *logs, "--output", output, "--models", *MODELS]
    assert main([*arguments, "--seeds", "1", "2", "--resamples", "50"]) == 0
    assert not nothing.calls  # a log's comparison is a comparison like any other
    out = capsys.readouterr().out
    assert "cities, log 1 of 2" in out and "shops, log 2 of 2" in out

    summary = json.loads((tmp_path / "c" / "logs.json").read_text())
    assert summary == json.loads(json.dumps(summarize_logs(comparisons)))
    rows = {row["model"]: row for row in summary["rows"]}
    ranks = {model: list(row["ranks"].values()) for model, row in rows.items()}
    assert ranks == {"DARE": [1.5, 2], "TWIN": [3, 1], "DIN": [1.5, 4], "SDIM": [4, 3]}
    assert list(rows) == ["DARE", "TWIN", "DIN", "SDIM"] and rows["DIN"]["mean_rank"] == 2.75
    assert rows["DIN"]["logs"]["shops"] is None
    for name, comparison in comparisons.items():
        for row in comparison["rows"]:
            numbers = rows[row["model"]]["logs"][name]
            assert numbers["auc"] == row["test"]["auc"]
            assert numbers["difference"] == row["difference"]
    assert rows["TWIN"]["logs"]["shops"]["difference"]["estimate"] > 0

    text = (tmp_path / "c" / "logs.md").read_text()
    assert f"\n{text}\n" in out
    heads, _, first, second, third, _ = (
        line.split(" | ") for line in text.splitlines() if line.startswith("|")
    )
    assert heads[:2] == ["| model", "mean rank"]
    assert heads[2] == "cities: test AUC, difference to DARE [95%]"
    assert first == ["| **DARE**", "1.75", "0.2015 ± 0.0007", "0.1015 ± 0.0007 |"]
    difference = rows["TWIN"]["logs"]["cities"]["difference"]
    ends = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
    assert second[2] == f"0.1015 ± 0.0007, {difference['estimate']:+.4f} {ends}"
    assert third[-1] == "diverged |"
    assert "intervals are over users (50 resamples) and seeds" in text
    assert "--output cities --models" in text and str(tmp_path) not in text
    assert (tmp_path / "c" / "logs.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_without_the_reference(logs, tmp_path, stand_in):
    stand_in(Trainer(lambda *_: 0.7))
    summary = compare_logs(
        logs, str(tmp_path / "c"), models=["TWIN", "DIN"], seeds=[1], resamples=5, **QUIET
    )
    assert [row["logs"]["cities"]["difference"] for row in summary["rows"]] == [None, None]
    text = (tmp_path / "c" / "logs.md").read_text()
    assert "| model | mean rank | cities: test AUC | shops: test AUC |" in text
    assert "| TWIN | 1.50 | 0.7000 | 0.7000 |" in text
    assert "(5 resamples); other seeds are not in them" in text


def test_unusable_folders_are_refused(logs, tmp_path, stand_in, capsys):
    trainer = stand_in(Trainer(lambda *_: 0.7))
    output = str(tmp_path / "c")
    with pytest.raises(UsageError, match="different names"):
        compare_logs([logs[0], f"{logs[0]}/."], output, **QUIET)
    assert main(["--sequences", logs[0], str(tmp_path / "none"), "--output", output]) == 2
    assert "none" in capsys.readouterr().err
    assert not trainer.calls and not os.path.exists(output)
    compare(logs[0], output, ["TWIN"], [1], resamples=5, **QUIET)
    with pytest.raises(UsageError, match="holds the comparison of one log"):
        compare_logs(logs, output, **QUIET)
