"""Requests as the reader batches them, against a plain reading of the same records."""

import dataclasses
import gzip
import shutil

import numpy as np
import pytest

from tests.folders import (
    CANDIDATES,
    CONTEXT,
    MULTI_HOT,
    SIZES,
    TIME_GAP,
    WINDOW,
    make_record,
    make_splits,
    plain_requests,
    with_weights,
    write_folder,
)
from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.data import reader as data
from tfdare.data.windows import Cutter
from tfdare.schema import SchemaError
from tfdare.sequences import open_sequences
from tfdare.sequences.record import encode

FACTS = ["user", *(f"target_repeats_{name}" for name in SIZES)]


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=1, users=15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    """Writes a file a split, so that the order of requests is that of the records."""
    return write_folder(tmp_path_factory.mktemp("one") / "sequences", splits)


def as_dicts(dataset):
    """Converts batches to a dict a request, like those of :func:`plain_requests`."""
    dicts = []
    for requests, label, weight in dataset:
        columns = {name: values.numpy() for name, values in requests.items()}
        columns.update(label=label.numpy(), weight=weight.numpy())
        for row in range(len(columns["label"])):
            request = {name: values[row] for name, values in columns.items()}
            user = request.pop("user", None)
            request = {name: value.tolist() for name, value in request.items()}
            if user is not None:
                request["user"] = user.decode()
            if request.get("context_price") != request.get("context_price"):
                request["context_price"] = None  # NaN equals nothing, not even itself
            dicts.append(request)
    return dicts


EXTRAS = {"multi_hot": MULTI_HOT, "context": CONTEXT}


@pytest.fixture(scope="module")
def rich_splits():
    """Makes users with tags, context and times; one has a long history and few requests."""
    splits = make_splits(seed=7, users=15, **EXTRAS)
    random = np.random.default_rng(8)
    splits["train"][3] = make_record(random, "long", length=400, requests=4, **EXTRAS)
    splits["train"][5] = make_record(random, "silent", length=20, requests=0, **EXTRAS)
    return splits


@pytest.fixture(scope="module")
def rich(tmp_path_factory, rich_splits):
    path = tmp_path_factory.mktemp("rich") / "sequences"
    return write_folder(path, rich_splits, time_gap=TIME_GAP, **EXTRAS)


def without_facts(requests):
    return [{name: request[name] for name in request if name not in FACTS} for request in requests]


@pytest.mark.parametrize(
    "split, window", [("train", None), ("train", 1), ("validation", 5), ("test", WINDOW)]
)
def test_agrees_with_a_plain_reading(folder, splits, split, window):
    requests = as_dicts(read_requests(folder, split, 4, window=window, with_history_facts=True))
    expected = plain_requests(splits[split], window=window or WINDOW)
    assert len(expected) > 20 and requests == expected


@pytest.mark.parametrize(
    "split, window, facts", [("train", None, False), ("train", 3, False), ("test", WINDOW, True)]
)
def test_agrees_with_a_plain_reading_of_tags_context_and_time(
    rich, rich_splits, split, window, facts
):
    # Without facts histories are trimmed, to what the windows show.
    requests = as_dicts(read_requests(rich, split, 4, window=window, with_history_facts=facts))
    expected = plain_requests(
        rich_splits[split], window=window or WINDOW, time_gap=TIME_GAP, **EXTRAS
    )
    assert len(expected) > 20
    assert requests == (expected if facts else without_facts(expected))


@pytest.mark.parametrize("shuffle", [0, 1000])
def test_weights_come_with_their_candidates(tmp_path, splits, shuffle):
    weighted = with_weights(splits)
    opened = write_folder(tmp_path / "s", weighted, shards=2)
    assert opened.schema.sample_weights

    def columns(requests):
        return sorted((*r["target_item"], *r["label"], *r["weight"]) for r in requests)

    requests = as_dicts(read_requests(opened, "train", 4, shuffle=shuffle))
    assert columns(requests) == columns(plain_requests(weighted["train"]))
    assert {0.0, 0.5, 1.0, 4.0} == {weight for r in requests for weight in r["weight"]}
    (_, _, weight) = read_requests(opened, "train", 4).element_spec
    assert tuple(weight.shape) == (None, CANDIDATES)


