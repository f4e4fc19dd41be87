"""Factors: summed cells -> a vector for every row id.

A cell's weight becomes its positive pointwise mutual information, log(w r_total / (r c)), where
``r`` is the weight of the whole line and ``c`` the column's share, raised to the power .75 so that
rare contexts do not dominate. Singular vectors are those of the contexts' own lines, a matrix that
is bounded however many ids there are; every other line is mapped by them, block by block. Vectors
are the leading left singular vectors times the roots of the singular values, scaled to length 1.
The decomposition is a randomized one (Halko, Martinsson and Tropp, 2011), with a fixed seed and
without BLAS, whose sums depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from beam_jobs.cooccurrence.cells import Block

SMOOTHING = 0.75
_OVERSAMPLES = 8  # eigh of more than 25 columns takes another, slower way
_ITERATIONS = 4
_SMALLEST = 1e-10  # squares of singular values below this share of the largest count as zero


@dataclass(frozen=True)
class Factors:
    """What maps lines to vectors.

    Attributes:
        share: float64 ``[C]``. Smoothed share of every column.
        right: float32 ``[C, D]``. Right singular vectors over the roots of the singular values.
    """

    share: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class LineVectors:
    """Vectors of some lines.

    Attributes:
        rows: int32 ``[L]``. Row ids of the lines.
        vectors: float32 ``[L, D]``, of length 1 or 0.
        cells: int. Cells of these lines above zero.
    """

    rows: np.ndarray
    vectors: np.ndarray
    cells: int


def information(block: Block, share: np.ndarray) -> scipy.sparse.csr_matrix:
    """Computes the positive pointwise mutual information of a block's cells.

    Args:
        block: Block.
        share: float64 ``[C]``. Smoothed share of every column.

    Returns:
        float32 ``[L, C]``.
    """
    ratio = block.weights / np.repeat(block.row_sums, block.length)
    ratio /= share[block.columns]
    data = np.log(ratio, out=ratio).clip(0).astype(np.float32)
    start = np.append(0, np.cumsum(block.length))
    matrix = scipy.sparse.csr_matrix(
        (data, block.columns, start), shape=(len(block.rows), len(share))
    )
    matrix.eliminate_zeros()
    return matrix


def factorize(blocks: Iterable[Block], columns: int) -> tuple[Factors, LineVectors]:
    """Computes the factors, and the vectors of the contexts' own lines.

    Args:
        blocks: iterable of Block. The contexts' lines, with the column sums of all lines; in any
            order.
        columns: int. Length of the vectors.
    """
    blocks = list(blocks)
    share = np.sum([block.column_sums for block in blocks], axis=0) ** SMOOTHING
    share /= max(share.sum(), 1e-300)
    rows = np.concatenate([block.rows for block in blocks])
    order = np.argsort(rows)  # sums must not depend on the number of blocks
    matrix = scipy.sparse.vstack([information(block, share) for block in blocks], "csr")[order]
    factors = Factors(share, _right_factors(matrix, columns))
    return factors, LineVectors(rows[order], _map(matrix, factors), matrix.nnz)


def map_lines(block: Block, factors: Factors) -> LineVectors:
    """Computes the vectors of a block's lines."""
    matrix = information(block, factors.share)
    return LineVectors(block.rows, _map(matrix, factors), matrix.nnz)


def _map(matrix: scipy.sparse.csr_matrix, factors: Factors) -> np.ndarray:
    # M V = U S, so M V over the roots of S is U times the roots of S
    return scale_to_length_1(matrix @ factors.right)


def scale_to_length_1(vectors: np.ndarray) -> np.ndarray:
    """Scales every vector to length 1, in float32; vectors of length 0 stay."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 1e-12)
    return (vectors * scale[:, None]).astype(np.float32)


def _right_factors(matrix: scipy.sparse.csr_matrix, columns: int) -> np.ndarray:
    """Returns the leading right singular vectors over the roots of their singular values.

    Returns:
        float32 ``[C, columns]``. Columns beyond the rank are zero.
    """
    factors = np.zeros((matrix.shape[1], columns), np.float32)
    if not matrix.nnz:
        return factors
    turned = matrix.T
    draw = np.random.default_rng(0).standard_normal((matrix.shape[1], columns + _OVERSAMPLES))
    base = _orthonormal(_multiply(matrix, draw))
    for _ in range(_ITERATIONS):
        base = _orthonormal(_multiply(matrix, _orthonormal(_multiply(turned, base))))
    # once leaves the columns orthogonal to about the root of the precision
    right = _multiply(turned, _orthonormal(base))
    squares, turn = np.linalg.eigh(_products(right))
    order = [i for i in np.argsort(-squares)[:columns] if squares[i] > _SMALLEST * squares.max()]
    right = np.einsum("ij,jk->ik", right, turn[:, order] / squares[order] ** 0.75)
    # signs are arbitrary: the largest component of each is positive
    largest = np.abs(right).argmax(axis=0)
    factors[:, : len(order)] = right * np.sign(right[largest, np.arange(len(order))])
    return factors


def _multiply(matrix: scipy.sparse.spmatrix, vectors: np.ndarray) -> np.ndarray:
    """Multiplies in float32, several times faster than in float64."""
    return (matrix @ vectors.astype(np.float32)).astype(np.float64)


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Returns a nearly orthonormal basis of what the columns of ``vectors`` span."""
    squares, turn = np.linalg.eigh(_products(vectors))
    keep = squares > _SMALLEST * max(squares.max(), 1e-300)
    return np.einsum("ij,jk->ik", vectors, turn[:, keep] / np.sqrt(squares[keep]))


def _products(vectors: np.ndarray) -> np.ndarray:
    """Returns the inner products of all columns."""
    return np.einsum("ij,ik->jk", vectors, vectors)
