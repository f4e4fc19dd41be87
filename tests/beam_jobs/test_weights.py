"""Sample weights: of columns in every format, of event types, of impressions, and in later runs."""

import dataclasses
import itertools
import json

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.beam_jobs.conftest import SMALL, csv_text
from tests.beam_jobs.histories.test_earlier_run import same_bytes
from tfdare.data import read_requests
from tfdare.sequences import SPLITS
from tfdare.sequences.record import encode

TYPES = ("pv", "buy", "cart")
BAD = {"-0.5": "weight is negative", "heavy": "weight is not a number", "inf": "larger than"}


def make_rows(seed=0, users=6, events=25):
    """Makes (user, item, category, type, weight or None, time), all times different."""
    random = np.random.default_rng(seed)
    weights = (0.0, 0.25, 1.5, 3.0, None)
    return [
        (
            f"u{user}",
            item := int(random.integers(20)),
            item % 3,
            TYPES[int(random.integers(3))],
            weights[int(random.integers(5))],
            1_700_000_000 + 100 * event + user,
        )
        for event in range(events)
        for user in range(users)
    ]


HEADER = ("user", "item", "category", "behavior", "w", "time")
COLUMNS = ("--columns", "weight=w")


def write_log(folder, form, rows, header=HEADER):
    """Writes rows in a format; a missing weight is empty, null, or a missing key."""
    path = folder / f"log.{form}"
    records = [dict(zip(header, row)) for row in rows]
    if form == "csv":
        path.write_text(
            csv_text([["" if v is None else v for v in row] for row in rows], ",".join(header))
        )
    elif form == "jsonl":
        lines = [{k: v for k, v in r.items() if v is not None} for r in records]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        types = {"user": "string", "behavior": "string", "w": ["null", "double"]}
        fields = [{"name": name, "type": types.get(name, "long")} for name in header]
        with open(path, "wb") as file:
            fastavro.writer(file, {"type": "record", "name": "e", "fields": fields}, records)
    return path


def check_weights(sequences, weight_of):
    """Checks the weights of all candidates; `weight_of` takes a user and a request's time."""
    weights = []
    for split in SPLITS:
        for record in sequences.records(split):
            times = np.repeat(record.request_time, record.target_length).tolist()
            assert record.weight.tolist() == [weight_of(record.user, time) for time in times]
            assert record.weight.dtype == np.float32
            weights += record.weight.tolist()
        part = sequences.manifest["counts"]["splits"][split]
        assert part["weight"] == sum(
            float(record.weight.sum()) for record in sequences.records(split)
        )
    return set(weights)


def test_a_column_of_every_format(prepare, tmp_path):
    rows = make_rows()
    weight = {(row[0], row[5]): 1.0 if row[4] is None else row[4] for row in rows}
    runs = []
    for form in ("csv", "jsonl", "parquet", "avro"):
        path = write_log(tmp_path, form, rows)
        runs.append(prepare(path, *SMALL, *COLUMNS, form=form, output=form))
        assert runs[-1].code == 0, runs[-1].err
        same_bytes(runs[0], runs[-1])
    assert runs[0].sequences.schema.sample_weights
    values = check_weights(runs[0].sequences, lambda user, time: weight[user, time])
    assert values == {0.0, 0.25, 1.0, 1.5, 3.0}
    assert "mean weight 1." in runs[0].out
    lists = prepare(path, *SMALL, *COLUMNS, "--encoding", "lists", form=form, output="lists")
    for split in SPLITS:
        batches = zip(
            read_requests(runs[0].sequences, split, 7), read_requests(lists.sequences, split, 7)
        )
        for (_, _, packed), (_, _, listed) in batches:
            np.testing.assert_array_equal(packed, listed)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_bad_weights_are_rejected(prepare, tmp_path, form):
    rows = make_rows()
    for index, text in enumerate(BAD):
        rows[40 + index] = (*rows[40 + index][:4], text, rows[40 + index][5])
    texts = [(*row[:4], row[4] if row[4] is None else str(row[4]), row[5]) for row in rows]
    outcome = prepare(write_log(tmp_path, form, texts), *SMALL, *COLUMNS, form=form)
    assert outcome.code == 0, outcome.err
    reasons = [row["reason"] for row in outcome.rejected]
    assert len(reasons) == len(BAD)
    for reason, words in zip(reasons, BAD.values()):
        assert words in reason


