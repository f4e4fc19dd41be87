"""Statistics of sequences: equal to a plain count, whatever the shards."""

import json
import re

import numpy as np
import pytest

from beam_jobs.reports.describe import divergence
from beam_jobs.statistics import main
from tests.folders import MULTI_HOT, SIZES, make_splits, write_folder


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=4, users=25, multi_hot=MULTI_HOT)


@pytest.fixture(scope="module")
def folder(splits, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("s") / "now", splits, shards=3, multi_hot=MULTI_HOT)


def run(folder, output, *more):
    return main(["--sequences", str(folder), "--output", str(output), *map(str, more)])


def plainly(records):
    """Counts totals, and by feature behaviors and repeats, one by one."""
    totals = dict.fromkeys(("users", "behaviors", "requests", "candidates", "positives"), 0)
    lengths, behaviors, repeats = [], {}, {}
    for record in records:
        totals["users"] += 1
        totals["behaviors"] += len(record.history["item"])
        at = 0
        for position, size in zip(record.position.tolist(), record.target_length.tolist()):
            totals["requests"] += 1
            lengths.append(position)
            for candidate in range(at, at + size):
                totals["candidates"] += 1
                if not record.label[candidate]:
                    continue
                totals["positives"] += 1
                for name in SIZES:
                    value = record.target[name][candidate]
                    seen = value > 1 and value in record.history[name][:position]
                    repeats[name] = repeats.get(name, 0) + int(seen)
            at += size
        for name, rows in record.history.items():
            for row in rows.tolist():
                if row:
                    behaviors.setdefault(name, {}).setdefault(row, 0)
                    behaviors[name][row] += 1
    return totals, lengths, behaviors, repeats


def test_equals_a_plain_count(folder, splits, tmp_path):
    assert run(folder.path, tmp_path / "out") == 0
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())["now"]
    for split, records in splits.items():
        totals, lengths, behaviors, repeats = plainly(records)
        facts = statistics[split]
        assert facts["totals"] == totals
        assert facts["history_length"]["mean"] == pytest.approx(np.mean(lengths))
        assert (
            facts["history_length"]["quantiles"]["0.5"]
            == sorted(lengths)[-(-len(lengths) // 2) - 1]
        )
        assert facts["history_length"]["quantiles"]["1"] == max(lengths)
        assert sum(count for _, count in facts["history_length"]["histogram"]) == len(lengths)
        between = sum(len(record.history_time) - 1 for record in records)
        assert sum(count for _, count in facts["time_between_behaviors"]) == between
        for name in (*SIZES, "tags"):
            of_feature, counts = facts["features"][name], behaviors[name]
            ids = folder.vocabulary(name)
            expected = sorted(((-n, ids[row - 2]) for row, n in counts.items() if row > 1))[:20]
            assert of_feature["top"] == [[raw, -n] for n, raw in expected]
            assert of_feature["ids_seen"] == sum(row > 1 for row in counts)
            assert of_feature["out_of_vocabulary"] == pytest.approx(
                counts.get(1, 0) / sum(counts.values())
            )
        for name in SIZES:
            rate = facts["features"][name]["repeat_rate"]
            assert rate == pytest.approx(repeats[name] / totals["positives"])
        assert "repeat_rate" not in facts["features"]["tags"]


def test_shards_change_nothing(folder, splits, tmp_path):
    single = write_folder(tmp_path / "one", splits, shards=1, multi_hot=MULTI_HOT)
    assert run(folder.path, tmp_path / "a") == run(single.path, tmp_path / "b") == 0
    names = ("statistics.json", "statistics.html")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"_SUCCESS", *names}


def test_drift(folder, tmp_path, capsys):
    grown = write_folder(
        tmp_path / "grown", make_splits(seed=5, users=25), sizes={"item": 40, "category": 7}
    )
    assert run(grown.path, tmp_path / "out", "--before", folder.path) == 0
    assert "drift       item: divergence" in capsys.readouterr().out
    drift = json.loads((tmp_path / "out" / "statistics.json").read_text())["drift"]
    assert set(drift["features"]) == {"item", "category"}  # what both have
    assert drift["features"]["item"]["new_ids"] == 10
    assert drift["features"]["item"]["gone_ids"] == 0
    assert 0 < drift["features"]["item"]["divergence"] < 0.3
    assert 0 < drift["history_length"] < 1
    page = (tmp_path / "out" / "statistics.html").read_text()
    assert page.count("<svg") == 6 and "now against before" in page
    assert not re.search(r"(src|href)=\"https?:", page)  # nothing from outside


def test_divergence():
    assert divergence([1, 2, 3], [10, 20, 30, 0]) == pytest.approx(0)
    assert divergence([1, 0], [0, 5]) == 1
    # (1/2, 1/2) and (1, 0): their middle is (3/4, 1/4)
    bits = (0.5 * np.log2(2 / 3) + 0.5 * np.log2(2) + np.log2(4 / 3)) / 2
    assert divergence([1, 1], [1, 0]) == pytest.approx(bits)
    assert divergence([0], [1]) is None


def test_invalid_folders_and_options_are_refused(folder, splits, tmp_path, capsys):
    assert run(tmp_path / "none", tmp_path / "out") == 2
    assert "none" in capsys.readouterr().err
    write_folder(tmp_path / "unfinished", splits, finished=False, multi_hot=MULTI_HOT)
    assert run(tmp_path / "unfinished", tmp_path / "out") == 2
    assert "_SUCCESS" in capsys.readouterr().err
    assert run(folder.path, tmp_path / "out", "--wrong", 1) == 2
    assert "Neither an option of this job nor of Beam: --wrong 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(folder.path, tmp_path / "out") == 0 and run(folder.path, tmp_path / "out") == 2
    assert "exists. Give --overwrite to replace it" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("python -m beam_jobs.statistics --sequences")
