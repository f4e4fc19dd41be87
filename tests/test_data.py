"""Requests as the reader batches them, against a plain reading of the same records."""

import numpy as np
import pytest

from tests.folders import CANDIDATES, SIZES, WINDOW, make_record, make_splits, plain_requests
from tests.folders import write_folder
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.schema import SchemaError

FACTS = ["user", *(f"target_repeats_{name}" for name in SIZES)]


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=1, users=15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    """One file a split, so that the order of requests is that of the records."""
    return write_folder(tmp_path_factory.mktemp("one") / "sequences", splits)


def as_dicts(dataset):
    """Batches as one dict a request, the way :func:`plain_requests` gives them."""
    found = []
    for requests, label, weight in dataset:
        columns = {name: values.numpy() for name, values in requests.items()}
        columns.update(label=label.numpy(), weight=weight.numpy())
        for row in range(len(columns["label"])):
            one = {name: values[row] for name, values in columns.items()}
            one = {name: getattr(value, "tolist", lambda v=value: v)() for name, value in one.items()}
            if "user" in one:
                one["user"] = one["user"].decode()
            found.append(one)
    return found


def without_facts(requests):
    return [{name: one[name] for name in one if name not in FACTS} for one in requests]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("window", [None, 1, 5, WINDOW])
def test_agrees_with_a_plain_reading(folder, splits, split, window):
    found = as_dicts(read_requests(folder, split, 4, window=window, with_history_facts=True))
    expected = plain_requests(splits[split], window=window or WINDOW)
    assert len(expected) > 20 and found == expected


def test_without_facts(folder, splits):
    found = as_dicts(read_requests(folder, "train", 4))
    assert found == without_facts(plain_requests(splits["train"]))


def test_the_records_cover_what_can_go_wrong(splits):
    records = splits["train"]
    cuts = np.concatenate([record.position for record in records])
    sizes = np.concatenate([record.target_length for record in records])
    assert (cuts == 0).any() and (cuts > WINDOW).any() and ((0 < cuts) & (cuts < WINDOW)).any()
    assert set(sizes) == {2, 3}
    assert any(len(record.position) == 0 for record in records)
    assert any(len(record.position) > 1 for record in records)


def test_history_facts_see_past_the_window(tmp_path):
    # 20 times the clicked item, all of it older than the window, which holds another one.
    record = make_record(np.random.default_rng(0), length=20 + WINDOW, requests=1)
    items = np.array([5] * 20 + [6] * WINDOW, np.int32)
    record.history["item"][:] = items
    record.position[:] = len(items)
    record.target["item"][:2] = [5, 6]
    opened = write_folder(tmp_path / "s", {"train": [record]})
    (batch,) = read_requests(opened, "train", 1, with_history_facts=True)
    assert batch[0]["target_repeats_item"].numpy()[0, :2].tolist() == [20, WINDOW]
    assert 5 not in batch[0]["history_item"].numpy()


def test_an_unknown_target_repeats_nothing(tmp_path):
    # Row 1 stands for many items: that the history holds it says nothing about this one.
    record = make_record(np.random.default_rng(0), length=10, requests=1)
    record.history["item"][:] = [1] * 6 + [4] * 4
    record.position[:] = 10
    record.target["item"][:2] = [1, 4]
    opened = write_folder(tmp_path / "s", {"train": [record]})
    (batch,) = read_requests(opened, "train", 1, with_history_facts=True)
    assert batch[0]["target_repeats_item"].numpy()[0, :2].tolist() == [0, 4]