def without_weights(sequences, split):
    return [encode(dataclasses.replace(record, weight=None)) for record in sequences.records(split)]


def test_event_types(prepare, tmp_path):
    rows = make_rows()
    kind = {(row[0], row[5]): row[3] for row in rows}
    own = {(row[0], row[5]): 1.0 if row[4] is None else row[4] for row in rows}
    path = write_log(tmp_path, "csv", rows)
    weights = ("--weights", "buy=4", "cart=0.5")
    by_type = {"buy": 4.0, "cart": 0.5, "pv": 1.0}
    options = (*SMALL, "--columns", "behavior=behavior")
    every = prepare(path, *options, *weights, output="all")
    assert every.code == 0, every.err
    check_weights(every.sequences, lambda user, time: by_type[kind[user, time]])
    assert every.manifest["options"]["weights"] == {"buy": 4.0, "cart": 0.5}
    plain = prepare(path, *options, "--behavior", "pv,buy,cart", output="plain")
    kept = prepare(path, *options, *weights, "--behavior", "pv,buy,cart", output="kept")
    for split in SPLITS:
        # the weights are all that changes: negatives and histories are the same
        records = without_weights(kept.sequences, split)
        assert records == [encode(record) for record in plain.sequences.records(split)]
    both = prepare(path, *SMALL, *COLUMNS, *weights, output="both")
    check_weights(both.sequences, lambda user, time: by_type[kind[user, time]] * own[user, time])


def test_event_types_of_taobao(prepare, tmp_path):
    rows = [(row[0][1:], row[1], row[2], row[3], row[5]) for row in make_rows()]
    kind = {(row[0], row[4]): row[3] for row in rows}
    path = tmp_path / "log.csv"
    path.write_text(csv_text(rows, "").lstrip())
    options = (*SMALL, "--behavior", "pv,buy,cart")
    outcome = prepare(path, *options, "--weights", "buy=4", "cart=2", form="taobao")
    assert outcome.code == 0, outcome.err
    by_type = {"buy": 4.0, "cart": 2.0, "pv": 1.0}
    values = check_weights(outcome.sequences, lambda user, time: by_type[kind[user, time]])
    assert values == {1.0, 2.0, 4.0}
    unknown = prepare(path, *SMALL, "--weights", "cart=2", form="taobao", output="bad")
    assert unknown.code == 2 and "'cart' is no event type that is kept. Kept: pv" in unknown.err
    assert "--behavior pv,cart" in unknown.err


# schema and records of train, validation and test, before there were weights
DIGESTS = {
    "packed": ("0472745948", "de6dce7a0f8d2d4f", "3a29b3ddadc2104e", "1c1c4e61e57ebb3f"),
    "lists": ("98eaa7b8de", "60512adcc0d630f8", "cd2bf427e27c6ab7", "c01b01929b8240f8"),
}


@pytest.mark.parametrize("encoding", DIGESTS)
def test_unweighted_sequences_are_what_they_were(prepare, log, encoding):
    outcome = prepare(log, *SMALL, "--vectors", "none", "--encoding", encoding)
    schema, *records = DIGESTS[encoding]
    assert outcome.manifest["schema_digest"].startswith(schema)
    assert list(outcome.manifest["digests"]["records"].values()) == records
    assert "weight" not in outcome.manifest["counts"]["splits"]["train"]
    assert not outcome.sequences.schema.sample_weights
    assert all(record.weight is None for record in outcome.sequences.records("train"))


