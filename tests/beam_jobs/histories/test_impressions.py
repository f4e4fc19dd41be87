"""Impressions joined with histories: a request holds only behaviors before it was shown."""

import functools
import json
import operator

import numpy as np
import pytest

from tests.beam_jobs.conftest import csv_text

VALIDATION, TEST = 140, 170
OPTIONS = (
    "--split",
    "by_time",
    "--validation_from",
    VALIDATION,
    "--test_from",
    TEST,
    "--min_events",
    4,
    "--window",
    10,
)
SPLITS = ("train", "validation", "test")


def make_logs(folder, seed=0):
    """Behaviors (user, item, category, time) and impressions (user, item, label, hour, price, time,
    page), both in no order."""
    random = np.random.default_rng(seed)
    behaviors = [
        (f"u{user}", int(random.zipf(1.5)) % 30 * 7, 0, int(random.integers(200)))
        for user in range(9)
        for _ in range(int(random.integers(2, 25)))
    ]
    behaviors = [(user, item, item % 4, time) for user, item, _, time in behaviors]
    impressions = []
    for user in range(11):  # two of them have no history
        for _ in range(int(random.integers(1, 9))):
            time, page = int(random.integers(200)), int(random.integers(3))
            for _ in range(int(random.integers(1, 6))):
                impressions.append(
                    (
                        f"u{user}",
                        int(random.integers(40)) * 7,
                        int(random.random() < 0.3),
                        user % 3,
                        0.5 * int(random.integers(9)),
                        time,
                        f"page-{page}",
                    )
                )
    random.shuffle(behaviors)
    random.shuffle(impressions)
    paths = folder / "log.csv", folder / "shown.csv"
    paths[0].write_text(csv_text(behaviors))
    paths[1].write_text(csv_text(impressions, "user,item,clicked,city,price,timestamp,page"))
    return *paths, behaviors, impressions


COLUMNS = (
    "--impressions_columns",
    "label=clicked,request=page",
    "--context",
    "city=city",
    "--numeric",
    "price=price",
)


def plain_requests(behaviors, impressions, coarse):
    """Computes the expected content of each request in a loop, by (user, time, page)."""
    unique = list(dict.fromkeys(behaviors))
    histories = {}
    for number, (user, item, category, time) in enumerate(unique):
        histories.setdefault(user, []).append((time, number, item, category))
    histories = {user: sorted(rows) for user, rows in histories.items() if len(rows) >= 4}
    requests = {}
    for user, item, label, city, price, time, page in impressions:
        if user not in histories:
            continue
        request = requests.setdefault(
            (user, time, page),
            {
                "items": [],
                "labels": [],
                "city": city,
                "price": price,
                "history": [
                    row[2]
                    for row in histories[user]
                    if row[0] < time or (coarse and row[0] == time)
                ],
            },
        )
        request["items"].append(item)
        request["labels"].append(label)
    return {key: request for key, request in requests.items() if request["history"]}


