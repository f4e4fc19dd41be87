"""Silences TensorFlow, and provides small models that tests read but never change."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest

hypothesis.settings.register_profile("tfdare", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("tfdare")


@pytest.fixture(scope="session")
def schema():
    """Returns two features and positions, every dimension different."""
    from tests.harness import tiny_schema

    return tiny_schema()


@pytest.fixture(scope="session")
def dare(schema):
    """Provides a DARE that learns attention, with random weights; K = 3."""
    from tests.harness import learned_dare, randomize

    yield from _unchanged(randomize(learned_dare(schema, top_k=3)))


@pytest.fixture(scope="session")
def twin():
    """Provides a TWIN with random weights; K = 3."""
    from tests.harness import randomize, shared_schema
    from tfdare.models import TWIN

    yield from _unchanged(randomize(TWIN(shared_schema(), top_k=3)))


def _unchanged(model):
    before = [weight.copy() for weight in model.get_weights()]
    yield model
    after = model.get_weights()
    assert all((old == new).all() for old, new in zip(before, after)), "a test trained a fixture"
