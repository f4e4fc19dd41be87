"""Factors: summed cells -> a vector for every row id.

A cell's weight becomes its positive pointwise mutual information, log(w r_total / (r c)), where
``r`` is the weight of the whole line and ``c`` the column's share, raised to the power .75 so that
rare contexts do not dominate. Vectors are the leading left singular vectors of that matrix, times
the roots of the singular values, scaled to length 1. The decomposition is a randomized one
(Halko, Martinsson and Tropp, 2011), with a fixed seed and without BLAS, whose sums depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.sparse

from beam_jobs.cooccurrence.cells import Block

SMOOTHING = 0.75
_OVERSAMPLES = 10
_ITERATIONS = 2
_SMALLEST = 1e-10  # squares of singular values below this share of the largest count as zero


def information_matrix(
    blocks: Iterable[Block], size: int, contexts: int
) -> scipy.sparse.csr_matrix:
    """Computes the positive pointwise mutual information of all cells.

    Args:
        blocks: iterable of Block. In any order.
        size: int. Row ids.
        contexts: int. Columns.

    Returns:
        float64 ``[size, contexts]``.
    """
    blocks = list(blocks)
    column_sums = np.sum([block.column_sums for block in blocks], axis=0).astype(np.float64)
    share = column_sums**SMOOTHING
    share /= max(share.sum(), 1e-300)
    parts, length = [], np.zeros(size, np.int64)
    for block in blocks:
        line = np.repeat(np.arange(len(block.rows)), block.length)
        information = np.log(block.weights / (block.row_sums[line] * share[block.columns]))
        keep = information > 0
        line = line[keep]
        length[block.rows] = np.bincount(line, minlength=len(block.rows))
        parts.append((block.rows[line], block.columns[keep], information[keep]))
    start = np.append(0, np.cumsum(length))
    every_column = np.empty(start[-1], np.int32)
    every_information = np.empty(start[-1])
    for rows, columns, information in parts:  # lines of blocks alternate
        first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1])[: len(rows)])
        within = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
        cell = start[rows] + within
        every_column[cell], every_information[cell] = columns, information
    return scipy.sparse.csr_matrix((every_information, every_column, start), shape=(size, contexts))


def factorize(matrix: scipy.sparse.csr_matrix, contexts: np.ndarray, columns: int) -> np.ndarray:
    """Computes the vectors of all lines; those of lines without cells are zero.

    Singular vectors are those of the contexts' own lines; where all ids are contexts, these are
    all lines.

    Args:
        matrix: csr_matrix ``[V, C]``. Of :func:`information_matrix`.
        contexts: int64 ``[C]``. Row ids of its columns.
        columns: int. Length of the vectors.

    Returns:
        float32 ``[V, columns]``, of length 1 or 0.
    """
    vectors = np.zeros((matrix.shape[0], columns), np.float32)
    if not matrix.nnz:
        return vectors
    right, squares = _right_singular_vectors(matrix[contexts], columns)
    if not right.shape[1]:  # cells outside of the contexts' lines alone
        return vectors
    # M V = U S, so this is U times the roots of S
    vectors[:, : right.shape[1]] = matrix @ (right / squares**0.25)
    return scale_to_length_1(vectors)


def scale_to_length_1(vectors: np.ndarray) -> np.ndarray:
    """Scales every vector to length 1, in float32; vectors of length 0 stay."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 1e-12)
    return (vectors * scale[:, None]).astype(np.float32)


def _right_singular_vectors(matrix, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the leading right singular vectors and the squares of their singular values."""
    turned = matrix.T.tocsr()
    draw = np.random.default_rng(0).standard_normal((matrix.shape[1], columns + _OVERSAMPLES))
    base = _orthonormal(matrix @ draw)
    for _ in range(_ITERATIONS):
        base = _orthonormal(matrix @ _orthonormal(turned @ base))
    right = turned @ base
    squares, turn = np.linalg.eigh(_products(right))
    order = [i for i in np.argsort(-squares)[:columns] if squares[i] > _SMALLEST * squares.max()]
    squares = squares[order]
    right = np.einsum("ij,jk->ik", right, turn[:, order] / np.sqrt(squares))
    # signs are arbitrary: the largest component of each is positive
    largest = np.abs(right).argmax(axis=0)
    return right * np.sign(right[largest, np.arange(right.shape[1])]), squares


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Returns an orthonormal basis of what the columns of ``vectors`` span."""
    for _ in range(2):  # once leaves the columns orthogonal to about the root of the precision
        squares, turn = np.linalg.eigh(_products(vectors))
        keep = squares > _SMALLEST * max(squares.max(), 1e-300)
        vectors = np.einsum("ij,jk->ik", vectors, turn[:, keep] / np.sqrt(squares[keep]))
    return vectors


def _products(vectors: np.ndarray) -> np.ndarray:
    """Returns the inner products of all columns."""
    return np.einsum("ij,ik->jk", vectors, vectors)
