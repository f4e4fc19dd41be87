"""Raw ids of rows: from the vocabulary, or any id with the same hash."""

import numpy as np
import pytest

from tests.folders import MULTI_HOT, make_splits, write_folder
from tfdare.schema import SchemaError
from tfdare.schema.id_hash import hash_rows, ids_of_rows, mix, unmix
from tfdare.sequences.raw_ids import UNKNOWN_ID, UNSEEN_VALUE, RawIds


def test_mixing_is_undone():
    values = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    np.testing.assert_array_equal(unmix(mix(values)), values)
    assert unmix(mix(2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize("buckets", [1, 2, 1000, 10**6, 2**31 - 3])
def test_every_row_has_an_id_that_is_hashed_there(buckets):
    rows = np.random.default_rng(0).integers(2, buckets + 2, (50, 40))
    ids = ids_of_rows(rows, buckets)
    assert ids.dtype == np.int64 and (ids >= 0).all()
    np.testing.assert_array_equal(hash_rows(ids, buckets), rows)
    assert ids_of_rows(np.array([], np.int64), buckets).shape == (0,)


def test_raw_ids_of_hashed_features_are_hashed_to_their_rows(tmp_path):
    folder = write_folder(
        tmp_path, make_splits(multi_hot=MULTI_HOT), multi_hot=MULTI_HOT, hashed=("item", "tags")
    )
    ids = RawIds(folder)
    buckets = {feature.name: feature.hash_buckets for feature in folder.schema.features}
    assert ids.hashed == {"item": buckets["item"], "tags": buckets["tags"]}
    rows = np.array([0, 1, 2, buckets["item"] + 1, buckets["item"] + 2])
    raw = ids.raw("item", rows)
    assert raw[[0, 1, 4]].tolist() == [UNKNOWN_ID] * 3
    assert hash_rows(raw[2:4], buckets["item"]).tolist() == rows[2:4].tolist()
    tags = ids.raw("tags", np.array([3, 1, 0]))
    assert tags.shape == (1, 3) and tags[0, 1:].tolist() == [UNSEEN_VALUE, UNKNOWN_ID]
    assert hash_rows(tags[0, 0], buckets["tags"]) == 3
    assert ids.row("item", 12345) == hash_rows(np.array(12345), buckets["item"])
    assert ids.row("item", -5) is None
    assert ids.raw("category", np.array([2])).tolist() == [1000]  # of its vocabulary
    with pytest.raises(SchemaError, match="hashes item, tags: it does not hold raw ids"):
        RawIds(folder, exact=True)
