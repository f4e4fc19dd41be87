"""``tfdare train --warm_start``: a trained model goes on after its vocabularies have grown."""

import json

import numpy as np
import pytest

from tests.folders import CONTEXT, SIZES, make_splits, write_folder
from tfdare.commands.train import main
from tfdare.compat import raw
from tfdare.data import read_requests
from tfdare.models import build_model
from tfdare.schema import SchemaError
from tfdare.sequences import Sequences
from tfdare.training import load_run
from tfdare.training.warm_start import warm_start

SMALL = [
    "--batch_size",
    "16",
    "--attention_dim",
    "3",
    "--representation_dim",
    "4",
    "--top_k",
    "4",
    "--epochs",
    "1",
]
GROWN = {"item": 41, "category": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("day") / "one", make_splits(context=CONTEXT), context=CONTEXT
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("day") / "two",
        make_splits(1, context=CONTEXT),
        context=CONTEXT,
        sizes=GROWN,
    )


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("runs") / "one")
    learned = ["--model", "DARE-learned"]
    assert main(["--sequences", folder.path, "--output", output, *learned, *SMALL]) == 0
    return load_run(output)


def new_model(sequences, name="DARE-learned", dims=(3, 4)):
    return build_model(name, sequences.schema.with_dims(*dims), top_k=4)


def test_old_requests_keep_their_predictions(run, folder, grown):
    trained, model = run.model(), new_model(grown)
    fresh = [raw(weight).numpy() for weight in model.weights]
    assert warm_start(model, run, grown) == {"item": 11, "category": 1, "hour": 0, "interests": 0}
    extended = 0
    for old, new, start in zip(trained.weights, model.weights, fresh):
        old, new = raw(old).numpy(), raw(new).numpy()
        if old.shape != new.shape:
            extended += 1
            np.testing.assert_array_equal(new[len(old) :], start[len(old) :])
            new = new[: len(old)]
        np.testing.assert_array_equal(new, old)
    assert extended == 4  # item and category, attention and representation
    for requests, _, _ in read_requests(folder, "test", 64):
        np.testing.assert_allclose(model(requests), trained(requests), atol=1e-6)


def test_the_command_goes_on(run, grown, tmp_path, capsys):
    output = tmp_path / "two"
    arguments = ["--sequences", grown.path, "--output", str(output), *SMALL]
    learned = ["--model", "DARE-learned", "--warm_start", run.path]
    assert main([*arguments, *learned]) == 0
    assert "new ids: item 11, category 1, hour 0, interests 0" in capsys.readouterr().err
    assert json.loads((output / "run.json").read_text())["warm_start"] == "one"
    assert load_run(str(output)).schema.item.vocabulary_size == 41


def moved(folder, name, change):
    """Returns the folder with another vocabulary of one feature."""

    def vocabulary(which):
        ids = folder.vocabulary(which)
        return change(ids) if which == name else ids

    changed = Sequences(folder.path, folder.schema, folder.manifest)
    object.__setattr__(changed, "vocabulary", vocabulary)
    return changed


def test_changes_that_do_not_fit_are_named(run, folder, grown, tmp_path, capsys):
    swapped = moved(grown, "category", lambda ids: ids[[0, 2, 1, *range(3, len(ids))]])
    with pytest.raises(SchemaError, match=r"row 3 of 'category' was id 1007, now 1014"):
        warm_start(new_model(grown), run, swapped)
    shrunk = moved(folder, "item", lambda ids: ids[:-2])
    with pytest.raises(SchemaError, match=f"row {SIZES['item'] - 2} of 'item' .* now nothing"):
        warm_start(new_model(folder), run, shrunk)
    with pytest.raises(SchemaError, match=r"has shape \(41, 2\), \(30, 3\) in the trained model"):
        warm_start(new_model(grown, dims=(2, 4)), run, grown)
    with pytest.raises(SchemaError, match="is 'dare_learned' with .* Received: 'din' with"):
        warm_start(new_model(grown, "DIN", (3, 3)), run, grown)
    plain = write_folder(tmp_path / "plain", make_splits(users=2))
    with pytest.raises(SchemaError, match=r"\['item', 'category', 'hour', 'interests'\]. Received"):
        warm_start(new_model(plain), run, plain)
    arguments = ["--sequences", grown.path, "--output", str(tmp_path / "run"), *SMALL]
    assert main([*arguments, "--warm_start", str(tmp_path / "none")]) == 2
    assert "No training run at" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