BY_TIME = ("--split", "by_time", "--validation_from", 1_700_001_000, "--test_from", 1_700_001_800)


def test_impressions(prepare, tmp_path):
    rows = make_rows()
    log = write_log(tmp_path, "csv", rows)
    random = np.random.default_rng(1)
    shown = [
        (f"u{user}", item, 1_700_000_050 + 100 * page, int(item == 3), random.integers(1, 9) / 4)
        for page in range(25)
        for user in range(6)
        for item in range(2, 5)
    ]
    weight = {(*row[:3],): row[4] for row in shown}
    path = tmp_path / "shown.csv"
    path.write_text(csv_text(shown, "user,item,time,label,p"))
    options = (*BY_TIME, "--impressions", path)
    outcome = prepare(log, *options, "--impressions_columns", "weight=p")
    assert outcome.code == 0, outcome.err
    raw = np.concatenate([[-1, -1], outcome.sequences.vocabulary("item")])
    count = 0
    for record in itertools.chain(*map(outcome.sequences.records, SPLITS)):
        times = np.repeat(record.request_time, record.target_length).tolist()
        items = raw[record.target["item"]].tolist()
        expected = [weight[record.user, item, time] for item, time in zip(items, times)]
        assert record.weight.tolist() == expected
        count += len(items)
    assert count > 300
    for more in (COLUMNS, ("--weights", "buy=2")):
        refused = prepare(log, *options, *more, output="bad")
        assert refused.code == 2 and "--impressions_columns weight=" in refused.err


def test_later_runs_keep_weights(prepare, tmp_path):
    rows = make_rows()
    half = len(rows) // 2
    paths = []
    for number, part in enumerate((rows[:half], rows[half:])):
        (tmp_path / f"day-{number}").mkdir()
        paths.append(write_log(tmp_path / f"day-{number}", "csv", part))
    options = (*SMALL, *COLUMNS, "--behavior", "pv,buy,cart")
    weights = ("--weights", "buy=4")
    first = prepare(paths[0], *options, *weights, "--keep_events", output="first")
    since = ("--since", first.output)
    later = prepare(paths[1], *options, *weights, *since, output="later", buckets=None)
    assert later.code == 0, later.err
    vocabulary = ("--vocabulary_from", later.output)
    whole = prepare(paths, *options, *weights, *vocabulary, output="whole")
    assert whole.code == 0, whole.err
    assert later.manifest["digests"]["records"] == whole.manifest["digests"]["records"]
    assert later.sequences.schema.sample_weights
    taken = prepare(paths[1], *since, output="taken", buckets=None)
    assert taken.manifest["digests"]["records"] == later.manifest["digests"]["records"]
    other = prepare(paths[1], *since, "--weights", "buy=3", output="bad", buckets=None)
    assert other.code == 2 and "weights {'buy': 4.0}, now {'buy': 3.0}" in other.err


@pytest.mark.parametrize(
    "options, words",
    [
        (("--weights", "buy=-1"), "a finite number from 0. Received: buy=-1"),
        (("--weights", "buy=inf"), "Received: buy=inf"),
        (("--weights", "buy=much"), "Received: buy=much"),
        (("--weights", "buy"), "name=value pairs. Received: 'buy'"),
        (("--weights", "buy=2", "--behavior", "pv,cart"), "'buy' is no event type that is kept"),
        (("--weights", "purchase=2"), "no row is of the type 'purchase'"),
        (("--weights", "buy=0", "pv=0", "cart=0"), "of the train split have a weight of 0"),
        (("--columns", "weight=v"), "missing columns: v"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_refused(prepare, tmp_path, options, words):
    outcome = prepare(write_log(tmp_path, "csv", make_rows()), *SMALL, *options)
    assert outcome.code == 2 and words in outcome.err, outcome.err
