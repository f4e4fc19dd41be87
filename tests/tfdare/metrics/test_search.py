"""NDCG and recall of search, against definitions in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdare.compat import deserialize, serialize, tf
from tfdare.metrics import SearchNDCG, SearchRecall, search_ndcg, search_recall

pytestmark = pytest.mark.keras

CASES = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        # few distinct values: ties and zeros are common
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=n, max_size=n),
        st.lists(st.integers(-1, n - 1), min_size=1, max_size=6),
        st.sampled_from([None, 1, 2, 5]),
    )
)


def plain_kept(index, top_k):
    """Lists positions in order, each once; a repeat or -1 leaves its rank empty."""
    kept = index if top_k is None else index[:top_k]
    return [
        None if position < 0 or position in kept[:rank] else position
        for rank, position in enumerate(kept)
    ]


def plain_ndcg(relevance, index, top_k=None):
    size = len(index) if top_k is None else top_k
    best = sorted(relevance, reverse=True)[:size]
    dcg = sum(
        relevance[position] / math.log2(rank + 2)
        for rank, position in enumerate(plain_kept(index, top_k))
        if position is not None
    )
    ideal = sum(value / math.log2(rank + 2) for rank, value in enumerate(best))
    return dcg / ideal if ideal else math.nan


def plain_recall(relevance, index, top_k=None):
    size = min(len(index) if top_k is None else top_k, len(relevance))
    bound = sorted(relevance, reverse=True)[size - 1]
    relevant = {i for i, value in enumerate(relevance) if value > 0 and value >= bound}
    hits = [position for position in plain_kept(index, top_k) if position in relevant]
    return len(hits) / min(size, len(relevant)) if relevant else math.nan


@given(CASES)
@settings(max_examples=30, deadline=None)
def test_ndcg_and_recall_equal_plain_loops(case):
    relevance, index, top_k = case
    given_to = tf.constant([[relevance]]), tf.constant([[index]]), top_k
    assert search_ndcg(*given_to).numpy()[0, 0] == pytest.approx(
        plain_ndcg(*case), rel=1e-5, nan_ok=True
    )
    assert search_recall(*given_to).numpy()[0, 0] == pytest.approx(
        plain_recall(*case), rel=1e-5, nan_ok=True
    )


def test_by_hand():
    relevance, index = tf.constant([[[0.0, 3.0, 1.0, 2.0]]]), tf.constant([[[3, 0]]])
    best = 3 + 2 / math.log2(3)
    assert search_ndcg(relevance, index).numpy().item() == pytest.approx(2 / best)
    assert search_recall(relevance, index).numpy().item() == 0.5


def batch(seed, users=5, candidates=3, behaviors=9, kept=4):
    random = np.random.default_rng(seed)
    relevance = random.choice([0.0, 0.0, 1.0, 2.5], (users, candidates, behaviors))
    relevance[0, 0] = 0  # nothing to find
    index = random.integers(-1, behaviors, (users, candidates, kept))
    weight = (random.random((users, candidates)) < 0.7).astype(np.float32)
    return relevance, index, weight


def plain_mean(batches, function, top_k=None):
    total = count = 0.0
    for relevance, index, weight in batches:
        for cell in np.ndindex(weight.shape):
            value = function(relevance[cell].tolist(), index[cell].tolist(), top_k)
            if weight[cell] and not math.isnan(value):
                total, count = total + value, count + 1
    return total / count


METRICS = [(SearchNDCG, plain_ndcg), (SearchRecall, plain_recall)]


@pytest.mark.parametrize("metric, plain", METRICS)
@pytest.mark.parametrize("top_k", [None, 2])
def test_streaming_and_merging(metric, plain, top_k):
    batches = [batch(seed) for seed in range(4)]
    whole, parts = metric(top_k), [metric(top_k), metric(top_k)]
    for number, arrays in enumerate(batches):
        for target in (whole, parts[number % 2]):
            target.update_state(*map(tf.constant, arrays))
    expected = plain_mean(batches, plain, top_k)
    assert float(whole.result()) == pytest.approx(expected, rel=1e-5)
    merged = metric(top_k)
    merged.merge_state(parts)
    assert float(merged.result()) == pytest.approx(expected, rel=1e-5)
    assert float(parts[0].result()) != pytest.approx(expected, rel=1e-5)
    merged.reset_state()
    assert float(merged.result()) == 0.0


def test_only_equal_metrics_merge():
    with pytest.raises(ValueError, match="Received: SearchRecall"):
        SearchNDCG(3).merge_state([SearchRecall(3)])
    with pytest.raises(ValueError, match="top_k=4"):
        SearchNDCG(3).merge_state([SearchNDCG(4)])
    with pytest.raises(ValueError, match="positive. Received: top_k=0"):
        SearchNDCG(0)


@pytest.mark.parametrize("metric, plain", METRICS)
def test_config_round_trip_and_graph(metric, plain):
    again = deserialize(serialize(metric(top_k=2, name="mine")))
    assert (type(again), again.top_k, again.name) == (metric, 2, "mine")
    arrays = batch(7)

    @tf.function
    def update(*parts):
        again.update_state(*parts)

    update(*(tf.constant(part) for part in arrays))
    assert float(again.result()) == pytest.approx(plain_mean([arrays], plain, 2), rel=1e-5)


def test_exact_search_finds_its_own_attention(dare):
    from tests.harness import requests, tensors
    from tfdare.analysis.batches import search_and_attention

    inputs = tensors(requests(dare.schema, users=6, behaviors=10, lengths=[10, 7, 3, 2, 1, 0]))
    index, attention = search_and_attention(dare, inputs)
    np.testing.assert_allclose(
        attention.numpy().sum(-1), np.broadcast_to([[1.0]] * 5 + [[0.0]], [6, 4]), rtol=1e-5
    )
    for function in (search_ndcg, search_recall):
        values = function(attention, index).numpy()
        np.testing.assert_allclose(values[:5], 1.0, rtol=1e-6)
        assert np.isnan(values[5]).all()
    worst = tf.where(index >= 0, 9 - index, -1)
    assert float(search_ndcg(attention, worst)[0, 0]) < 1
