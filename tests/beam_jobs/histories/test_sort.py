"""The pipeline's transforms on a few literal rows: read, sort, learn, build requests, write."""

import json

import numpy as np
import pyarrow as pa
import pytest
from apache_beam import Create, FlatMap, Map, Pipeline
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.histories.histories import Histories
from beam_jobs.histories.sort import DUPLICATE, HISTORIES, SortHistories
from beam_jobs.histories.splits import LastFraction, LeaveLast
from beam_jobs.output.write import WriteRejected, WriteSequences, records_digest
from beam_jobs.reading.events import EVENTS, LINES, REJECTED, ReadEvents, RejectedRows, pack_order
from beam_jobs.reading.formats import make_format
from beam_jobs.reading.inputs import find_files, plan
from beam_jobs.reading.rows import Events, Rejected
from beam_jobs.requests.build import RECORDS, BuildRequests, Shard
from beam_jobs.requests.negatives import Sampling
from beam_jobs.shared.storage import open_file, write_file
from beam_jobs.vocabulary.catalog import Catalog
from beam_jobs.vocabulary.learn import LearnVocabularies
from tfdare.sequences.record import decode, read_framed

FORM = make_format("csv", None, None)


def events(rows, chunk=0, first_line=1):
    """Makes Events from (user, item, category, time) rows."""
    users, items, categories, times = zip(*rows)
    columns = {"item": items, "category": categories, "time": times}
    return Events(
        pa.array(users),
        {name: np.array(values, np.int64) for name, values in columns.items()},
        pack_order(chunk, np.arange(first_line, first_line + len(rows))),
    )


def histories(users, bucket=0):
    """Makes Histories from a dict of user to (item, category, time) rows."""
    rows = [row for events in users.values() for row in events]
    item, category, time = (np.array(part, np.int64) for part in zip(*rows))
    order = np.arange(len(rows))
    columns = {"item": item, "category": category, "time": time, "order": order}
    length = np.array([len(events) for events in users.values()])
    return Histories(bucket, list(users), length, columns)


def plain(histories):
    """Converts Histories to tuples."""
    start = histories.start.tolist()
    for user, begin, length in zip(histories.users, start, histories.length.tolist()):
        yield (
            user,
            [
                tuple(int(histories.columns[name][i]) for name in ("item", "category", "time"))
                for i in range(begin, begin + length)
            ],
        )


def counter(result, name):
    counters = result.metrics().query(MetricsFilter().with_name(name))["counters"]
    return sum(entry.committed for entry in counters)


def run(pipeline):
    result = pipeline.run()
    result.wait_until_finish()
    return result


@pytest.fixture
def pipeline():
    return Pipeline("FnApiRunner")


