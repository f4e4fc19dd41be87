"""A short soak test: a server under load while versions are swapped, one of them broken."""

import json

import pytest

from serving.tools.soak import Memory, main


def test_a_short_soak_loses_nothing(
    model_base, sequences, tmp_path, capsys, environment, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    # Memory is judged over minutes: here only that it is measured. A fifth of the capacity, as
    # other tests may take the machine from this one.
    code = main(
        [
            "--servable",
            str(model_base / "1"),
            "--sequences",
            str(sequences),
            "--seconds",
            "20",
            "--share",
            "0.2",
            "--growth",
            "1e9",
            "--output",
            str(tmp_path / "soak"),
        ]
    )
    said = capsys.readouterr()
    assert code == 0, said
    report = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert report["failed"] == {} and report["wrong_answers"] == 0
    assert report["calls"] == sum(report["answers_by_version"].values()) > 50
    assert list(report["answers_by_version"]) == ["1", "2", "3", "5"]  # 4 is the broken one
    assert [e["broken"] for e in report["published"]] == [False, False, True, False]
    assert set(report["garbage"]) <= {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
        "INTERNAL",
    }
    assert len(report["garbage"]) >= 3
    assert report["memory_mib"]["last"] > 50
    assert "failed: none; wrong answers: 0" in said.out


def test_the_slope_of_memory_ignores_a_peak():
    memory = Memory(None, 1)
    memory.seconds = [float(s) for s in range(120)]
    memory.mib = [500.0 + (200 if 80 <= s < 95 else 0) for s in range(120)]
    assert memory.slope() == pytest.approx(0, abs=0.1)
    memory.mib = [500.0 + 0.5 * s + (200 if 80 <= s < 95 else 0) for s in range(120)]
    assert memory.slope() == pytest.approx(30, rel=0.3)


def test_a_server_that_does_not_start_is_explained(sequences, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code = main(["--servable", str(tmp_path / "empty"), "--sequences", str(sequences)])
    assert code == 2
    assert "does not start" in capsys.readouterr().err