def test_weights_that_do_not_fit_are_an_error(tmp_path, splits):
    opened = write_folder(tmp_path / "s", with_weights(splits))
    *fine, last = with_weights(splits)["train"][:4]
    cutter = Cutter(opened.schema, WINDOW, facts=False)
    for weight, words in ((last.weight[1:], "'weight' is not as long"), (None, "weight")):
        records = [*fine, dataclasses.replace(last, weight=weight)]
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            cutter.parse(tf.constant([encode(record) for record in records]))


def test_the_rich_records_cover_the_edge_cases(rich_splits):
    requests = plain_requests(rich_splits["train"], time_gap=TIME_GAP, **EXTRAS)
    tags = [tuple(values) for request in requests for values in request["history_tags"]]
    assert {sum(1 for tag in values if tag) for values in tags} == {0, 1, 2, 3}
    assert any(request["context_price"] is None for request in requests)
    assert {sum(1 for x in request["context_interests"] if x) for request in requests} == {0, 1, 2}
    assert max(max(request["history_time_gap"]) for request in requests) > 100


def test_specs_of_tags_context_and_time(rich):
    requests, _, _ = read_requests(rich, "train", 4, window=5).element_spec
    specs = {name: (spec.dtype, tuple(spec.shape)) for name, spec in requests.items()}
    expected = {
        "history_tags": (tf.int32, (None, 5, 3)),
        "target_tags": (tf.int32, (None, CANDIDATES, 3)),
        "history_time_gap": (tf.int32, (None, 5)),
        "context_hour": (tf.int32, (None,)),
        "context_interests": (tf.int32, (None, 2)),
        "context_price": (tf.float32, (None,)),
    }
    assert {name: specs[name] for name in expected} == expected
    assert len(specs) == len(expected) + 6


@pytest.mark.parametrize("shuffle", [6, 1000])
def test_shuffled_requests_keep_their_parts(rich, rich_splits, shuffle):
    def ordered(requests):
        return sorted(requests, key=lambda request: repr(sorted(request.items())))

    dataset = read_requests(rich, "train", 5, shuffle=shuffle, with_history_facts=True)
    expected = plain_requests(rich_splits["train"], time_gap=TIME_GAP, **EXTRAS)
    shuffled = as_dicts(dataset)
    assert ordered(shuffled) == ordered(expected) and shuffled != expected
    assert as_dicts(dataset) != shuffled


def test_gaps_beyond_32_bits_are_cut(tmp_path):
    record = make_record(np.random.default_rng(0), length=4, requests=1)
    record.position[:] = 4
    record.history_time[:] = [0, 2**31, 2**33, 2**33 + 9]
    record.request_time[:] = 2**33 + 5
    opened = write_folder(tmp_path / "s", {"train": [record]}, time_gap=TIME_GAP)
    (batch,) = read_requests(opened, "train", 1)
    gaps = batch[0]["history_time_gap"].numpy()[0, :5].tolist()
    assert gaps == [2**31 - 1, 2**31 - 1, 5, 0, 0]


def test_without_facts(folder, splits):
    requests = as_dicts(read_requests(folder, "train", 4))
    assert requests == without_facts(plain_requests(splits["train"]))


def test_the_records_cover_the_edge_cases(splits):
    records = splits["train"]
    cuts = np.concatenate([record.position for record in records])
    sizes = np.concatenate([record.target_length for record in records])
    assert (cuts == 0).any() and (cuts > WINDOW).any() and ((cuts > 0) & (cuts < WINDOW)).any()
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
        "history_item": (tf.int32, wide),
        "history_category": (tf.int32, wide),
        "history_length": (tf.int32, (None,)),
        "target_item": (tf.int32, narrow),
        "target_category": (tf.int32, narrow),
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
    return [
        (r["user"], r["history_length"], *r["history_item"], *r["target_item"])
        for r in as_dicts(dataset)
    ]


