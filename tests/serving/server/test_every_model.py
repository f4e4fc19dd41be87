"""Every published model, exported and answered by a server process: split and whole."""

import numpy as np
import pytest
import tensorflow as tf

from serving.client import Client
from tests.harness import randomize, requests, shared_schema
from tfdare.export.signatures import ServingModule
from tfdare.layers import Head
from tfdare.models import MODELS, TwoStageModel, build_model


@pytest.fixture(scope="module")
def models():
    """Builds every published model, with random weights and small heads."""
    return {
        name: randomize(
            build_model(
                name, shared_schema(), top_k=2, head=Head((4,), batch_norm=False, name="head")
            )
        )
        for name in MODELS
    }


@pytest.fixture(scope="module")
def served(models, tmp_path_factory, start_server):
    """Provides a client of one server that holds every model."""
    folder = tmp_path_factory.mktemp("servables")
    entries = []
    for name, model in models.items():
        module = ServingModule(model, None)
        tf.saved_model.save(module, str(folder / name / "1"), signatures=module.signatures_by_name)
        entries.append(
            f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}'
        )
    config = folder / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    with start_server("--model_config_file", config, "--port", 0) as server:
        with Client(server.address, timeout=60, id_dtype=np.int32) as client:
            yield client


@pytest.mark.parametrize("name", MODELS)
def test_the_server_answers_as_the_model_does(models, served, name):
    model = models[name]
    inputs = requests(model.schema, users=3, behaviors=11, lengths=[11, 4, 0], seed=5)
    expected = model(inputs).numpy()
    sent = {key: value for key, value in inputs.items() if key != "target_length"}
    answer = served.predict("serving_default", sent, model=name)
    np.testing.assert_allclose(answer.outputs["probability"], expected, atol=1e-5)
    if not isinstance(model, TwoStageModel):
        assert set(answer.outputs) == {"probability"}
        return
    with Client(served.address, name, timeout=60, id_dtype=np.int32) as client:
        split = client.rank(sent, split=True)
    np.testing.assert_allclose(split.probability, expected, atol=1e-5)
    results = model.search(inputs)
    np.testing.assert_allclose(split.attention_score, results["attention_score"], atol=1e-5)
    np.testing.assert_array_equal(split.behavior_index, answer.outputs["behavior_index"])
