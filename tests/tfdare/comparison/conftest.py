"""Sequences to compare models on, and a way to stand in for their training."""

import pytest

from tests.folders import make_splits, write_folder
from tfdare.comparison import Measurement, trials
from tfdare.comparison import runner as compare_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("compare") / "sequences", make_splits(seed=7, users=20)
    )


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a Trainer in the place of training, and fixed figures in that of measuring."""

    def use(trainer):
        monkeypatch.setattr(trials, "train", trainer)
        monkeypatch.setattr(trials, "free_memory", lambda: None)  # it looks at every object
        monkeypatch.setattr(
            compare_module,
            "load_run",
            lambda path: type("Loaded", (), {"model": lambda self: None})(),
        )
        monkeypatch.setattr(
            compare_module,
            "measure_costs",
            lambda models, opened: {
                row: Measurement(1000, 4000 * row.attention_dim, 2.0, row.model == "SDIM")
                for row in models
            },
        )
        return trainer

    return use
