"""The wheel holds the three packages, installs, and works from another folder."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_packages_and_their_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {"tfdare", "beam_jobs", "serving"} < top
    assert not {"tests", "notebooks", "build"} & top
    assert {"serving/config/models.config", "serving/config/compose.yaml"} < set(names)
    modules = {
        str(p.relative_to(ROOT))
        for package in ("tfdare", "beam_jobs", "serving")
        for p in (ROOT / package).rglob("*.py")
    }
    assert modules <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_wheel_works_from_another_folder(wheel, tmp_path):
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        wheel,
    ]
    subprocess.run(install, check=True)
    program = (
        "import tfdare, beam_jobs, serving; from tfdare.cli import main;"
        "assert tfdare.__file__.startswith(__import__('sys').argv[1]), tfdare.__file__;"
        "main(['simulate', '--output', 'log.csv', '--users', '60', '--quiet']);"
        "main(['prepare', '--input', 'log.csv', '--format', 'taobao', '--output', 'sequences']);"
        "from tfdare.sequences import open_sequences;"
        "print(sum(1 for _ in open_sequences('sequences').records('test')), 'users')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        cwd=tmp_path,
        text=True,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ users", done.stdout)


def test_every_pin_satisfies_what_setup_declares():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins[pin.name.lower().replace("_", "-")] = str(pin.specifier).removeprefix("==")
    declared = [Requirement(text) for text in requires("tfdare")]
    assert len(declared) > 10
    for need in declared:
        version = pins[need.name.lower().replace("_", "-")]
        assert need.specifier.contains(version), f"{need} is pinned to {version}"
