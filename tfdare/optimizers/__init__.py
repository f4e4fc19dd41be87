"""Optimizers that update only the rows of a table that a batch looked up."""

from tfdare.optimizers.duplicates import sum_duplicates
from tfdare.optimizers.rowwise_adagrad import RowwiseAdagrad
from tfdare.optimizers.sparse_adagrad import SparseAdagrad
from tfdare.optimizers.sparse_adam import SparseAdam

__all__ = ["RowwiseAdagrad", "SparseAdagrad", "SparseAdam", "sum_duplicates"]
