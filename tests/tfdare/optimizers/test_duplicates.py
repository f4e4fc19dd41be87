"""Sums of duplicate rows: in order of appearance, in full precision, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.optimizer_steps import slices
from tfdare.optimizers import sum_duplicates
from tfdare.optimizers.duplicates import _pieces

pytestmark = pytest.mark.keras


def test_rows_are_named_once_in_the_order_of_first_appearance():
    summed = sum_duplicates(slices([4, 1, 4, 4], [[1, 10], [2, 20], [3, 30], [5, 50]]))
    assert summed.indices.numpy().tolist() == [4, 1]
    assert summed.values.numpy().tolist() == [[9, 90], [2, 20]]
    assert summed.dense_shape.numpy().tolist() == [7, 2]


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (16,),
        (31,),
        (32,),
        (37,),
        (48,),
        (64,),
        (3, 5),
        (8, 16),
    ],
)
@pytest.mark.parametrize("static", [True, False], ids=["shape known", "shape unknown"])
@pytest.mark.parametrize("table_rows", [None, 9], ids=["hashed", "counted"])
def test_rows_of_any_shape_equal_the_sums_of_numpy(shape, static, table_rows):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 9, 40).astype(np.int32)
    values = rng.integers(-99, 99, (40, *shape)).astype(np.float32)  # sums are exact
    specs = [tf.TensorSpec([None, *shape] if static else None), tf.TensorSpec([None], tf.int32)]
    if not static:
        specs[0] = tf.TensorSpec([None] * values.ndim)

    @tf.function(input_signature=specs, autograph=False)
    def run(values, rows):
        summed = sum_duplicates(tf.IndexedSlices(values, rows), table_rows)
        assert summed.values.shape.as_list() == specs[0].shape.as_list()
        return summed.values, summed.indices

    got, named = (x.numpy() for x in run(tf.constant(values), tf.constant(rows)))
    wanted = np.zeros((9, *shape))
    np.add.at(wanted, rows, values)
    assert sorted(named) == sorted(set(rows))
    assert table_rows is None or (np.diff(named) > 0).all()
    np.testing.assert_array_equal(got, wanted[named])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("ids", ["int32", "int64"])
@pytest.mark.parametrize("table_rows", [None, 7], ids=["hashed", "counted"])
def test_types_stay_and_half_precision_is_added_in_full(dtype, ids, table_rows):
    # One after the other, 1 + 1 + ... stops at 256 in bfloat16 and at 2,048 in float16.
    count = 2560
    gradient = tf.IndexedSlices(tf.ones([count, 2], dtype), tf.zeros([count], ids))
    summed = sum_duplicates(gradient, table_rows)
    assert (summed.values.dtype, summed.indices.dtype) == (tf.as_dtype(dtype), tf.as_dtype(ids))
    assert summed.values.numpy().astype(int).tolist() == [[count, count]]


@pytest.mark.parametrize("table_rows", [None, 7], ids=["hashed", "counted"])
def test_no_rows_give_no_sums(table_rows):
    summed = sum_duplicates(slices([], np.zeros((0, 64))), table_rows)
    assert summed.values.shape == (0, 64) and summed.indices.shape == (0,)


def test_what_is_not_finite_stays_in_its_row():
    for table_rows in (None, 7):
        summed = sum_duplicates(slices([3, 5, 3], [[1.0], [np.nan], [np.inf]]), table_rows)
        np.testing.assert_array_equal(summed.values, [[np.inf], [np.nan]])


def test_pieces_are_equal_and_neither_wide_nor_tiny():
    cut = {0: 1, 1: 1, 16: 1, 31: 1, 32: 2, 37: 1, 48: 2, 62: 2, 64: 4, 96: 4, 128: 8, 1024: 64}
    assert {width: _pieces(width) for width in cut} == cut
