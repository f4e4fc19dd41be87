"""``tfdare query`` on a folder of sequences and a running server."""

import json
import shutil

import numpy as np
import pytest

from serving.client import Client, one_request
from serving.client.lookup import UnknownUser, candidates, newest_request
from serving.tools.query import main
from tfdare.sequences import open_sequences
from tfdare.sequences.raw_ids import RawIds


@pytest.fixture
def ask(sequences, own_server, capsys):
    def run(*arguments, user=101, address=own_server.address):
        code = main(
            [
                "--address",
                address,
                "--sequences",
                str(sequences),
                "--user",
                str(user),
                *map(str, arguments),
            ]
        )
        return code, capsys.readouterr()

    return run


def test_help_starts_with_a_line_to_paste(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith("tfdare query --address localhost:8500 --model")


def test_newest_request_in_raw_ids(sequences, ids):
    items, _categories, category_of = ids
    opened = open_sequences(str(sequences))
    (record,) = [r for r in opened.records("test") if r.user == "101"]
    request = newest_request(opened, "test", "101", RawIds(opened))
    assert len(request.history["item"]) == 30  # the window, of the 45 behaviors before the request
    rows = record.history["item"][15:45]
    assert request.history["item"][rows == 1].tolist() == [-1]
    np.testing.assert_array_equal(request.history["item"][rows > 1], items[rows[rows > 1] - 2])
    np.testing.assert_array_equal(request.target["item"], items[record.target["item"][3:] - 2])
    np.testing.assert_array_equal(request.target["category"], category_of(request.target["item"]))
    assert request.label.tolist() == [1, 0, 0]


def test_rows_that_stand_for_no_single_id(sequences, ids):
    raw = RawIds(open_sequences(str(sequences)))
    assert raw.raw("item", [0, 1, 2, 301, 302]).tolist() == [-1, -1, ids[0][0], ids[0][-1], -1]
    assert raw.row("item", ids[0][3]) == 5 and raw.row("item", 5) is None


def test_tables(ask):
    code, said = ask("--top", 3)
    assert code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("User 101: 30 behaviors, 3 candidates; dare version 1 at localhost:")
    assert "Split (search, then score) and whole agree: largest difference" in lines[1]
    assert lines[3] == "Candidates by probability:"
    assert lines[4].split() == ["rank", "item", "category", "probability", "clicked"]
    chances = [float(line.split()[3]) for line in lines[5:8]]
    assert chances == sorted(chances, reverse=True)
    assert lines[9].startswith("Behaviors that search found for the best one, 3 of 4, position 1")
    assert lines[10].split() == ["position", "item", "category", "attention", "score"]
    assert len(lines) == 14


def test_json_equals_the_servers_answer(ask, sequences, own_server):
    code, said = ask("--json")
    assert code == 0
    answer = json.loads(said.out)
    opened = open_sequences(str(sequences))
    request = newest_request(opened, "test", "101", RawIds(opened))
    with Client(own_server.address) as client:
        expected = client.rank(one_request(request.history, request.target))
    best = int(expected.probability[0].argmax())
    first = answer["candidates"][0]
    assert first["item"] == request.target["item"][best]
    assert first["probability"] == pytest.approx(float(expected.probability[0, best]), abs=1e-6)
    assert answer["agree"] and answer["difference"] <= 1e-6
    score = expected.attention_score[0, best]
    behaviors = answer["behaviors"]
    scores = [behavior["attention_score"] for behavior in behaviors]
    np.testing.assert_allclose(scores, np.sort(score)[::-1], rtol=1e-5)
    for behavior in behaviors:
        assert request.history["item"][30 - behavior["position"]] == behavior["item"]
    assert sorted(30 - b["position"] for b in behaviors) == sorted(expected.behavior_index[0, best])


def test_given_candidates_take_their_features_from_the_sequences(ask, sequences, ids):
    items, _, category_of = ids
    opened = open_sequences(str(sequences))
    known = [int(items[record.history["item"][0] - 2]) for record in opened.records("train")]
    never = int(items[290])  # in the vocabulary, in no record
    raw_items = [*known, never, 5, known[0]]
    code, said = ask("--candidates", *raw_items, "--json", "--top", 9)
    assert code == 0, said.err
    rows = json.loads(said.out)["candidates"]
    categories = {row["item"]: row["category"] for row in rows}
    assert len(rows) == len(raw_items) and "clicked" not in rows[0]
    assert categories[never] == -1 and categories[5] == -1
    assert all(categories[item] == category_of(item) for item in known)
    features = candidates(opened, "test", [], RawIds(opened))
    assert {name: len(values) for name, values in features.items()} == {"item": 0, "category": 0}


def test_unknown_user(ask, sequences):
    code, said = ask(user=999)
    assert code == 2
    assert "No user '999' in split 'test'" in said.err
    assert "Users there: 100, 101, 102, 103\n" in said.err
    assert "..." not in said.err
    opened = open_sequences(str(sequences))
    with pytest.raises(UnknownUser, match=r"Users there: 100, 101, \.\.\."):
        newest_request(opened, "train", "x", RawIds(opened), examples=2)


def test_a_user_without_history(ask):
    code, said = ask(user=103)
    assert code == 0, said.err
    assert said.out.startswith("User 103: 0 behaviors, 3 candidates")
    assert "none: the history is empty" in said.out


def test_halves_that_do_not_agree_are_reported(ask, monkeypatch):
    monkeypatch.setattr("serving.tools.query.TOLERANCE", -1.0)  # nothing agrees
    code, said = ask()
    assert code == 1 and "whole DO NOT agree" in said.out
    assert "do not agree" in said.err


def test_no_server_is_an_error(ask):
    code, said = ask("--timeout", "2", address="localhost:1")
    assert code == 2
    assert "No server answers at localhost:1" in said.err and "tfdare serve" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "nobody"], "NOT_FOUND"),
        (["--split_name", "holdout"], "`split` must be one of"),
        (["--split_name", "validation"], "No TFRecord files"),
    ],
)
def test_unknown_models_and_splits_are_refused(ask, arguments, message):
    code, said = ask(*arguments)
    assert code == 2 and message in said.err


def test_no_sequences_there(sequences, tmp_path, capsys):
    arguments = ["--user", "1", "--sequences"]
    assert main([*arguments, str(tmp_path / "none")]) == 2
    shutil.copytree(sequences, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "_SUCCESS").unlink()
    assert main([*arguments, str(tmp_path / "unfinished")]) == 2
    said = capsys.readouterr().err
    assert "No folder of sequences" in said and "has no _SUCCESS" in said
