"""Keeping the newest events of users who have more than a history may hold."""

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.histories.newest_events import NewestEvents, keep_newest
from beam_jobs.reading.rows import Events


def make_events(rows):
    """Makes Events from (user, time, line) rows."""
    users, times, lines = zip(*rows)
    columns = {"item": np.array(lines) % 7, "time": np.array(times)}
    return Events(pa.array(users, pa.string()), columns, np.array(lines))


def rows_of(parts):
    return sorted(
        (user, time, line)
        for part in parts
        for user, time, line in zip(
            part.user.to_pylist(), part.columns["time"].tolist(), part.line.tolist()
        )
    )


def newest(rows, most):
    """Selects the rows that should be left, in plain Python."""
    kept = []
    for user in {row[0] for row in rows}:
        kept += sorted(row for row in rows if row[0] == user)[-most:]
    return sorted(kept)


def test_keeps_each_users_newest():
    rows = [("a", 5, 1), ("b", 9, 2), ("a", 5, 3), ("a", 2, 4), ("a", 7, 5)]
    kept, cut = keep_newest([make_events(rows[:3]), make_events(rows[3:])], 2, repeats=True)
    assert rows_of(kept) == [("a", 5, 3), ("a", 7, 5), ("b", 9, 2)] and cut == 2
    assert all((part.columns["item"] == part.line % 7).all() for part in kept)
    few = [make_events(rows)]
    assert keep_newest(few, 4, repeats=True) == (few, 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_merging_does_not_matter(seed):
    random = np.random.default_rng(seed)
    rows = [
        (str(min(random.integers(8), 5)), int(random.integers(40)), line) for line in range(600)
    ]
    combiner = NewestEvents(most=25, repeats=True, rows=int(random.integers(1, 80)))
    parts = [rows[i : i + 13] for i in range(0, len(rows), 13)]
    random.shuffle(parts)
    gathered = [combiner.create_accumulator() for _ in range(4)]
    for part in parts:
        index = int(random.integers(4))
        gathered[index] = combiner.add_input(gathered[index], make_events(part))
    merged = combiner.merge_accumulators(
        [gathered[0], combiner.merge_accumulators(gathered[1:3]), gathered[3]]
    )
    output = combiner.extract_output(merged)
    assert rows_of(output.parts) == newest(rows, 25)
    assert output.cut == len(rows) - len(newest(rows, 25)) == len(rows) - output.rows


@pytest.mark.parametrize("seed", range(3))
def test_a_row_and_its_repeats_count_once(seed):
    random = np.random.default_rng(seed)
    rows = [
        ("u", int(random.integers(12)), 7 * int(random.integers(300)) + int(random.integers(3)))
        for _ in range(900)
    ]  # the item is the line modulo 7
    rows = [(user, time, line * 7 + random.integers(2)) for user, time, line in rows]
    lines = iter(np.argsort(np.argsort([row[2] for row in rows], kind="stable")))
    rows = [(user, time, 7 * int(next(lines)) + line % 7) for user, time, line in rows]
    combiner = NewestEvents(most=9, repeats=False, rows=int(random.integers(1, 200)))
    gathered = combiner.create_accumulator()
    random.shuffle(rows)
    for start in range(0, len(rows), 50):
        part = [(str(u), int(t), int(n)) for u, t, n in rows[start : start + 50]]
        gathered = combiner.add_input(gathered, make_events(part))
    left = rows_of(combiner.extract_output(gathered).parts)
    first = {}
    for _user, time, line in sorted(((u, int(t), int(n)) for u, t, n in rows), key=lambda r: r[2]):
        first.setdefault((time, line % 7), line)
    newest_times = sorted(first)[-9:]
    kept = {}
    for _, time, line in left:
        kept.setdefault((time, line % 7), []).append(line)
    assert len(kept) == 9 and len(left) <= 18
    for (time, item), some in kept.items():  # the first of each, which is the one that stays
        assert min(some) == first[time, item]
    assert sorted({time for time, _ in kept}) == sorted({time for time, _ in newest_times})


def test_a_bots_events_are_never_all_in_memory():
    combiner = NewestEvents(most=1000, repeats=True, rows=20_000)
    gathered, most = combiner.create_accumulator(), 0
    for start in range(0, 1_000_000, 5000):
        lines = np.arange(start, start + 5000)
        events = Events(pa.array(["bot"] * 5000), {"time": lines // 3, "item": lines}, lines)
        gathered = combiner.add_input(gathered, events)
        most = max(most, sum(len(part.line) for part in gathered.parts))
    output = combiner.extract_output(gathered)
    assert most <= 20_000 and output.cut == 999_000
    assert np.concatenate([part.line for part in output.parts]).tolist() == list(
        range(999_000, 1_000_000)
    )


def write(path, rows):
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return path


OPTIONS = [
    "--columns",
    "category=",
    "--split",
    "last_fraction",
    "--min_events",
    "30",
    "--window",
    "10",
]


def test_the_job_cuts_and_counts(prepare, tmp_path):
    random = np.random.default_rng(0)
    users = [0] * 800 + [1] * 50 + [2] * 45
    rows = [(user, int(random.integers(1, 60)), time) for time, user in enumerate(users)]
    random.shuffle(rows)
    cut = prepare(write(tmp_path / "log.csv", rows), *OPTIONS, "--max_events", "60")
    assert cut.code == 0, cut.err
    counts = cut.manifest["counts"]
    assert counts["rows"]["read"] == 895 and counts["rows"]["cut"] == 740
    assert counts["rows"]["kept"] == 155 and counts["events"]["longest_history"] == 60
    assert "740 rows older than the newest" in cut.out
    late = [row for row in rows if row[0] or row[2] >= 740]
    same = prepare(write(tmp_path / "late.csv", late), *OPTIONS, output="same")
    assert cut.manifest["digests"] == same.manifest["digests"]
    blocks = prepare(
        tmp_path / "log.csv",
        *OPTIONS,
        "--max_events",
        "60",
        "--chunk_bytes",
        "700",
        "--buckets",
        "1",
        output="blocks",
    )
    assert blocks.manifest["digests"] == cut.manifest["digests"]
    # what decides about the sequences is part of the schema
    assert cut.sequences.schema.split["max_events"] == 60
    assert "max_events" not in same.sequences.schema.split


def test_fewer_events_than_a_user_must_have(prepare, tmp_path):
    refused = prepare(write(tmp_path / "log.csv", [(1, 1, 1)]), *OPTIONS, "--max_events", "29")
    assert refused.code == 2 and "--max_events must be at least 30. Received: 29" in refused.err