@pytest.mark.parametrize("clock", [(), ("--coarse_clock",)])
def test_equals_a_plain_join(prepare, tmp_path, clock):
    log, shown_log, behaviors, impressions = make_logs(tmp_path)
    outcome = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS, *clock)
    assert outcome.code == 0, outcome.err
    sequences = outcome.sequences
    raw = {
        name: np.concatenate([[-1, -1], sequences.vocabulary(name)])
        for name in ("item", "category", "city")
    }
    expected = plain_requests(behaviors, impressions, bool(clock))
    requests = 0
    for number, split in enumerate(SPLITS):
        wanted = [
            (key, request)
            for key, request in expected.items()
            if (key[1] >= VALIDATION) + (key[1] >= TEST) == number
        ]
        got = {}
        for record in sequences.records(split):
            assert (np.diff(record.position) >= 0).all()
            start = 0
            for index, size in enumerate(record.target_length.tolist()):
                stop = start + size
                items = [int(raw["item"][row]) for row in record.target["item"][start:stop]]
                categories = raw["category"][record.target["category"][start:stop]].tolist()
                for item, category in zip(items, categories):
                    # the catalog knows the category of what was a behavior in training
                    assert category in (item % 4, -1)
                known = record.history["item"][: record.position[index]]
                got.setdefault((record.user, int(record.request_time[index])), []).append(
                    (
                        sorted(zip(items, record.label[start:stop].tolist())),
                        [int(raw["item"][row]) for row in known],
                        int(raw["city"][record.context["city"][index]]),
                        float(record.context["price"][index]),
                    )
                )
                start = stop
        item_ids = set(raw["item"].tolist())
        plain = {}
        for (user, time, _), request in wanted:
            items = [item if item in item_ids else -1 for item in request["items"]]
            history = [item if item in item_ids else -1 for item in request["history"]]
            plain.setdefault((user, time), []).append(
                (sorted(zip(items, request["labels"])), history, request["city"], request["price"])
            )
        city_ids = set(raw["city"].tolist())
        for key, some in plain.items():
            some = [(*row[:2], row[2] if row[2] in city_ids else -1, row[3]) for row in some]
            assert sorted(got.pop(key)) == sorted(some), key
            requests += len(some)
        assert not got
    assert requests == len(expected) > 20
    check_counts(outcome.manifest, impressions)
    longest = max(len(request["items"]) for request in expected.values())
    assert sequences.schema.max_candidates == longest
    assert sequences.schema.split["impressions"] is True


def check_counts(manifest, impressions):
    counts = manifest["counts"]["impressions"]
    assert counts["read"] == len(impressions)
    assert counts["of_other_users"] > 0 and counts["kept"] > 0
    assert counts["read"] == counts["rejected"] + counts["cut"] + counts["of_other_users"] + (
        counts["without_history"] + counts["kept"]
    )
    splits = manifest["counts"]["splits"]
    assert counts["kept"] == sum(splits[split]["candidates"] for split in SPLITS)


def test_the_vocabulary_holds_what_was_shown_in_training(prepare, tmp_path):
    log, shown_log, behaviors, impressions = make_logs(tmp_path)
    outcome = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS)
    users = {}
    for user, *_ in dict.fromkeys(behaviors):
        users[user] = users.get(user, 0) + 1
    long = {user for user, count in users.items() if count >= 4}
    counts = {}
    for user, item, _, time in dict.fromkeys(behaviors):
        if user in long and time < VALIDATION:
            counts[item] = counts.get(item, 0) + 1
    for user, item, *_, time, _ in impressions:
        if user in long and time < VALIDATION:
            counts[item] = counts.get(item, 0) + 1
    expected = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    text = (outcome.output / "vocabulary" / "item.tsv").read_text()
    assert text == "".join(f"{item}\t{count}\n" for item, count in expected)


def test_runner_buckets_and_chunks_change_nothing(prepare, tmp_path):
    log, shown_log, _, _ = make_logs(tmp_path)
    first = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS)
    for name, more in {
        "bundles": ("--buckets", 7, "--runner", "BundleBasedDirectRunner"),
        "chunks": ("--buckets", 1, "--chunk_bytes", 211),
    }.items():
        other = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS, *more, output=name)
        assert other.manifest["digests"] == first.manifest["digests"], name
        assert other.manifest["counts"] == first.manifest["counts"], name


