"""``tfdare inspect``: what is in a folder, and a user's requests, in the ids of the log."""

import json

import numpy as np
import pytest

from beam_jobs.build_sequences import main as prepare
from tests.beam_jobs.conftest import SMALL, csv_text
from tests.folders import (
    CONTEXT,
    MULTI_HOT,
    SIZES,
    TIME_GAP,
    WINDOW,
    make_splits,
    plain_requests,
    write_folder,
)
from tfdare.commands.inspect import main
from tfdare.schema import FIRST_ID


@pytest.fixture(scope="module")
def splits():
    return make_splits(multi_hot=MULTI_HOT, context=CONTEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    return write_folder(
        tmp_path_factory.mktemp("sequences"),
        splits,
        multi_hot=MULTI_HOT,
        context=CONTEXT,
        time_gap=TIME_GAP,
        hashed=("category",),
    ).path


@pytest.fixture
def inspect(folder, capsys):
    def run(*options, code=0):
        assert main(["--sequences", folder, *map(str, options)]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def raw(row):
    """Returns the raw id of a row of `write_folder`; None if it is out of vocabulary."""
    return 1000 + 7 * (row - FIRST_ID) if row >= FIRST_ID else None


def raws(rows):
    return [raw(row) for row in rows if row]


def test_what_a_folder_holds(inspect, folder):
    content = json.loads(inspect("--json", "--top", 3))
    assert [part["ids"] for part in content["features"]] == [SIZES["item"] - 2, None, 7]
    assert content["features"][1]["hash_buckets"] == SIZES["category"] - 2
    assert content["context"][2] == {"name": "price", "mean": 10.0, "deviation": 4.0}
    assert content["vocabularies"]["item"] == [
        {"id": 1000 + 7 * row, "events": SIZES["item"] - row} for row in range(3)
    ]
    manifest = json.loads(open(f"{folder}/manifest.json").read())
    for split, counts in content["splits"].items():
        assert counts.items() <= manifest["counts"]["splits"][split].items()
    lines = [line.split() for line in inspect("--top", 2).splitlines()]
    assert ["item", "behavior", "28", "int64", "1"] in lines
    assert ["category", "behavior", "hashed", "to", "5", "rows", "int64", "1"] in lines
    assert ["price", "10", "4"] in lines
    assert [line[1] for line in lines if line[:1] == ["item"] and len(line) == 3] == [
        "1000",
        "1007",
        "16",  # numbers of its vector
    ]


def test_requests_of_a_user_in_raw_ids(inspect, splits):
    record = max(splits["test"], key=lambda record: len(record.position))
    content = json.loads(inspect("--json", "--user", record.user))
    assert [row["item"] for row in content["behaviors"]] == list(map(raw, record.history["item"]))
    assert [row["time"] for row in content["behaviors"]] == record.history_time.tolist()
    expected = plain_requests([record], ("item",), multi_hot=MULTI_HOT, context=CONTEXT)
    assert len(content["requests"]) == len(expected) > 1
    for number, (request, plain) in enumerate(zip(content["requests"], expected)):
        size = plain["target_length"]
        assert request["time"] == record.request_time[number]
        assert [row["item"] for row in request["candidates"]] == raws(plain["target_item"])
        assert [row["tags"] for row in request["candidates"]] == [
            raws(tags) for tags in plain["target_tags"][:size]
        ]
        assert [row["clicked"] for row in request["candidates"]] == [
            bool(label) for label in plain["label"][:size]
        ]
        assert request["context"]["hour"] == raw(plain["context_hour"])
        assert request["context"]["interests"] == raws(plain["context_interests"])
        assert request["context"]["price"] == plain["context_price"]
        alone = json.loads(inspect("--json", "--user", record.user, "--request", number))
        assert alone["requests"] == [request]
        history = plain["history_item"][: plain["history_length"]]
        assert [row["item"] for row in alone["behaviors"]] == list(map(raw, history))
        assert [row["position"] for row in alone["behaviors"]] == list(range(len(history), 0, -1))
        # a hashed feature has rows alone
        rows = plain_requests([record])[number]["target_category"][:size]
        assert [row["category"] for row in alone["requests"][0]["candidates"]] == rows


def test_tables_of_a_user(inspect, splits):
    record = max(splits["test"], key=lambda record: len(record.position))
    newest = raw(int(record.history["item"][-1]))
    lines = inspect("--user", record.user, "--top", 2).splitlines()
    head = next(n for n, line in enumerate(lines) if "category row" in line)
    position, time, item, *_ = lines[head + 1].split()
    assert (position, int(time), int(item)) == ("1", record.history_time[-1], newest)
    assert lines[head + 3] == ""  # two rows
    text = inspect("--user", record.user, "--request", 0)
    rows = text[text.index("Candidates") : text.index("Context")].splitlines()
    assert len(rows) == 3 + record.target_length[0] and "clicked" in rows[1]
    assert f"of the {record.position[0]} before" in text
    assert min(len(record.history_time), WINDOW) > 2


def test_times_have_the_unit_of_the_folder(tmp_path, splits, capsys):
    folder = write_folder(tmp_path, {"test": splits["test"]}, context=CONTEXT, multi_hot=MULTI_HOT)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text()) | {"options": {"time_unit": "milliseconds"}}
    path.write_text(json.dumps(manifest))
    record = next(record for record in splits["test"] if len(record.history_time))
    assert main(["--sequences", folder.path, "--user", record.user]) == 0
    time = np.datetime64(int(record.history_time[-1]), "ms")
    assert f"{time}Z" in capsys.readouterr().out


def test_a_log_with_text_ids_comes_back(tmp_path, capsys):
    rows = [(f"u{n % 3}", f"SKU-{n % 7}/é", n % 7 % 5, 1_709_856_000 + 60 * n) for n in range(60)]
    (tmp_path / "log.csv").write_text(csv_text(rows))
    arguments = ["--input", str(tmp_path / "log.csv"), "--output", str(tmp_path / "sequences")]
    assert prepare([*arguments, *SMALL, "--vectors", "none", "--max_short_fraction", "1"]) == 0
    folder = ["--sequences", str(tmp_path / "sequences")]
    capsys.readouterr()
    assert main([*folder, "--user", "u1", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    own = [row for row in rows if row[0] == "u1"]
    assert len(content["behaviors"]) >= len(own) - 3
    for behavior, (_, item, category, time) in zip(content["behaviors"], own):
        assert (behavior["item"], behavior["category"], behavior["time"]) == (item, category, time)
    for request in content["requests"]:
        item = own[request["history"]][1]
        assert [c["item"] for c in request["candidates"] if c["clicked"]] == [item]
    assert main([*folder, "--user", "u1"]) == 0
    newest = own[len(content["behaviors"]) - 1]
    time = np.datetime64(newest[3], "s")
    assert ["1", f"{time}Z", newest[1], str(newest[2])] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert main(folder) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["item", "behavior", "7", "string", "1"] in lines


def test_what_is_not_there_is_said(inspect):
    error = inspect("--user", "nobody", code=2)
    assert "No user 'nobody' in split 'test'" in error and "Users there: user-0, " in error
    assert "--split_name chooses another split" in error
    assert "--request needs --user" in inspect("--request", 1, code=2)
    assert "--request must be below" in inspect("--user", "user-1", "--request", 99, code=2)