def test_read_events_separates_bad_rows(pipeline, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("1,10,5,pv,100\n2,x,5,pv,100\n1,11,5,buy,101\n3,12,5,pv\n1,12,6,pv,99\n")
    form = make_format("taobao", None, None)
    chunks = plan(find_files([str(path)], form), form, 1 << 20)
    read = pipeline | Create(chunks) | ReadEvents(form, 1, 1 << 20)
    rows = read[EVENTS] | FlatMap(
        lambda pair: [
            (pair[0], *row)
            for row in zip(
                pair[1].user.to_pylist(),
                *(pair[1].columns[name].tolist() for name in ("item", "category", "time")),
                pair[1].line.tolist(),
            )
        ]
    )
    assert_that(rows, equal_to([(0, "1", 10, 5, 100, 1), (0, "1", 12, 6, 99, 5)]), "events")
    expected = RejectedRows(
        0,
        (
            Rejected(2, "item is not an integer", "2,x,5,pv,100"),
            Rejected(4, "4 columns instead of 5", "3,12,5,pv"),
        ),
    )
    assert_that(read[REJECTED], equal_to([expected]), "rejected")
    assert_that(read[LINES], equal_to([(0, 5)]), "lines")
    result = run(pipeline)
    assert counter(result, "rows_read") == 5
    assert counter(result, "rows_filtered") == 1
    assert counter(result, "rows_rejected/item is not an integer") == 1


def test_sort_histories_sorts_by_time_then_line_of_the_log(pipeline):
    later = events([("b", 1, 1, 5), ("a", 2, 1, 7)], chunk=1)
    earlier = events([("b", 3, 1, 9), ("b", 4, 1, 5), ("a", 5, 1, 7), ("c", 6, 1, 1)])
    outputs = pipeline | Create([(0, later), (0, earlier)]) | SortHistories(FORM, 2, 2, 1000, True)
    assert_that(
        outputs[HISTORIES] | FlatMap(plain),
        equal_to([("a", [(5, 1, 7), (2, 1, 7)]), ("b", [(4, 1, 5), (1, 1, 5), (3, 1, 9)])]),
        "histories",
    )
    assert_that(outputs[HISTORIES] | Map(lambda h: h.bucket), equal_to([0, 1]), "every bucket")
    result = run(pipeline)
    assert counter(result, "users_kept") == 2
    assert counter(result, "users_too_short") == 1
    assert counter(result, "events_too_short") == 1


@pytest.mark.parametrize("drop", [True, False])
def test_sort_histories_drops_rows_that_came_before(pipeline, drop):
    rows = [("a", 1, 1, 5), ("a", 2, 1, 5), ("a", 1, 1, 5), ("a", 1, 2, 5), ("a", 1, 1, 6)]
    outputs = pipeline | Create([(0, events(rows))]) | SortHistories(FORM, 1, 1, 1000, drop)
    kept = [row[1:] for row in rows if drop is False] or [row[1:] for row in rows[:2] + rows[3:]]
    assert_that(outputs[HISTORIES] | FlatMap(plain), equal_to([("a", kept)]), "histories")
    again = RejectedRows(0, (Rejected(3, DUPLICATE, "a,1,1,5"),))
    assert_that(outputs[REJECTED], equal_to([again] if drop else []), "rejected")
    run(pipeline)


def test_learn_vocabularies_counts_the_training_period_only(pipeline, tmp_path):
    # leave_last: the last two events of a user are held out
    first = histories({"a": [(7, 1, 1), (8, 2, 2), (9, 9, 3), (10, 9, 4)]})
    second = histories(
        {"b": [(8, 3, 1), (8, 2, 5), (5, 1, 6), (6, 1, 7)], "c": [(5, 1, 0), (5, 1, 1), (5, 1, 2)]}
    )
    learned = (
        pipeline
        | Create([first, second])
        | LearnVocabularies(FORM, LeaveLast(), 1, 2, str(tmp_path))
    )
    assert_that(learned | Map(lambda facts: facts["events"]), equal_to([5]))
    run(pipeline)
    # item 8 came with category 3 first (time 1), so that all its 3 events count for category 3
    assert (tmp_path / "vocabulary/item.tsv").read_text() == "8\t3\n5\t1\n7\t1\n"
    assert (tmp_path / "vocabulary/category.tsv").read_text() == "3\t3\n1\t2\n"
    with open_file(str(tmp_path / "catalog.arrow")) as file:
        catalog = Catalog.load(file)
    assert catalog.others["category"].tolist() == [3, 1, 1]


def test_min_count_leaves_rare_ids_out_of_the_vocabulary_not_of_the_catalog():
    catalog = Catalog(
        ("item", "category"),
        np.array([8, 5, 7]),
        np.array([3, 1, 1]),
        {"category": np.array([3, 1, 1])},
        min_count=2,
    )
    assert catalog.vocabularies["item"].text() == b"8\t3\n"
    assert catalog.vocabularies["category"].text() == b"3\t3\n1\t2\n"
    assert catalog.item_rows["item"].tolist() == [2, 1, 1]
    assert catalog.item_rows["category"].tolist() == [2, 3, 3]
    assert catalog.weights(1).tolist() == [3, 1, 1]
    index, rows = catalog.rows({"item": np.array([7, 99, 8]), "category": np.array([9, 1, 1])})
    assert index.tolist() == [2, -1, 0]
    # known items have their own category, unknown ones the event's
    assert rows["category"].tolist() == [3, 3, 2]


def test_build_requests_cuts_records(pipeline, tmp_path):
    catalog = Catalog(
        ("item", "category"),
        np.arange(20),
        np.arange(20, 0, -1),
        {"category": np.arange(20) % 3},
    )
    write_file(str(tmp_path / "catalog.arrow"), catalog.save)
    learned = pipeline | "Learned" >> Create(
        [{"catalog": str(tmp_path / "catalog.arrow"), "context": {}, "given": {}, "hashed": {}}]
    )
    users = {"a": [(t % 4, 9, t) for t in range(12)], "b": [(99, 1, t) for t in range(9)]}
    built = (
        pipeline
        | Create([histories(users, bucket=3)])
        | BuildRequests(learned, FORM, LastFraction(0.1, 3, 30, 2, 3), Sampling(2, 1))
    )

    def check(shards):
        records = {}
        for shard in shards:
            assert shard.number == 3
            for data in shard.records:
                record = decode(data, ("item", "category"))
                records[record.user, shard.split] = record
        assert len(records) == 6
        test = records["a", "test"]
        assert test.position.tolist() == [9, 10, 11]
        assert test.history["item"].tolist() == [2 + t % 4 for t in range(11)]  # no future
        assert test.history_time.tolist() == list(range(11))
        assert test.request_time.tolist() == [9, 10, 11] and test.context == {}
        assert test.target_length.tolist() == [3, 3, 3]
        assert test.label.tolist() == [1, 0, 0] * 3
        assert test.target["item"][::3].tolist() == [2 + t % 4 for t in (9, 10, 11)]
        negatives = np.delete(test.target["item"], [0, 3, 6])
        assert not set(negatives.tolist()) & {2, 3, 4, 5}
        # every candidate carries its item's own category
        rows = catalog.item_rows
        own = dict(zip(rows["item"].tolist(), rows["category"].tolist()))
        assert [own[i] for i in test.target["item"].tolist()] == test.target["category"].tolist()
        assert records["a", "validation"].position.tolist() == [8]
        assert records["a", "train"].position.tolist() == [2, 5]
        assert len(records["a", "train"].history_time) == 5
        assert set(records["b", "test"].history["item"].tolist()) == {1}  # out of vocabulary
        assert set(records["b", "test"].history["category"].tolist()) == {int(rows["category"][1])}

    assert_that(built[RECORDS], check)
    result = run(pipeline)
    assert counter(result, "test/requests") == 6
    assert counter(result, "test/requests_short_of_negatives") == 0


def test_missing_features_are_out_of_vocabulary():
    catalog = Catalog(
        ("item", "brand"), np.array([1, 2]), np.array([3, 2]), {"brand": np.array([-1, 4])}
    )
    assert catalog.vocabularies["brand"].text() == b"4\t2\n"
    _, rows = catalog.rows({"item": np.array([1, 2, 3]), "brand": np.array([-1, -1, -1])})
    assert rows["brand"].tolist() == [1, 2, 1]


def test_write_sequences_frames_records(pipeline, tmp_path):
    shards = [Shard("train", 0, [b"one", b"two"]), Shard("train", 1, [])]
    tally = pipeline | Create(shards) | WriteSequences(str(tmp_path), 2)
    total = records_digest([b"two", b"one"])
    expected = [{"digest/train": total, "train/bytes": 38}, {"digest/train": 0, "train/bytes": 0}]
    assert_that(tally, equal_to(expected))
    run(pipeline)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["part-00000-of-00002.tfrecord", "part-00001-of-00002.tfrecord"]
    with open(tmp_path / "train" / names[0], "rb") as file:
        assert list(read_framed(file)) == [b"one", b"two"]


def test_write_rejected_counts_lines_over_chunks(pipeline, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("1,1,1,pv,1\n" * 10)
    form = make_format("taobao", None, None)
    chunks = plan(find_files([str(path)], form), form, 40)
    assert len(chunks) == 3
    lines = pipeline | "Lines" >> Create([(2, 2), (0, 4), (1, 4)])
    rows = [RejectedRows(2, (Rejected(2, "r", "x"),)), RejectedRows(1, (Rejected(1, "r", "y"),))]
    pipeline | Create(rows) | WriteRejected(str(tmp_path), chunks, lines)
    run(pipeline)
    rejected = [
        json.loads(line)
        for path in sorted((tmp_path / "rejected").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [(row["line"], row["row"]) for row in rejected] == [(5, "y"), (10, "x")]