@pytest.mark.parametrize("facts", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batches(folder, splits, batch_size, facts):
    dataset = read_requests(folder, "validation", batch_size, with_history_facts=facts)
    count = folder.requests("validation")
    batches = -(-count // batch_size)
    assert int(dataset.cardinality()) == batches
    wide, narrow = (None, WINDOW), (None, CANDIDATES)
    expected = {
        "history_item": (tf.int32, wide), "history_category": (tf.int32, wide),
        "history_length": (tf.int32, (None,)),
        "target_item": (tf.int32, narrow), "target_category": (tf.int32, narrow),
        "target_length": (tf.int32, (None,)),
    }
    if facts:
        expected["user"] = (tf.string, (None,))
        for name in SIZES:
            expected[f"target_repeats_{name}"] = (tf.int32, narrow)
    requests, label, weight = dataset.element_spec
    assert {n: (s.dtype, tuple(s.shape)) for n, s in requests.items()} == expected
    for spec in (label, weight):
        assert (spec.dtype, tuple(spec.shape)) == (tf.float32, narrow)
    sizes = [len(label) for _, label, _ in dataset]
    assert len(sizes) == batches and sum(sizes) == count
    assert sizes[:-1] == [batch_size] * (batches - 1)
    assert sizes[-1] == count - batch_size * (batches - 1)


def keys(dataset):
    return [(one["user"], one["history_length"], *one["history_item"], *one["target_item"])
            for one in as_dicts(dataset)]


def test_several_files_hold_every_request_once(tmp_path, splits, folder):
    many = write_folder(tmp_path / "s", splits, shards=4)
    facts = dict(with_history_facts=True)
    found = keys(read_requests(many, "train", 8, **facts))
    assert sorted(found) == sorted(keys(read_requests(folder, "train", 8, **facts)))
    assert found == keys(read_requests(many, "train", 8, **facts))
    for shard in range(4):  # and keep the order inside each file
        users = [record.user for record in splits["train"][shard::4]]
        expected = [one["user"] for one in plain_requests(splits["train"][shard::4])]
        assert [key[0] for key in found if key[0] in users] == expected


def test_shuffle_is_a_seeded_permutation(folder):
    def read(**options):
        return read_requests(folder, "train", 8, with_history_facts=True, **options)

    kept = keys(read())
    tf.random.set_seed(3)
    dataset = read(shuffle=1000, seed=5)
    first, second = keys(dataset), keys(dataset)
    assert first != kept and sorted(first) == sorted(kept)
    assert second != first and sorted(second) == sorted(kept)
    again = read(shuffle=1000, seed=5)
    assert [keys(again), keys(again)] == [first, second]
    assert keys(read(shuffle=1000, seed=6)) != first
    assert int(dataset.cardinality()) == -(-len(kept) // 8)


def test_takes_a_path_and_a_digest(folder):
    by_path = read_requests(folder.path, "test", 8, digest=folder.schema.digest)
    assert as_dicts(by_path) == as_dicts(read_requests(folder, "test", 8))


def test_a_split_without_requests(tmp_path):
    random = np.random.default_rng(2)
    record = make_record(random, length=5, requests=0)
    opened = write_folder(tmp_path / "s", {"train": [record], "validation": []})
    for split in ("train", "validation"):
        dataset = read_requests(opened, split, 8, with_history_facts=True)
        assert int(dataset.cardinality()) == 0 and as_dicts(dataset) == []


def test_other_numbers_of_candidates(tmp_path):
    random = np.random.default_rng(4)
    records = [make_record(random, f"u{i}", requests=3) for i in range(3)]
    opened = write_folder(tmp_path / "s", {"train": records}, candidates=6)
    found = as_dicts(read_requests(opened, "train", 4, with_history_facts=True))
    assert found == plain_requests(records, candidates=6)


def test_more_candidates_than_the_schema_says_is_an_error(tmp_path):
    random = np.random.default_rng(5)
    records = [make_record(random, f"u{i}", requests=4) for i in range(3)]
    assert max(record.target_length.max() for record in records) == 3
    opened = write_folder(tmp_path / "s", {"train": records}, candidates=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_candidates"):
        as_dicts(read_requests(opened, "train", 4))


def test_a_damaged_file_is_an_error(tmp_path, splits):
    opened = write_folder(tmp_path / "s", splits)
    (path,) = opened.files("train")
    with open(path, "r+b") as file:
        file.truncate(300)
    with pytest.raises(tf.errors.DataLossError):
        as_dicts(read_requests(opened, "train", 4))


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"window": WINDOW + 1}, SchemaError, f"window={WINDOW + 1}"),
        ({"window": 0}, SchemaError, "window=0"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"split": "dev"}, SchemaError, "split='dev'"),
        ({"digest": "f" * 64}, SchemaError, "f" * 12),
    ],
)
def test_arguments_that_cannot_be(folder, options, error, words):
    options = {"split": "train", "batch_size": 4, **options}
    for sequences in (folder, folder.path):
        with pytest.raises(error, match=words):
            read_requests(sequences, **options)


def test_an_unfinished_folder_is_refused(tmp_path, splits):
    write_folder(tmp_path / "s", splits, finished=False)
    with pytest.raises(SchemaError, match="_SUCCESS"):
        read_requests(tmp_path / "s", "train", 4)
