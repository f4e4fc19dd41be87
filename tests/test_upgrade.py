"""What version 0.1.0 wrote is read by this one: sequences, runs, models and a servable.

``tests/upgrade/version_0_1_0`` was written by version 0.1.0 itself: a log of 12 users with two
features, a time gap and the hour as context; a DARE trained on it for one epoch under Keras 3 and
under Keras 2; its SavedModel. ``expected.json`` holds what the model answered there, and the
configuration of every published model, optimizer, loss and metric under its registered name.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import tfdare.models  # noqa: F401  registers the classes
from tfdare.compat import KERAS_3, deserialize, serialize
from tfdare.data import read_requests
from tfdare.sequences import SPLITS, open_sequences
from tfdare.session import SavedModelSession
from tfdare.training import load_run

pytestmark = pytest.mark.keras

WRITTEN = pathlib.Path(__file__).parent / "upgrade" / "version_0_1_0"
RUN = WRITTEN / ("run_keras3" if KERAS_3 else "run_keras2")


@pytest.fixture(scope="module")
def expected():
    return json.loads((RUN / "expected.json").read_text(encoding="utf-8"))


def test_sequences_open_and_their_records_are_as_counted():
    sequences = open_sequences(str(WRITTEN / "sequences"))
    manifest = json.loads((WRITTEN / "sequences" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["code"]["version"] == "0.1.0"
    for split in SPLITS:
        records = list(sequences.records(split))
        counts = manifest["counts"]["splits"][split]
        assert len(records) == counts["users"]
        assert sum(record.position.size for record in records) == counts["requests"]


def test_a_saved_model_answers_as_it_did(expected):
    model = load_run(str(RUN)).model()
    answers = []
    for requests, _, weight in read_requests(str(WRITTEN / "sequences"), "test", 64):
        answers += model(requests).numpy()[weight.numpy() > 0].tolist()
    np.testing.assert_allclose(answers, expected["probability"], atol=1e-5)


def test_every_configuration_is_rebuilt_under_its_registered_name(expected):
    assert len(expected["configs"]) == 19
    for name, config in expected["configs"].items():
        rebuilt = json.loads(json.dumps(serialize(deserialize(config))))
        assert rebuilt["config"] == config["config"], name
        assert rebuilt.get("registered_name") == config.get("registered_name"), name


def test_a_servable_still_loads_the_way_the_server_loads_it():
    session = SavedModelSession(str(WRITTEN / "servables" / "dare" / "1"))
    assert {"search", "score", "serving_default"} <= set(session.signatures)