def test_a_wide_request_becomes_several(prepare, tmp_path):
    log, shown_log, _, impressions = make_logs(tmp_path)
    whole = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS)
    narrow = prepare(
        log, *OPTIONS, "--impressions", shown_log, *COLUMNS, "--max_candidates", 2, output="narrow"
    )
    assert narrow.sequences.schema.max_candidates == 2
    check_counts(narrow.manifest, impressions)
    for split in SPLITS:
        for wide, other in zip(whole.sequences.records(split), narrow.sequences.records(split)):
            for name in ("item", "category"):
                np.testing.assert_array_equal(wide.target[name], other.target[name])
                np.testing.assert_array_equal(wide.history[name], other.history[name])
            np.testing.assert_array_equal(wide.label, other.label)
            assert other.target_length.max() <= 2
            again = [
                [position] * -(-size // 2)
                for position, size in zip(wide.position.tolist(), wide.target_length.tolist())
            ]
            assert other.position.tolist() == functools.reduce(operator.iadd, again, [])


def test_bad_rows_are_kept_with_file_and_line(prepare, tmp_path):
    log, shown_log, _, _ = make_logs(tmp_path)
    lines = shown_log.read_text().splitlines()
    lines[3] = lines[3].replace(",0,", ",2,", 1).replace(",1,", ",2,", 1)
    lines[7] = "u1,x,1,1,1,5,page"
    shown_log.write_text("\n".join(lines) + "\n")
    outcome = prepare(log, *OPTIONS, "--impressions", shown_log, *COLUMNS, "--chunk_bytes", 400)
    assert outcome.code == 0, outcome.err
    rejected = [
        (row["file"], row["line"], row["reason"])
        for row in outcome.rejected
        if row["file"] == str(shown_log)
    ]
    assert rejected == [
        (str(shown_log), 4, "label is neither 0 nor 1"),
        (str(shown_log), 8, "item is not an integer"),
    ]
    strict = prepare(
        log,
        *OPTIONS,
        "--impressions",
        shown_log,
        *COLUMNS,
        "--max_rejected_fraction",
        0.001,
        "--duplicates",
        "keep",
        output="strict",
    )
    assert strict.code == 2 and "2 of" in strict.err and "rows of impressions were" in strict.err
    assert not strict.output.exists()


def test_lines_of_json_with_features_of_their_own(prepare, tmp_path):
    log, _shown, _, impressions = make_logs(tmp_path)
    records = [
        {"user": user, "item": item, "label": label, "time": time, "page": page, "kind": item % 4}
        for user, item, label, _, _, time, page in impressions
    ]
    path = tmp_path / "shown.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    outcome = prepare(
        log,
        *OPTIONS,
        "--impressions",
        path,
        "--impressions_format",
        "jsonl",
        "--impressions_columns",
        "request=page,category=kind",
    )
    assert outcome.code == 0, outcome.err
    raw = {
        name: np.concatenate([[-1, -1], outcome.sequences.vocabulary(name)])
        for name in ("item", "category")
    }
    pairs = [
        (int(raw["item"][item]), int(raw["category"][category]))
        for record in outcome.sequences.records("train")
        for item, category in zip(record.target["item"], record.target["category"])
    ]
    assert pairs and all(category == item % 4 for item, category in pairs)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--split", "last_fraction"), "needs --split by_time. Received: --split last_fraction"),
        (("--split", "by_time"), "needs --validation_from and a later --test_from"),
        ((*OPTIONS, "--impressions_format", "taobao"), "format: invalid choice: 'taobao'"),
        ((*OPTIONS, "--impressions_columns", "color=city"), "Received: 'color=city'"),
        ((*OPTIONS, "--impressions_columns", "label=nothing"), "missing columns: nothing"),
        ((*OPTIONS, "--max_candidates", 0), "--max_candidates must be at least 1. Received: 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(prepare, tmp_path, more, words):
    log, shown_log, _, _ = make_logs(tmp_path)
    refused = prepare(log, "--impressions", shown_log, *more)
    assert refused.code == 2 and words in refused.err, refused.err
    assert not refused.output.exists()


def test_by_time_without_impressions(prepare, tmp_path):
    log, _, _behaviors, _ = make_logs(tmp_path)
    outcome = prepare(log, *OPTIONS)
    assert outcome.code == 0, outcome.err
    for number, split in enumerate(SPLITS):
        for record in outcome.sequences.records(split):
            times = record.request_time
            assert (((times >= VALIDATION) + 0 + (times >= TEST)) == number).all()
            for position, time in zip(record.position.tolist(), times.tolist()):
                assert (record.history_time[:position] < time).all()
    refused = prepare(log, "--impressions_columns", "label=x", output="refused")
    assert refused.code == 2 and "needs --impressions" in refused.err
