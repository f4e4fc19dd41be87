"""The reference builds from READMEs and docstrings; a public name without a docstring stops it."""

import contextlib
import os
import re
import subprocess
import sys
from importlib import import_module, metadata

import pytest

from tests import reference_pages
from tests.reference_pages import PACKAGES, READMES, ROOT, load_packages, undocumented_names


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site; ``mkdocs.yml`` is strict, so a broken link fails."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_package_has_its_page(site):
    for name in PACKAGES:
        text = (site / "reference" / name / "index.html").read_text(encoding="utf-8")
        assert f"<code>{name}</code>" in text
    layers = (site / "reference" / "tfdare.layers" / "index.html").read_text(encoding="utf-8")
    assert 'id="tfdare.layers.TopKSearch"' in layers and "top_k" in layers
    for role in (":class:", ":func:", ":meth:"):
        assert role not in layers


def test_pages_link_to_each_other_and_to_files(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="beam_jobs/"' in text and 'href="notebooks/quick_start.ipynb"' in text
    assert (site / "notebooks/quick_start.ipynb").exists()


def test_a_public_name_without_a_docstring_is_named(tmp_path, monkeypatch):
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "__init__.py").write_text(
        'from rooms.door import Door, open_door\n\n__all__ = ["Door", "open_door"]\n'
    )
    (tmp_path / "rooms" / "door.py").write_text(
        'class Door:\n    """A door."""\n\n    def call(self):\n        pass\n\n'
        "    def shut(self):\n        pass\n\n    def _oil(self):\n        pass\n\n\n"
        "def open_door():\n    pass\n\n\ndef not_exported():\n    pass\n"
    )
    monkeypatch.setattr(reference_pages, "ROOT", tmp_path)
    monkeypatch.setattr(reference_pages, "PACKAGES", ["rooms"])
    assert undocumented_names(load_packages().values()) == [
        "rooms.door.Door.shut",
        "rooms.door.open_door",
    ]


@pytest.mark.parametrize("readme", READMES)
def test_commands_of_the_readmes_know_their_options(readme, capsys):
    """Finds every option of a ``tfdare COMMAND`` or a serving tool in that command's help."""
    entries = {entry.name: entry for entry in metadata.entry_points(group="tfdare.commands")}
    text = (ROOT / readme).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^(?:tfdare (\w+)|python -m (serving[\w.]+)) (.*)", text, re.MULTILINE)
    for command, module, arguments in commands:
        main = entries[command].load() if command else import_module(module).main
        with contextlib.suppress(SystemExit):
            main(["--help"])
        help_text = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--\w+", arguments):
            assert option in help_text, f"{command or module} {arguments}"
