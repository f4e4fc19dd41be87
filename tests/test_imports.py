"""Imports run one way, and what sorts events or sends a request imports no TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONTRACT = {"features", "schema", "record", "sequences"}
LIGHT = CONTRACT | {"command", "quiet", "mutual_information", "id_hash", "raw_ids"}
HEAVY = {"tensorflow", "keras", "tf_keras", "tensorflow_recommenders", "sklearn"}


def imports_of(path):
    """Modules that a file imports, at its top or inside functions, as dotted names."""
    package = path.relative_to(ROOT).with_suffix("").parts
    package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def modules(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in found]


def of_package(names, package):
    return {name for name in names if name == package or name.startswith(f"{package}.")}


def parts_of_tfdare(path):
    """Second part of every ``tfdare.x`` import; a name of tfdare itself counts as none."""
    own = {"__version__"}
    parts = {([*name.split("."), ""])[1] for name in of_package(imports_of(path), "tfdare")}
    return parts - own - {""}


@pytest.mark.parametrize("path", modules("tfdare"))
def test_tfdare_imports_neither_jobs_nor_serving(path):
    names = imports_of(path)
    assert not of_package(names, "beam_jobs") | of_package(names, "serving")


@pytest.mark.parametrize("path", modules("beam_jobs"))
def test_jobs_import_the_contract_alone(path):
    names = imports_of(path)
    runs_a_model = {"session"} if path.name == "batch_rank.py" else set()
    assert parts_of_tfdare(path) <= LIGHT | runs_a_model
    assert not {name.split(".")[0] for name in names} & (HEAVY | {"serving"})


@pytest.mark.parametrize("path", modules("serving"))
def test_serving_imports_no_jobs(path):
    assert not of_package(imports_of(path), "beam_jobs")
    assert parts_of_tfdare(path) <= LIGHT


@pytest.mark.parametrize(
    "name",
    [
        "client",
        "async_client",
        "plans",
        "results",
        "query",
        "lookup",
        "requests",
        "arguments",
        "tensors",
        "verify",
        "arrivals",
        "load",
        "soak",
    ],
)
def test_the_client_side_imports_no_tensorflow(name):
    names = imports_of(ROOT / "serving" / f"{name}.py")
    # tensorflow.core and tensorflow_serving hold messages; the library itself stays out
    assert not {part for part in names if part.split(".")[0] in HEAVY}


def test_the_parser_sees_relative_and_inner_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tfdare" / "inner").mkdir(parents=True)
    path = tmp_path / "tfdare" / "inner" / "x.py"
    path.write_text("from ..data import y\ndef f():\n    import beam_jobs.rows\n")
    assert imports_of(path) == {"tfdare.data.y", "beam_jobs.rows"}
    assert parts_of_tfdare(path) == {"data"}


def test_the_contract_imports_no_tensorflow():
    names = ", ".join(["tfdare", *(f"tfdare.{name}" for name in sorted(LIGHT))])
    code = f"import {names}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
