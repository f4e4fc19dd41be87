"""Every command and every program of the README runs as it stands there."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)( no-run)?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def environment():
    """Puts this environment's commands first in PATH."""
    binaries = str(pathlib.Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def test_the_model_of_the_readme_is_fitted_and_finds_the_planted_behavior():
    (program,) = [text for kind, skip, text in BLOCKS if kind == "python" and not skip]
    assert len(program.splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"AUC: 0\.9\d+.*\n(.*\n)*search found.*\[17 ", done.stdout), done.stdout


def test_programs_that_need_a_folder_compile():
    programs = [text for kind, skip, text in BLOCKS if kind == "python" and skip]
    assert programs
    for program in programs:
        compile(program, "README.md", "exec")


@pytest.fixture(scope="module")
def commands():
    """Extracts the commands from log to answer as one script."""
    (script,) = [text for kind, _, text in BLOCKS if kind == "sh" and "tfdare query" in text]
    return script


def test_from_a_log_to_an_answer(commands, tmp_path):
    script = commands.replace("8500", "18500")  # a port that nobody's server holds
    done = subprocess.run(
        ["bash", "-euc", f"trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{script}"],
        cwd=tmp_path,
        check=False,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "build/servables/dare/1/saved_model.pb").exists()
    assert "repeat counts alone" in done.stdout
    assert "Split (search, then score) and whole agree" in done.stdout, done.stdout
