"""Tests of metrics by the number of behaviors that histories keep."""

import numpy as np
import pytest

from tests.folders import CONTEXT, MULTI_HOT, TIME_GAP, WINDOW, make_splits, write_folder
from tests.harness import cut, randomize, requests, rich_schema, tensors
from tfdare.commands.evaluate import main
from tfdare.evaluation import evaluate_lengths, lengths_table
from tfdare.evaluation.lengths import keep_newest
from tfdare.models import DARE
from tfdare.training import TrainOptions, train


@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_keeps_the_newest(count):
    inputs = requests(rich_schema(), users=3, behaviors=8, lengths=[8, 2, 0])
    shorter = keep_newest(tensors(inputs), count)
    kept = np.minimum(inputs["history_length"], count)
    assert (shorter["history_length"].numpy() == kept).all()
    for name in ("history_item", "history_tag", "history_time_gap"):
        for row, length in enumerate(kept):
            whole = inputs["history_length"][row]
            values = shorter[name].numpy()[row]
            assert (values[:length] == inputs[name][row, whole - length : whole]).all()
            assert not values[length:].any()
    model = randomize(DARE(rich_schema(), top_k=3))
    assert model(shorter).shape == (3, inputs["target_item"].shape[1])
    if count == 12:
        np.testing.assert_allclose(model(shorter), model(cut(inputs)), rtol=1e-5)


def test_by_length_of_a_trained_run(tmp_path, capsys):
    folder = write_folder(
        tmp_path / "sequences",
        make_splits(users=20, multi_hot=MULTI_HOT, context=CONTEXT),
        multi_hot=MULTI_HOT,
        context=CONTEXT,
        time_gap=TIME_GAP,
    )
    output = str(tmp_path / "run")
    options = TrainOptions(epochs=1, batch_size=16, representation_dim=4, top_k=4)
    metrics = train(folder.path, output, options=options, verbose=0)
    arguments = ["--run", output, "--sequences", folder.path, "--lengths"]
    assert main(arguments) == 0
    assert "behaviors kept" in capsys.readouterr().out
    from tfdare.training import load_run

    rows = evaluate_lengths(load_run(output).model(), folder, "test")
    assert [row["length"] for row in rows] == [0, 1, 2, 4, 8, WINDOW]
    whole = rows[-1]
    assert whole["auc"] == pytest.approx(metrics["test"]["auc"], abs=1e-6)
    assert all(0 < row["predicted"] < 1 and row["clicked"] == whole["clicked"] for row in rows)
    assert lengths_table(rows).count("\n") == len(rows)
