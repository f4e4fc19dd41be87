"""``tfdare compare --tune``: the same trials for every model, chosen by validation AUC alone."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.tfdare.comparison.stand_in import Trainer
from tfdare.commands.compare import main
from tfdare.comparison import Row, Trial, Trials, markdown
from tfdare.comparison.runner import TRAINING_DEFAULTS, compare
from tfdare.comparison.tuning import SPACE, auxiliary_weight
from tfdare.errors import UsageError
from tfdare.models import MODELS as PUBLISHED

ROOT = pathlib.Path(__file__).parents[3]
MODELS = ["DARE", "TWIN", "SDIM"]


def by_rate(model, rate, seed):
    """Prefers a rate of 0.006; SDIM diverges above 0.01, and is best as it is."""
    if model == "SDIM":
        return None if rate > 0.01 else 0.8 if rate == 0.01 else 0.7
    return 0.8 - abs(rate - 0.006)


def test_every_model_is_tuned_with_the_same_number_of_trials(folder, tmp_path, stand_in):
    # a lure: the test AUC rises with the rate
    trainer = stand_in(Trainer(by_rate, test=lambda model, rate, seed: 0.6 + rate))
    said = []
    arguments = {"seeds": [3, 1], "tune": 6, "resamples": 20}
    comparison = compare(folder.path, str(tmp_path / "c"), MODELS, say=said.append, **arguments)
    assert len(trainer.settings) == 3 * 6 + 3
    of_model = {m: [s for model, *s in trainer.settings if model == m] for m in MODELS}
    chosen = {}
    for model, runs in of_model.items():
        tuned, (later,) = runs[:6], runs[6:]
        assert [seed for *_, seed in tuned] == [3] * 6 and later[-1] == 1
        assert tuned[0] == [0.01, 0.0, None, 3]
        assert len(set(map(tuple, tuned))) == 6
        for rate, dropout, weight, _ in tuned[1:]:
            assert SPACE["learning_rate"][0] <= rate <= SPACE["learning_rate"][1]
            assert 0 <= dropout <= 0.5
            # DARE has no auxiliary loss, SDIM no second head
            assert 0 <= weight <= 1 if model == "TWIN" else weight is None
        assert len({weight for _, _, weight, _ in tuned}) == (6 if model == "TWIN" else 1)
        chosen[model] = max(tuned, key=lambda s: by_rate(model, s[0], 3) or 0)
        assert later[:3] == chosen[model][:3]
    assert chosen["SDIM"][0] == 0.01 and chosen["TWIN"][0] != 0.01

    rows = {row["model"]: row for row in comparison["rows"]}
    rate, dropout, weight, _ = chosen["TWIN"]
    assert rows["TWIN"]["settings"] == {
        "learning_rate": rate,
        "dropout": dropout,
        "auxiliary_weight": weight,
    }
    assert rows["SDIM"]["settings"] == {"learning_rate": 0.01}
    assert comparison["tune"] == 6
    entry = next(entry for entry in comparison["tuning"] if entry["model"] == "SDIM")
    assert entry["seed"] == 3 and len(entry["trials"]) == 6
    assert entry["trials"][0] == {"learning_rate": 0.01, "validation_auc": 0.8}
    assert None in [trial["validation_auc"] for trial in entry["trials"]]
    text = markdown(comparison)
    given, best = 0.8 - 0.004, by_rate("TWIN", rate, 3)
    settings = f"learning_rate {rate:g}, dropout {dropout:g}, auxiliary_weight {weight:g}"
    assert f"| TWIN | {settings} | {best:.4f} | {given:.4f} |" in text
    assert "| SDIM | learning_rate 0.01 | 0.8000 | 0.8000 |" in text
    assert "Tuned: 6 trials of each model with seed 3" in text and "--tune 6" in text
    assert [line.split("]")[0] for line in said if line.startswith("[")] == [
        f"[{number}/21" for number in range(1, 22)
    ]


def test_interrupted_tuning_goes_on_and_grows(folder, tmp_path, stand_in):
    def run(output, tune=3):
        arguments = {"seeds": [1, 2], "tune": tune, "resamples": 5, "say": lambda line: None}
        return compare(folder.path, str(tmp_path / output), MODELS[:2], **arguments)

    whole = stand_in(Trainer(by_rate))
    comparison = run("whole")
    cut = stand_in(Trainer(by_rate))
    for interrupt_after in (2, 5):
        cut.interrupt_after = interrupt_after
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    cut.interrupt_after = None
    again = run("cut")
    assert cut.settings == whole.settings and len(cut.settings) == 8
    assert again["rows"] == comparison["rows"] and again["tuning"] == comparison["tuning"]

    grown = run("cut", tune=4)
    first = {entry["model"]: entry["trials"][:3] for entry in grown["tuning"]}
    assert first == {entry["model"]: entry["trials"] for entry in again["tuning"]}
    # runs without tuning are the first trials: nothing is trained again
    trained = len(cut.settings)
    untuned = run("cut", tune=0)
    assert untuned["tuning"] == [] and "Tuned" not in markdown(untuned)
    assert {settings[1:4] for settings in cut.settings[trained:]} <= {(0.01, 0.0, None)}


def test_which_models_have_an_auxiliary_weight():
    without = {model for model in PUBLISHED if not auxiliary_weight(model, None)}
    assert without == {"DARE", "DARE-whole", "SDIM", "DCNv2", "FinalMLP"}
    assert auxiliary_weight("TWIN+evidence+vectors", None) == 1.0
    assert auxiliary_weight("TWIN", 0.3) == 0.3 and auxiliary_weight("TWIN", 0.0) == 0.0
    assert auxiliary_weight("DARE", None) == 0.0
    assert auxiliary_weight("SDIM", None) == 0.0 and auxiliary_weight("SDIM", 0.5) == 0.0


def test_real_training_takes_what_is_tuned(folder, tmp_path):
    options = {**TRAINING_DEFAULTS, "epochs": 1, "batch_size": 64, "top_k": 4}
    trials = Trials(folder.path, str(tmp_path), options, lambda line: None)
    tried = trials.run([Row("TWIN", 4, 4)], [0.01], [1], tune=2)
    first, second = tried[Row("TWIN", 4, 4)]
    assert first == Trial(Row("TWIN", 4, 4), 0.01, 1)
    recorded = json.loads((tmp_path / second.name / "run.json").read_text())
    assert len(second.settings) == 3 and second.settings.items() <= recorded.items()
    best = max(first, second, key=trials.validation_auc)
    assert trials.best(tried) == {first.row: best}


def test_bad_tuning_is_refused_before_training(folder, tmp_path, capsys):
    output = str(tmp_path / "c")
    arguments = ["--sequences", folder.path, "--output", output, "--tune"]
    for more, words in (
        (["-1"], "--tune must not be negative. Received: -1"),
        (["2", "--learning_rates", "0.01", "0.02"], "--learning_rates must name one"),
        (["2", "--learning_rates", "0.2"], "from 0.002 to 0.05. Received: 0.2"),
        (["2", "--dropout", "0.7"], "starts from the --dropout given"),
    ):
        assert main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_missing_extra_is_named(folder, tmp_path):
    """Runs in a process that finds no Optuna."""
    program = (
        "import sys; sys.modules['optuna'] = None\n"
        "from tfdare.commands.compare import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--sequences", folder.path, "--output", str(tmp_path / "c"), "--tune", "2"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--tune needs Optuna: pip install 'tfdare[tune]'" in done.stderr
    with pytest.raises(UsageError, match="`tune` must not be negative"):
        compare(folder.path, str(tmp_path / "c"), tune=-2)
