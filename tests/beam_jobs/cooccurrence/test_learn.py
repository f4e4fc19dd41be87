"""Vectors by Beam against one dense decomposition, where most ids are no contexts."""

import apache_beam as beam
import numpy as np
import pytest
import scipy.linalg

from beam_jobs.cooccurrence import cells
from beam_jobs.cooccurrence.behaviors import Behaviors
from beam_jobs.cooccurrence.count import CountPairs, PairCounter
from beam_jobs.cooccurrence.facts import RowFacts
from beam_jobs.cooccurrence.learn import LearnVectors
from beam_jobs.cooccurrence.options import VectorOptions
from tests.beam_jobs.cooccurrence.reference import count_plainly, dense_information
from tfdare.schema.id_hash import mix

GROUPS, IDS, USERS, EVENTS, CONTEXTS = 4, 100, 200, 40, 30


@pytest.fixture(scope="module")
def behaviors():
    """Users who stay in a group of ids, nine times out of ten."""
    random = np.random.default_rng(0)
    ids = random.integers(0, IDS, (USERS, EVENTS))
    own = ids - ids % GROUPS + np.arange(USERS)[:, None] % GROUPS
    rows = np.where(random.random(ids.shape) < 0.9, own, ids).ravel().astype(np.int32) + 2
    time = np.tile(np.arange(EVENTS), USERS)
    return Behaviors(mix(np.arange(USERS)), np.full(USERS, EVENTS), time, {"item": rows})


@pytest.fixture
def few_contexts(monkeypatch):
    monkeypatch.setattr(cells, "LEAST_CONTEXTS", CONTEXTS)
    monkeypatch.setattr(cells, "CONTEXT_EVENTS", 10**9)


def learn(behaviors, folder, events, buckets):
    """Runs the job in process, on elements of about `events` events."""
    counts = np.bincount(behaviors.rows["item"], minlength=IDS + 2)
    facts = RowFacts(len(behaviors.time), {"item": counts})
    counter = PairCounter(VectorOptions({"item": GROUPS}), buckets, "item")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        counted = (
            pipeline | "Behaviors" >> beam.Create(list(behaviors.split(events))),
            pipeline | "Facts" >> beam.Create([facts]),
        ) | CountPairs(counter)
        counted | LearnVectors(counter, str(folder), "", str(folder))
    return np.load(folder / "item.npz")["vectors"]


@pytest.mark.parametrize("all_contexts", [False, True])
def test_vectors_equal_one_dense_decomposition(behaviors, tmp_path, request, all_contexts):
    if not all_contexts:
        request.getfixturevalue("few_contexts")
    counts = np.zeros((IDS + 2, IDS + 2))
    for (row, other), weight in count_plainly(behaviors, False, None).items():
        counts[row, other] = weight
    contexts = cells.choose_contexts(np.bincount(behaviors.rows["item"], minlength=IDS + 2))
    assert len(contexts) == (IDS if all_contexts else CONTEXTS)
    information = dense_information(counts[:, contexts])
    _, values, turned = np.linalg.svd(information[contexts])
    expected = information @ turned[:GROUPS].T / np.sqrt(values[:GROUPS])
    expected[2:] /= np.linalg.norm(expected[2:], axis=1, keepdims=True)
    vectors = learn(behaviors, tmp_path, 1000, buckets=7)
    assert scipy.linalg.subspace_angles(vectors.astype(np.float64), expected).max() < 1e-3
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)


@pytest.mark.usefixtures("few_contexts")
def test_buckets_do_not_change_a_byte(behaviors, tmp_path):
    runs = [
        learn(behaviors, tmp_path, events, buckets)
        for events, buckets in ((10**6, 1), (1000, 7), (100, 64))
    ]
    assert len({vectors.tobytes() for vectors in runs}) == 1
