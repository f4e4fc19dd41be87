"""``tfdare renew-attention``: newer vectors for a trained run; all that was learned stays."""

import json
import os

import numpy as np
import pytest

from tests.folders import SIZES, make_splits, write_folder
from tests.harness import requests
from tfdare.commands.export import main as export
from tfdare.commands.renew_attention import main
from tfdare.compat import raw
from tfdare.errors import UsageError
from tfdare.schema import FIRST_ID, OOV_ID, SchemaError
from tfdare.session import SavedModelSession
from tfdare.training import TrainOptions, load_run, renew_attention, train
from tfdare.training.renew import change
from tfdare.training.warm_start import warm_start

SMALL = TrainOptions(epochs=1, batch_size=16, representation_dim=4, top_k=4)
GROWN = {"item": 41, "category": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("day") / "one", make_splits())


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("day") / "two", make_splits(1), sizes=GROWN)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("runs") / "one")
    train(folder.path, output, options=SMALL, verbose=0)
    assert not os.path.exists(os.path.join(output, "searched"))
    return load_run(output)


def arrays(model, part):
    tables = getattr(model.embedding, f"{part}_tables")
    return {name: raw(table).numpy() for name, table in tables.items()}


def test_training_keeps_the_vectors_of_the_sequences(run, folder):
    tables = arrays(run.model(), "attention")
    assert all((tables[name] == folder.vectors(name)).all() for name in SIZES)


def test_renewed_attention_holds_new_vectors_and_all_else_stays(run, grown, tmp_path):
    output = str(tmp_path / "renewed")
    numbers = renew_attention(run.path, grown.path, output)
    assert {name: part["new_ids"] for name, part in numbers.items()} == {"item": 11, "category": 1}
    assert all(part["changed"] > 0.1 for part in numbers.values())
    renewed = load_run(output)
    assert renewed.options["attention_renewed_from"] == "two"
    assert renewed.schema.item.vocabulary_size == GROWN["item"]
    old, new = run.model(), renewed.model()
    attention = arrays(new, "attention")
    assert all((attention[name] == grown.vectors(name)).all() for name in GROWN)
    for name, before in arrays(old, "representation").items():
        after = arrays(new, "representation")[name]
        assert (after[: len(before)] == before).all()
        assert (after[len(before) :] == before[OOV_ID]).all()
    assert len(old.weights) == len(new.weights)
    inputs = old.search(requests(old.schema, seed=3))
    np.testing.assert_allclose(new.score(inputs), old.score(inputs), atol=1e-6)


def test_only_the_search_servable_is_published(run, grown, tmp_path, capsys):
    base, output = str(tmp_path / "servables"), str(tmp_path / "renewed")
    assert export(["--run", run.path, "--output", base, "--split"]) == 0
    assert main(["--run", run.path, "--vectors", grown.path, "--output", output]) == 0
    assert "item: 11 new ids; inner products of two ids changed by 0." in capsys.readouterr().out
    assert export(["--run", output, "--output", base, "--only", "search"]) == 0
    servables = {name: sorted(os.listdir(os.path.join(base, name))) for name in os.listdir(base)}
    assert servables == {"dare": ["1"], "dare_search": ["1", "2"], "dare_score": ["1"]}
    search = SavedModelSession(os.path.join(base, "dare_search", "2"))
    new_item = int(grown.vocabulary("item")[-1])  # unknown to the score servable
    category = int(grown.vocabulary("category")[0])
    history = {
        "history_item": np.array([[new_item, new_item]]),
        "history_category": np.array([[category, category]]),
        "history_length": np.array([2], np.int32),
        "target_item": np.array([[new_item]]),
        "target_category": np.array([[category]]),
    }
    results = search.run("search", history)
    assert results["attention_score"][0, 0, 0] == pytest.approx(2 / np.sqrt(32), rel=1e-5)


def test_what_cannot_be_renewed_is_named(run, folder, grown, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"exists; choose another `output` or set `overwrite`"):
        renew_attention(run.path, folder.path, run.path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UsageError, match="is not a training run"):
        renew_attention(run.path, folder.path, str(other), overwrite=True)
    bare = write_folder(tmp_path / "bare", make_splits(), vectors=False)
    with pytest.raises(SchemaError, match="No vectors at"):
        renew_attention(run.path, bare.path, str(tmp_path / "new"))
    narrow = write_folder(tmp_path / "narrow", make_splits(), window=8)
    with pytest.raises(SchemaError, match="a window of 8 behaviors, the run has 12"):
        renew_attention(run.path, narrow.path, str(tmp_path / "new"))
    learned = str(tmp_path / "learned")
    train(folder.path, learned, "DARE-learned", SMALL, verbose=0)
    arguments = ["--run", learned, "--vectors", folder.path, "--output", str(tmp_path / "new")]
    assert main(arguments) == 2
    assert "--run" in (err := capsys.readouterr().err) and "learns attention" in err
    assert not (tmp_path / "new").exists()
    with pytest.raises(SchemaError, match="`model` DARE needs vectors, .* for item, category"):
        train(bare.path, str(tmp_path / "new"), options=SMALL, verbose=0)


def test_an_output_is_replaced_at_the_end(run, folder, grown, tmp_path):
    output = str(tmp_path / "renewed")
    renew_attention(run.path, folder.path, output)
    assert sorted(os.listdir(output)) == ["model.keras", "run.json", "schema.json", "vocabulary"]
    renew_attention(run.path, grown.path, output, overwrite=True)
    with open(os.path.join(output, "run.json"), encoding="utf-8") as file:
        assert json.load(file)["attention_renewed_from"] == "two"
    assert os.listdir(tmp_path) == ["renewed"]


def test_warm_start_takes_newer_vectors_and_turns_the_representation_of_new_ids(run, grown):
    from tfdare.models import DARE

    vectors = {name: grown.vectors(name) for name in GROWN}
    schema = grown.schema.with_dims(16, 4)
    model, trained = DARE(schema, top_k=4, vectors=vectors), run.model()
    # The same vectors as in the first training, turned: a turn back makes them the same again.
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    for name, table in arrays(trained, "attention").items():
        vectors[name][: len(table)] = table @ turn
    model.embedding.start_from(vectors)
    assert warm_start(model, run, grown) == {"item": 11, "category": 1}
    for name, table in arrays(model, "attention").items():
        assert (table == vectors[name]).all()
    for name, before in arrays(trained, "representation").items():
        after = arrays(model, "representation")[name]
        assert (after[: len(before)] == before).all() and np.any(after[len(before) :])


def test_change_of_inner_products():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    assert change(rows, np.concatenate([rows @ turn, rows[:FIRST_ID]])) < 1e-9
    assert change(rows, rows[::-1]) > 0.1
