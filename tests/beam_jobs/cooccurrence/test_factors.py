"""Cells and factors against dense matrices: sums, the largest cells, information, vectors."""

import numpy as np
import pytest
import scipy.linalg

from beam_jobs.cooccurrence import cells
from beam_jobs.cooccurrence.cells import Layout, choose_contexts, keep_largest, make_block
from beam_jobs.cooccurrence.factors import factorize, information, map_lines
from beam_jobs.cooccurrence.learn import fill_from_category, to_npz
from tests.beam_jobs.cooccurrence.reference import dense_information


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
    expected = dense_information(matrix[:, contexts])
    sums = np.sum([block.column_sums for block in summed], axis=0)
    np.testing.assert_array_equal(sums, matrix[:, contexts].sum(0))
    for block in summed:
        actual = information(block, share)
        np.testing.assert_allclose(actual.toarray(), expected[block.rows], rtol=1e-6, atol=1e-6)
        assert actual.has_sorted_indices and actual.data.min() > 0


def test_only_the_largest_cells_of_a_line_are_kept(monkeypatch):
    weights = np.array([5, 1, 5, 9, 5, 2, 7, 7, 7], np.float32)
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


def vectors_of(matrix, contexts, columns, blocks=1):
    """Computes vectors as the job does: of the contexts' lines, then of all others by block."""
    layout = Layout(len(matrix), len(contexts), blocks)
    (packed,) = pack_dense(layout, contexts, matrix, np.random.default_rng(0), parts=1)
    summed = [make_block(layout, [part]) for part in layout.split(packed)]
    own = [np.isin(block.rows, contexts) for block in summed]
    factors, vectors = factorize(
        [block.select(mask) for block, mask in zip(summed, own)][::-1], columns
    )
    result = np.zeros((len(matrix), columns), np.float32)
    for part in (vectors, *(map_lines(b.select(~m), factors) for b, m in zip(summed, own))):
        result[part.rows] = part.vectors
    return result


def grouped_counts(random, size, groups, within, between):
    """Draws counts of ids in groups: a clear gap after as many singular values as groups."""
    group = random.integers(0, groups, size)
    matrix = random.poisson(np.where(group[:, None] == group, within, between)).astype(np.int64)
    matrix = matrix + matrix.T
    matrix[:2], matrix[:, :2] = 0, 0
    return matrix, group


@pytest.mark.parametrize("blocks", [1, 7])
def test_vectors_span_the_exact_subspace(blocks):
    matrix, _ = grouped_counts(np.random.default_rng(0), 120, 4, 40, 2)
    contexts = np.arange(2, 120)
    vectors = vectors_of(matrix, contexts, 4, blocks)
    left, values, _ = np.linalg.svd(dense_information(matrix[:, contexts]))
    expected = left[:, :4] * np.sqrt(values[:4])
    expected[2:] /= np.linalg.norm(expected[2:], axis=1, keepdims=True)
    # scaled to length 1, so that the angles are those between rows and not between columns
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)
    angles = scipy.linalg.subspace_angles(vectors.astype(np.float64), expected)
    assert angles.max() < 1e-3
    assert not vectors[:2].any() and vectors.dtype == np.float32
    assert vectors_of(matrix, contexts, 4).tobytes() == vectors.tobytes()


def test_a_matrix_of_low_rank_leaves_columns_zero():
    matrix = np.zeros((6, 6), np.int64)
    matrix[2, 3] = matrix[3, 2] = matrix[4, 5] = matrix[5, 4] = 7
    vectors = vectors_of(matrix, np.arange(2, 6), 16)
    assert vectors.shape == (6, 16) and (np.abs(vectors).max(axis=0) > 0).sum() <= 4
    np.testing.assert_allclose(np.linalg.norm(vectors[2:], axis=1), 1, rtol=1e-6)
    assert not vectors_of(np.zeros((6, 6), np.int64), np.arange(2, 6), 3).any()
    assert vectors_of(np.zeros((2, 2), np.int64), np.arange(0), 3).shape == (2, 3)


def test_rows_that_are_no_contexts_get_vectors():
    matrix, group = grouped_counts(np.random.default_rng(2), 60, 3, 30, 1)
    vectors = vectors_of(matrix, np.arange(2, 40), 3)
    cosine = vectors[40:] @ vectors[2:40].T
    same = group[40:, None] == group[2:40]
    assert cosine[same].min() > cosine[~same].max()
    assert vectors_of(matrix, np.arange(2, 40), 3, blocks=4).tobytes() == vectors.tobytes()


def test_rows_without_a_vector_get_the_mean_of_their_category():
    vectors = np.zeros((8, 2), np.float32)
    vectors[2], vectors[3], vectors[4] = (1, 0), (0, 1), (0.6, 0.8)
    category = np.array([0, 0, 2, 2, 3, 2, 4, 0], np.int32)
    before = vectors.copy()
    assert fill_from_category(vectors, None) == 0
    np.testing.assert_array_equal(vectors, before)
    assert fill_from_category(vectors, category) == 1
    np.testing.assert_allclose(vectors[5], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    assert not vectors[[0, 1, 6, 7]].any()
    np.testing.assert_array_equal(vectors[2:5], before[2:5])


def test_equal_vectors_give_equal_files(monkeypatch):
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    first = to_npz(vectors)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert to_npz(vectors) == first
