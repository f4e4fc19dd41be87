"""Cells and factors against dense matrices: sums, the largest cells, information, vectors."""

import numpy as np
import pytest
from sklearn.utils.extmath import randomized_svd

from beam_jobs.cooccurrence import cells
from beam_jobs.cooccurrence.cells import Layout, choose_contexts, keep_largest, make_block
from beam_jobs.cooccurrence.factors import factorize, information_matrix
from beam_jobs.cooccurrence.learn import fill_from_category, to_npz


def pack_dense(layout, contexts, matrix, random, parts=3):
    """Packs a dense matrix as several arrays of cells; each cell's weight is split among them."""
    rows, columns = np.nonzero(matrix[:, contexts])
    weights = matrix[:, contexts][rows, columns]
    shares = []
    for part in range(parts):
        share = weights if part == parts - 1 else random.integers(0, weights + 1)
        weights = weights - share
        packed = layout.pack(layout.first_cell(rows) + columns, share)
        shares.append(np.sort(packed[share.repeat(1) > 0] if len(packed) == len(share) else packed))
    return shares


def make_counts(random, size, scale=50):
    matrix = random.poisson(random.gamma(0.3, scale, (size, size))).astype(np.int64)
    matrix = matrix + matrix.T
    matrix[:2], matrix[:, :2] = 0, 0
    return matrix


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("huge", [False, True])
def test_sums_and_information_equal_dense_ones(blocks, huge):
    random = np.random.default_rng(blocks)
    matrix = make_counts(random, 40) * (10**12 if huge else 1)
    contexts = np.arange(2, 40)
    layout = Layout(40, 38, blocks)
    parts = [[] for _ in range(blocks)]
    for packed in pack_dense(layout, contexts, matrix, random):
        for block, part in enumerate(layout.split(packed)):
            parts[block].append(part)
    summed = [make_block(layout, part) for part in parts]
    assert sum(len(block.weights) for block in summed) == (matrix > 0).sum()
    share = matrix[:, contexts].sum(0) ** 0.75
    share /= share.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log(matrix[:, contexts] / (matrix.sum(1)[:, None] * share))
    information = information_matrix(summed[::-1], 40, 38)
    np.testing.assert_allclose(
        information.toarray(), np.where(expected > 0, expected, 0), rtol=1e-12
    )
    assert information.has_sorted_indices


def test_only_the_largest_cells_of_a_line_are_kept(monkeypatch):
    weights = np.array([5, 1, 5, 9, 5, 2, 7, 7, 7])
    keep = keep_largest(weights, np.array([6, 3]), 3)
    assert keep.tolist() == [True, False, True, True, False, False, True, True, True]
    assert keep_largest(weights, np.array([6, 3]), 2).tolist() == (
        [True, False, False, True, False, False, True, True, False]
    )
    monkeypatch.setattr(cells, "MOST_CELLS", 0)
    monkeypatch.setattr(cells, "LEAST_KEPT", 2)
    layout = Layout(5, 3, 1)
    packed = layout.pack(
        layout.first_cell(np.array([2, 2, 2, 4])) + np.array([0, 1, 2, 1]), np.array([3, 8, 4, 1])
    )
    block = make_block(layout, [np.sort(packed)])
    assert block.rows.tolist() == [2, 4] and block.length.tolist() == [2, 1]
    assert block.columns.tolist() == [1, 2, 1] and block.weights.tolist() == [8, 4, 1]
    assert block.row_sums.tolist() == [15, 1] and block.column_sums.tolist() == [3, 9, 4]


def test_contexts_are_the_frequent_ids(monkeypatch):
    counts = np.array([0, 0, 5, 30, 2, 30, 1])
    assert choose_contexts(counts).tolist() == [2, 3, 4, 5, 6]
    monkeypatch.setattr(cells, "LEAST_CONTEXTS", 1)
    monkeypatch.setattr(cells, "CONTEXT_EVENTS", 30)
    assert choose_contexts(counts).tolist() == [3, 5]
    monkeypatch.setattr(cells, "MOST_CONTEXTS", 1)
    assert choose_contexts(counts).tolist() == [3]
    monkeypatch.setattr(cells, "LEAST_CONTEXTS", 4)
    monkeypatch.setattr(cells, "MOST_CONTEXTS", 9)
    assert choose_contexts(counts).tolist() == [2, 3, 4, 5]
    assert choose_contexts(np.zeros(2, np.int64)).tolist() == []


