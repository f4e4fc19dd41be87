"""Yesterday's sequences and today's events: the same as a full rebuild, byte for byte."""

import itertools

import numpy as np
import pytest

from beam_jobs.shared.vocabulary_file import Vocabulary
from tfdare.sequences import SPLITS

HEADER = "user,item,category,tags,city,price,time\n"
PLAIN = ["--split", "last_fraction", "--min_events", "30", "--window", "20", "--min_count", "2"]
RICH = [
    *PLAIN,
    "--columns",
    "tags=tags",
    "--multi_hot",
    "tags=2",
    "--context",
    "city=city",
    "hour=hour_of_day",
    "--numeric",
    "price=price",
    "--time_gap",
    "60",
]


def make_days(folder, seed=0, days=3):
    """Writes logs of some days: late and repeated events, users with few events, new items."""
    random = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        for user in range(14 + 2 * day):
            for _ in range(int(random.integers(8, 40))):
                item = int(random.zipf(1.4)) % (30 + 25 * day) + 1
                late = random.random() < 0.1  # some come a day after they happened
                time = 86_400 * (20_000 + max(day - late, 0)) + int(random.integers(86_400))
                tags = "|".join(map(str, [item % 5, item % 3 + 10][: int(random.integers(3))]))
                rows.append(
                    (day, f"{user},{item},{item % 6},{tags},{user % 4},{item * 0.25},{time}\n")
                )
        before = [row for number, row in rows if number < day]
        if before:  # and some come again
            rows += [(day, row) for row in random.choice(before, 15)]
        rows.append((day, f"{day},x,1,,1,1,1\n"))
    paths = []
    for day in range(days):
        paths.append(folder / f"day-{day}.csv")
        paths[-1].write_text(HEADER + "".join(row for number, row in rows if number == day))
    return paths


def same_bytes(first, other, *also):
    names = [
        path.relative_to(first.output)
        for part in (*SPLITS, "vocabulary")
        for path in sorted((first.output / part).iterdir())
    ]
    assert len(names) > 5
    for name in [*names, "schema.json", *also]:
        assert (first.output / name).read_bytes() == (other.output / name).read_bytes(), name


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        RICH,
        [*PLAIN, "--max_events", "40"],
        [*PLAIN, "--duplicates", "keep", "--max_size", "item=45"],
    ],
    ids=["plain", "rich", "capped", "repeats-kept"],
)
def test_day_by_day_equals_the_whole(prepare, tmp_path, options):
    days = make_days(tmp_path)
    first = prepare(days[0], *options, "--keep_events", output="day-0")
    assert first.code == 0, first.err
    runs = [first]
    for number in (1, 2):
        later = prepare(
            days[number],
            *options,
            "--since",
            str(runs[-1].output),
            output=f"day-{number}",
            buckets=None,
        )
        assert later.code == 0, later.err
        runs.append(later)
    whole = prepare(
        days, *options, "--vocabulary_from", str(runs[-1].output), "--keep_events", output="whole"
    )
    assert whole.code == 0, whole.err
    same_bytes(runs[-1], whole)
    counts = [run.manifest["counts"]["rows"] for run in runs]
    assert counts[2]["carried"] == counts[1]["kept"] and "carried" not in counts[0]
    assert counts[2]["kept"] == whole.manifest["counts"]["rows"]["kept"]
    for name in ("item", "category", "tags", "city")[: 4 if options is RICH else 2]:
        ids = [run.sequences.vocabulary(name) for run in runs]
        for before, after in itertools.pairwise(ids):  # an old id keeps its row
            np.testing.assert_array_equal(after[: len(before)], before)
    assert len(runs[2].sequences.vocabulary("item")) > len(runs[0].sequences.vocabulary("item"))
    if options is RICH:
        prices = [run.sequences.schema.context[-1] for run in runs]
        assert prices[0] == prices[1] == prices[2]
    if "--max_events" in options:
        return  # a row that is cut is not looked at: whether it repeats another is not told
    # what was refused today is told with today's file and line
    rejected = [row for run in runs for row in run.rejected]
    assert len(rejected) == len(whole.rejected)
    key = lambda row: (row["file"], row["line"], row["reason"], row["row"])
    assert sorted(map(key, rejected)) == sorted(map(key, whole.rejected))