def test_several_files_hold_every_request_once(tmp_path, splits, folder):
    many = write_folder(tmp_path / "s", splits, shards=4)
    facts = {"with_history_facts": True}
    read = keys(read_requests(many, "train", 8, **facts))
    assert sorted(read) == sorted(keys(read_requests(folder, "train", 8, **facts)))
    assert read == keys(read_requests(many, "train", 8, **facts))
    for shard in range(4):  # and keep the order inside each file
        users = [record.user for record in splits["train"][shard::4]]
        expected = [request["user"] for request in plain_requests(splits["train"][shard::4])]
        assert [key[0] for key in read if key[0] in users] == expected


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


def test_shuffle_true_mixes_what_fits_into_memory(folder, monkeypatch):
    def read(shuffle):
        return keys(
            read_requests(folder, "train", 8, shuffle=shuffle, seed=5, with_history_facts=True)
        )

    assert read(True) == read(10**6)
    monkeypatch.setattr(data, "SHUFFLE_BYTES", 0)
    assert read(True) == read(1) != read(10**6)


def test_packed_files_give_the_same_requests(folder, tmp_path):
    shutil.copytree(folder.path, tmp_path / "packed")
    for path in (tmp_path / "packed").glob("*/*.tfrecord"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = open_sequences(str(tmp_path / "packed"))
    assert as_dicts(read_requests(packed, "test", 8)) == as_dicts(read_requests(folder, "test", 8))
    (name,) = packed.files("test")
    with open(name, "rb+") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="Damaged gzip data in .*test.part-00000"):
        list(packed.records("test"))


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
    requests = as_dicts(read_requests(opened, "train", 4, with_history_facts=True))
    assert requests == plain_requests(records, candidates=6)


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


def _replaced(record, **arrays):
    return encode(dataclasses.replace(record, **arrays))


DAMAGES = {
    "history_category": lambda r: _replaced(
        r, history={**r.history, "category": r.history["category"][:-1]}
    ),
    "target_item": lambda r: _replaced(r, target={**r.target, "item": r.target["item"][1:]}),
    "target_tags": lambda r: _replaced(r, target={**r.target, "tags": r.target["tags"][:-1]}),
    "history_time": lambda r: _replaced(r, history_time=r.history_time[1:]),
    "request_time": lambda r: _replaced(r, request_time=r.request_time[1:]),
    "context_hour": lambda r: _replaced(r, context={**r.context, "hour": r.context["hour"][1:]}),
    "position is beyond": lambda r: _replaced(r, position=r.position + len(r.history_time)),
    "position is negative": lambda r: _replaced(r, position=r.position - 400),
    "positions fall": lambda r: _replaced(r, position=r.position[::-1]),
    "less than no candidates": lambda r: _replaced(r, target_length=-r.target_length),
    "sum of target_length": lambda r: _replaced(r, target_length=np.full_like(r.target_length, 1)),
    "context_price": lambda r: _replaced(
        r, context={k: v for k, v in r.context.items() if k != "price"}
    ),
    "Feature: request_time": lambda r: _replaced(r, request_time=None),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_record_whose_parts_do_not_fit_is_an_error(rich, rich_splits, words):
    # Arrays of many users are joined: a wrong length would hand one user another's behaviors.
    *fine, last = [encode(record) for record in rich_splits["train"][:4]]
    cutter = Cutter(rich.schema, WINDOW, facts=False)
    cutter.parse(tf.constant([*fine, last]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        cutter.parse(tf.constant([*fine, DAMAGES[words](rich_splits["train"][3])]))


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
def test_invalid_arguments_are_refused(folder, options, error, words):
    options = {"split": "train", "batch_size": 4, **options}
    for sequences in (folder, folder.path):
        with pytest.raises(error, match=words):
            read_requests(sequences, **options)


def test_an_unfinished_folder_is_refused(tmp_path, splits):
    write_folder(tmp_path / "s", splits, finished=False)
    with pytest.raises(SchemaError, match="_SUCCESS"):
        read_requests(tmp_path / "s", "train", 4)
