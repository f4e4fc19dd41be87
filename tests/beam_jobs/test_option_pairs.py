"""Every pair of values of two options, on a small log: each run succeeds, and its counts add up."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BY_TIME = ("--split", "by_time", "--validation_from", "1700000300", "--test_from", "1700000400")
CHOICES = {
    "format": ("csv", "parquet"),
    "split": (
        ("--split", "last_fraction", "--train_start", "2", "--min_test", "2"),
        ("--split", "leave_last", "--train_targets", "5"),
        BY_TIME,
        (*BY_TIME, "--impressions"),
    ),
    "earlier": (None, "--vocabulary_from", "--since"),
    "tags": ((), ("--multi_hot", "tags=4")),
    "context": ((), ("--context", "hour=hour_of_day", "city=city", "--numeric", "price=price")),
    "time_gap": ((), ("--time_gap", "60")),
    "negatives": ((), ("--negatives", "0"), ("--negatives", "3", "--negative_alpha", "0")),
    "negatives_from": ("catalog", "category", "session"),
    "clock": ((), ("--coarse_clock",)),
    "sizes": ((), ("--max_size", "item=6", "--min_count", "2"), ("--hash_buckets", "item=20")),
    "vectors": (("--vectors", "none"), ("--vectors", "item=4", "--gap", "100")),
    "files": ((), ("--encoding", "lists", "--shard_bytes", "500", "--compression", "gzip")),
    "rows": ((), ("--duplicates", "keep", "--max_events", "20", "--chunk_bytes", "500")),
    "behavior": ((), ("--behavior", "pv,buy")),
    "window": ((), ("--window", "3", "--max_candidates", "2")),
    "weight": (None, "price"),
    "text_ids": ((), ("--text_ids", "item")),
}


def pairs_of(row):
    return set(itertools.combinations(enumerate(row), 2))


def cover_pairs(levels):
    """Chooses rows of levels, so that every pair of levels of two factors is in one of them."""
    left = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(range(len(levels)), 2)
        for x in range(levels[a])
        for y in range(levels[b])
    }
    rows = []
    while left:
        row = dict(min(left))
        for factor in range(len(levels)):
            if factor not in row:
                row[factor] = max(
                    range(levels[factor]),
                    key=lambda level, factor=factor: sum(
                        tuple(sorted(((factor, level), other))) in left for other in row.items()
                    ),
                )
        rows.append([row[factor] for factor in range(len(levels))])
        left -= pairs_of(rows[-1])
    return rows


ROWS = [
    dict(zip(CHOICES, map(tuple.__getitem__, CHOICES.values(), row)))
    for row in cover_pairs([len(values) for values in CHOICES.values()])
]


def test_all_pairs_are_there():
    indices = [[CHOICES[name].index(row[name]) for name in CHOICES] for row in ROWS]
    covered = set().union(*map(pairs_of, indices))
    counts = [len(values) for values in CHOICES.values()]
    assert len(covered) == sum(a * b for a, b in itertools.combinations(counts, 2))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Writes a log and impressions in every format."""
    folder, random = tmp_path_factory.mktemp("logs"), np.random.default_rng(0)

    def rows(count, **more):
        for _ in range(count):
            item = int(random.zipf(1.4)) % 30
            tags = [item % 7, 20 + item % 3, 30][: item % 4]
            place = {"city": item % 2, "price": item / 4, "tags": tags, "category": item % 4}
            time = 1_700_000_000 + int(random.integers(500))
            row = {"user": f"u{random.integers(8)}", "item": item, "time": time, **place}
            yield row | {
                name: values[int(random.integers(len(values)))] for name, values in more.items()
            }

    for name, records in {
        "log": list(rows(200, behavior=["pv", "buy"])),
        "shown": list(rows(60, label=[0, 1])),
    }.items():
        text = [
            {
                key: "|".join(map(str, value)) if key == "tags" else value
                for key, value in record.items()
            }
            for record in records
        ]
        lines = [",".join(text[0]), *(",".join(map(str, record.values())) for record in text)]
        (folder / f"{name}.csv").write_text("\n".join(lines))
        pq.write_table(pa.Table.from_pylist(records), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("row", ROWS, ids=map(str, range(len(ROWS))))
def test_pairs_of_options(prepare, logs, row):
    form, tags = row["format"], "tags=tags" if row["tags"] else "item=item"
    weight = f",weight={row['weight']}" if row["weight"] else ""
    shown = "--impressions" in row["split"]
    columns = tags + ("" if shown else weight)
    options = [*row["split"], "--min_events", "4", "--columns", columns]
    if shown:
        index = options.index("--impressions") + 1
        options[index:index] = [
            logs / f"shown.{form}",
            "--impressions_columns",
            f"{tags},category=category{weight}",
        ]
    options += ["--negatives_from", row["negatives_from"]]
    for values in list(row.values())[3:]:
        options += values if isinstance(values, tuple) else ()
    path = logs / f"log.{form}"
    outcome = prepare(path, *options, "--keep_events", form=form)
    assert outcome.code == 0, outcome.err
    if row["earlier"]:
        more = [*options, row["earlier"], outcome.output]
        buckets = None if row["earlier"] == "--since" else "2"
        outcome = prepare(path, *more, form=form, output="later", buckets=buckets)
        assert outcome.code == 0, outcome.err
    splits = outcome.manifest["counts"]["splits"]
    read = {name: list(outcome.sequences.records(name)) for name in splits}
    assert {name: len(part) for name, part in read.items()} == {
        name: part["users"] for name, part in splits.items()
    }
    for record in itertools.chain(*read.values()):
        assert (record.weight is not None) == bool(row["weight"])
        assert (
            set(record.history)
            == set(record.target)
            == {"item", "category", *({"tags"} if row["tags"] else ())}
        )
