"""The mutual information job: equal to one process that reads the requests, for any shards."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from beam_jobs.mutual_information import main
from tests.folders import make_splits, plain_requests, write_folder
from tfdare.sequences.mutual_information import InterestCounts


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=6, users=60)


@pytest.fixture(scope="module")
def folder(splits, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("s") / "now", splits, shards=3, window=40)


def run(folder, output, *more):
    return main(["--sequences", str(folder), "--output", str(output), *map(str, more)])


def test_equals_a_single_process(folder, splits, tmp_path, capsys):
    edges = [1, 2, 3, 5, 8]
    assert (
        run(
            folder.path,
            tmp_path / "out",
            "--categories",
            4,
            "--min_count",
            3,
            "--position_edges",
            *edges,
        )
        == 0
    )
    assert "its own newest behavior tells" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "mutual_information.json").read_text())
    categories = [2, 3, 4, 5]  # the most frequent of the vocabulary file
    assert content["ids"] == folder.vocabulary("category")[:4].tolist()
    requests = plain_requests(splits["train"], window=40)
    expected = InterestCounts(categories, edges)
    expected.add(
        *(
            np.array([request[name] for request in requests])
            for name in (
                "history_category",
                "history_length",
                "target_category",
                "label",
                "weight",
            )
        )
    )
    assert content["counts"] == expected.to_dict()
    assert sum(content["counts"]["counts"]) > 100
    # a line of the table, counted by hand from the requests
    lines = list(csv.DictReader((tmp_path / "out" / "mutual_information.csv").open()))
    line = max(lines, key=lambda row: float(row["information"]))
    target, behavior = (
        int(np.flatnonzero(folder.vocabulary("category") == int(line[name]))[0]) + 2
        for name in ("target", "behavior")
    )
    pairs = []
    for request in requests:
        for candidate in range(request["target_length"]):
            if request["target_category"][candidate] != target:
                continue
            for position in range(int(line["first_position"]), int(line["last_position"]) + 1):
                if position <= request["history_length"]:
                    at = request["history_length"] - position
                    pairs.append(
                        (request["history_category"][at] == behavior, request["label"][candidate])
                    )
    x, y = zip(*pairs)
    assert sum(x) == int(line["observations"])
    assert float(line["information"]) == pytest.approx(mutual_info_score(x, y))
    image = (tmp_path / "out" / "mutual_information.png").read_bytes()
    assert image.startswith(b"\x89PNG") and len(image) > 10_000


def test_neither_shards_nor_runner_change_a_byte(folder, splits, tmp_path):
    single = write_folder(tmp_path / "one", splits, shards=1, window=40)
    assert run(folder.path, tmp_path / "a") == 0
    assert run(single.path, tmp_path / "b", "--runner=BundleBasedDirectRunner") == 0
    names = {"mutual_information.json", "mutual_information.csv", "mutual_information.png"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"_SUCCESS", *names}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--feature", "tags"], "Received: 'tags'; "),
        (["--split", "all"], "--split: invalid choice: 'all'"),
        (["--positions", 0], "--positions must be at least 1. Received: 0"),
        (["--position_edges", 2, 3], "must rise from 1. Received: [2, 3]"),
        (["--wrong", 1], "Neither an option of this job nor of Beam: --wrong 1"),
    ],
)
def test_invalid_options_are_refused(folder, tmp_path, capsys, more, words):
    assert run(folder.path, tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_starts_with_a_line_to_paste(capsys):
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("python -m beam_jobs.mutual_information --sequences")
