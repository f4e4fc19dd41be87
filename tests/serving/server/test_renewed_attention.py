"""A search servable renewed by itself answers together with the score servable that stays."""

import numpy as np
import pytest
import tensorflow as tf

from serving.client import Client, ServingError
from tests.harness import randomize, requests, tiny_schema
from tfdare.export.signatures import SCORE, SEARCH, ServingModule
from tfdare.models import DARE


def write(model, path, only):
    module = ServingModule(model, None, only)
    tf.saved_model.save(module, str(path), signatures=module.signatures_by_name)


def test_search_of_a_newer_version_than_score(tmp_path, start_server):
    model = randomize(DARE(tiny_schema(), top_k=3))
    write(model, tmp_path / "dare_score" / "1", SCORE)
    vectors = {
        feature.name: np.random.default_rng(7).normal(
            size=(feature.vocabulary_size, feature.attention_dim)
        )
        for feature in model.schema.features
    }
    model.embedding.start_from(vectors, ["attention"])
    write(model, tmp_path / "dare_search" / "2", SEARCH)
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}'
        for name in ("dare_search", "dare_score")
    )
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    inputs = requests(model.schema, users=3, behaviors=9, lengths=[9, 4, 0], seed=5)
    sent = {key: value for key, value in inputs.items() if key != "target_length"}
    settings = {"search_model": "dare_search", "timeout": 60, "id_dtype": np.int32}
    with start_server("--model_config_file", config, "--port", 0) as server:
        with Client(server.address, "dare_score", same_version=False, **settings) as client:
            answer = client.rank(sent, split=True)
        with Client(server.address, "dare_score", **settings) as client:
            with pytest.raises(ServingError, match="Servable not found"):
                client.rank(sent, split=True)
    np.testing.assert_allclose(answer.probability, model(inputs), atol=1e-5)
    assert answer.version == 1
