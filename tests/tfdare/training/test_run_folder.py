"""The folder of a run: started, resumed, refused, and opened once it is finished."""

import json
import os

import pytest

from tests.folders import make_splits, write_folder
from tfdare.errors import UsageError
from tfdare.schema import Schema
from tfdare.training import load_run
from tfdare.training.run_folder import start_run, update_metrics

OPTIONS = {"model": "DARE", "epochs": 2, "seed": 1}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("runs") / "s", make_splits(users=2))


@pytest.fixture
def schema(sequences):
    return sequences.schema.with_dims(3, 5)


@pytest.fixture
def begin(tmp_path, sequences, schema):
    """Starts a run at ``tmp_path / "run"``; keyword arguments change the options."""
    path = tmp_path / "run"

    def start(overwrite=False, **change):
        return start_run(str(path), sequences, schema, {**OPTIONS, **change}, overwrite)

    start.path = path
    return start


def files_of(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_a_run_stands_alone(begin, sequences, schema):
    assert begin() is False
    assert files_of(begin.path) == [
        "run.json",
        "schema.json",
        "vocabulary/category.tsv",
        "vocabulary/item.tsv",
    ]
    assert json.loads((begin.path / "run.json").read_text()) == OPTIONS
    assert Schema.load(str(begin.path / "schema.json")) == schema
    for name in ("item", "category"):
        copy = (begin.path / "vocabulary" / f"{name}.tsv").read_bytes()
        with open(sequences.vocabulary_path(name), "rb") as file:
            assert copy == file.read()


def test_a_run_may_start_in_an_empty_folder(begin):
    begin.path.mkdir()
    assert begin() is False


def test_the_same_options_resume(begin):
    begin()
    (begin.path / "history.csv").write_text("kept")
    assert begin() is True
    assert (begin.path / "history.csv").read_text() == "kept"


def test_a_run_killed_while_starting_starts_again(begin):
    begin()
    whole = files_of(begin.path)
    for name in whole:
        if name != "run.json":
            os.remove(begin.path / name)
    os.rmdir(begin.path / "vocabulary")
    assert begin() is True
    assert files_of(begin.path) == whole


def test_other_options_do_not_resume(begin):
    begin()
    before = files_of(begin.path)
    with pytest.raises(UsageError, match=r"other options \(epochs, top_k\).*`overwrite`"):
        begin(epochs=3, top_k=5)
    assert files_of(begin.path) == before
    assert begin(overwrite=True, epochs=3) is False
    assert json.loads((begin.path / "run.json").read_text())["epochs"] == 3


def test_a_finished_run_is_kept(begin):
    begin()
    (begin.path / "metrics.json").write_text("{}")
    with pytest.raises(UsageError, match="finished run.*`overwrite`"):
        begin()
    assert begin(overwrite=True) is False
    assert not (begin.path / "metrics.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_never_touched(begin, overwrite):
    begin.path.mkdir()
    (begin.path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a training run"):
        begin(overwrite=overwrite)
    assert (begin.path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_folder(begin, overwrite):
    begin.path.write_text("a file")
    with pytest.raises(UsageError, match="not a folder"):
        begin(overwrite=overwrite)
    assert begin.path.read_text() == "a file"


def test_load(begin, schema):
    with pytest.raises(UsageError, match="No training run at"):
        load_run(str(begin.path))
    begin()
    with pytest.raises(UsageError, match="has not finished.*resumes"):
        load_run(str(begin.path))
    (begin.path / "model.keras").write_bytes(b"")
    opened = load_run(str(begin.path))
    assert opened.schema == schema and opened.options == OPTIONS
    lookup = opened.sequences_for_lookup()
    assert lookup.vocabulary("category").tolist() == [1000, 1007, 1014, 1021, 1028]


def test_a_model_that_cannot_be_read(begin):
    begin(keras="tf_keras")
    (begin.path / "model.keras").write_bytes(b"no archive")
    with pytest.raises(UsageError, match="trained with Keras tf_keras"):
        load_run(str(begin.path)).model()


def test_metrics_by_split(tmp_path):
    update_metrics(str(tmp_path), "test", {"auc": 0.5})
    update_metrics(str(tmp_path), "train", {"auc": None})
    update_metrics(str(tmp_path), "test", {"auc": 0.75})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == {"test": {"auc": 0.75}, "train": {"auc": None}}