def information_of(matrix, contexts):
    layout = Layout(len(matrix), len(contexts), 1)
    packed = pack_dense(layout, contexts, matrix, np.random.default_rng(0), parts=1)
    return information_matrix([make_block(layout, packed)], len(matrix), len(contexts))


def test_vectors_equal_a_known_decomposition():
    random = np.random.default_rng(0)
    group = random.integers(0, 4, 120)  # four groups: a clear gap after four singular values
    rate = np.where(group[:, None] == group, 40, 2)
    matrix = random.poisson(rate).astype(np.int64)
    matrix = matrix + matrix.T
    matrix[:2], matrix[:, :2] = 0, 0
    contexts = np.arange(2, 120)
    information = information_of(matrix, contexts)
    vectors = factorize(information, contexts, 4)
    left, values, _ = randomized_svd(information, 4, n_iter=20, random_state=0)
    expected = left * np.sqrt(values)
    expected[2:] /= np.linalg.norm(expected[2:], axis=1, keepdims=True)
    # equal but for signs, and for how closely the decomposition is approximated
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=0.02)
    assert not vectors[:2].any() and vectors.dtype == np.float32
    assert factorize(information, contexts, 4).tobytes() == vectors.tobytes()


def test_a_matrix_of_low_rank_leaves_columns_zero():
    matrix = np.zeros((6, 6), np.int64)
    matrix[2, 3] = matrix[3, 2] = matrix[4, 5] = matrix[5, 4] = 7
    vectors = factorize(information_of(matrix, np.arange(2, 6)), np.arange(2, 6), 16)
    assert vectors.shape == (6, 16) and (np.abs(vectors).max(axis=0) > 0).sum() <= 4
    np.testing.assert_allclose(np.linalg.norm(vectors[2:], axis=1), 1, rtol=1e-6)
    nothing = information_of(np.zeros((6, 6), np.int64), np.arange(2, 6))
    assert not factorize(nothing, np.arange(2, 6), 3).any()
    nothing = information_of(np.zeros((2, 2), np.int64), np.arange(0))
    assert factorize(nothing, np.arange(0), 3).shape == (2, 3)


def test_rows_that_are_no_contexts_get_vectors():
    random = np.random.default_rng(2)
    group = np.arange(60) % 3
    matrix = random.poisson(np.where(group[:, None] == group, 30, 1)).astype(np.int64)
    matrix = matrix + matrix.T
    matrix[:2], matrix[:, :2] = 0, 0
    contexts = np.arange(2, 40)
    vectors = factorize(information_of(matrix, contexts), contexts, 3)
    cosine = vectors[40:] @ vectors[2:40].T
    same = group[40:, None] == group[2:40]
    assert cosine[same].min() > cosine[~same].max()


def test_rows_without_a_vector_get_the_mean_of_their_category():
    vectors = np.zeros((8, 2), np.float32)
    vectors[2], vectors[3], vectors[4] = (1, 0), (0, 1), (0.6, 0.8)
    category = np.array([0, 0, 2, 2, 3, 2, 4, 0], np.int32)
    filled, count = fill_from_category(vectors, category)
    assert count == 1
    np.testing.assert_allclose(filled[5], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    assert not filled[[0, 1, 6, 7]].any()
    np.testing.assert_array_equal(filled[2:5], vectors[2:5])
    same, count = fill_from_category(vectors, None)
    assert count == 0 and same is vectors


def test_equal_vectors_give_equal_files(monkeypatch):
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    first = to_npz(vectors)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert to_npz(vectors) == first