def test_dates_of_a_split_by_time_move_from_day_to_day(prepare, tmp_path):
    days, runs = make_days(tmp_path), []
    for number, day in enumerate(days[1:], start=1):
        start = 86_400 * (20_000 + number)
        options = ["--split", "by_time", "--validation_from", f"{start}", "--test_from"]
        options += [f"{start + 43_200}", "--window", "20", "--keep_events"]
        output = f"moved-{number}"
        if runs:
            since = ["--since", str(runs[-1].output)]
            runs.append(prepare(day, *options, *since, output=output, buckets=None))
        else:
            runs.append(prepare(days[:2], *options, output=output))
        assert runs[-1].code == 0, runs[-1].err
    vocabularies = ["--vocabulary_from", str(runs[-1].output)]
    whole = prepare(days, *options, *vocabularies, output="whole")
    assert whole.code == 0, whole.err
    same_bytes(runs[-1], whole)


def test_frozen_vocabularies(prepare, tmp_path):
    days = make_days(tmp_path)
    first = prepare(days[0], *PLAIN, output="first")
    frozen = prepare(days[2], *PLAIN, "--vocabulary_from", str(first.output), output="frozen")
    assert frozen.code == 0, frozen.err
    for name in ("item", "category"):
        np.testing.assert_array_equal(
            frozen.sequences.vocabulary(name), first.sequences.vocabulary(name)
        )
    rows = np.concatenate([r.history["item"] for r in frozen.sequences.records("train")])
    assert (rows == 1).any() and rows.max() < frozen.sequences.schema.item.vocabulary_size


def test_a_vocabulary_is_extended():
    earlier = Vocabulary(np.array([7, 3, 9]), np.array([5, 4, 1]))
    now = Vocabulary(np.array([8, 3, 1, 7, 2]), np.array([6, 5, 3, 2, 1]))
    grown = now.extend(earlier, min_count=2, frozen=False)
    assert grown.text() == b"7\t2\n3\t5\n9\t0\n8\t6\n1\t3\n"
    assert grown.index(np.array([8, 9, 2])).tolist() == [3, 2, -1]
    assert now.extend(earlier, 2, frozen=True).text() == b"7\t2\n3\t5\n9\t0\n"


def test_a_vocabulary_of_limited_size(prepare, tmp_path):
    days = make_days(tmp_path)
    whole = prepare(days, *RICH, output="whole")
    few = prepare(days, *RICH, "--max_size", "item=9", "tags=3", "city=1", output="few")
    assert few.code == 0, few.err
    for name, most in {"item": 9, "tags": 3, "city": 1, "category": 6}.items():
        np.testing.assert_array_equal(
            few.sequences.vocabulary(name), whole.sequences.vocabulary(name)[:most]
        )
    assert few.sequences.schema.split["max_size"] == {"item": 9, "tags": 3, "city": 1}
    for option, words in [
        ("brand=3", "no feature 'brand' among item, category"),
        ("item=0", "must be name=ids, 1 or more. Received: item=0"),
        ("item", "must be name=value pairs"),
    ]:
        refused = prepare(days, *PLAIN, "--max_size", option, output="refused")
        assert refused.code == 2 and words in refused.err, refused.err


def test_outputs_that_since_cannot_extend_are_refused(prepare, tmp_path):
    (day,) = make_days(tmp_path, days=1)
    plain = prepare(day, *PLAIN, output="plain")
    kept = prepare(day, *PLAIN, "--keep_events", output="kept")
    for more, words in [
        (["--since", str(plain.output)], "kept no events: it was made without --keep_events"),
        (["--since", str(tmp_path / "none")], "is no finished folder of sequences"),
        (
            ["--since", str(kept.output), "--window", "10", "--min_events", "40"],
            "was made with other options: min_events 30, now 40",
        ),
        (["--since", str(kept.output), "--time_gap", "60"], "time_gap None, now 60"),
        (
            ["--since", str(kept.output), "--vocabulary_from", str(plain.output)],
            "leave --vocabulary_from out",
        ),
        (["--since", str(kept.output), "--buckets", "3"], "leave --buckets out"),
        (
            ["--vocabulary_from", str(plain.output), "--columns", "brand=tags"],
            "has no vocabulary of brand",
        ),
    ]:
        options = [*PLAIN, *more] if "--min_events" not in more else [*PLAIN[:2], *PLAIN[6:], *more]
        refused = prepare(day, *options, output="refused", buckets=None)
        assert refused.code == 2 and words in refused.err, refused.err
        assert not refused.output.exists()
