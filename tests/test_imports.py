"""Imports between folders: in one direction, without circles, some without TensorFlow."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = {"tensorflow", "keras", "tf_keras", "tensorflow_recommenders", "sklearn"}

# Every folder and every module beside the folders, lowest first: each may import those before it.
ORDER = {
    "tfdare": [
        "quiet errors files text schema commands.parser sequences simulation",  # free of TensorFlow
        "compat session data losses layers metrics optimizers models",
        "evaluation training export comparison analysis recommenders commands cli",
    ],
    "beam_jobs": [
        "shared config_file reading histories vocabulary cooccurrence requests options output",
        "reports dry_run batch_rank mutual_information statistics vectors build_sequences dataflow",
    ],
    "serving": ["client server tools"],
}
ORDER = {package: " ".join(rooms).split() for package, rooms in ORDER.items()}
LIGHT = ORDER["tfdare"][: ORDER["tfdare"].index("simulation") + 1]


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))
}


def imported_modules(path, modules):
    """Modules among `modules` that a file imports, and names of other packages.

    Args:
        path: Path. Of the file.
        modules: collection of str. Dotted names; ``from a import b`` is module ``a.b`` where that
            is one of them, otherwise ``a``.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            imported.update(names & set(modules) or {base})
            if names - set(modules):
                imported.add(base)
    return imported


def room_of(module):
    """Returns the entry of ORDER that a module is in; "" for a package itself and ``__main__``."""
    package, _, rest = module.partition(".")
    if rest in ORDER[package]:
        return rest
    return "" if rest == "__main__" else rest.split(".")[0]


def own_imports(path, package):
    return {m for m in imported_modules(path, MODULES) if m.split(".")[0] == package}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_rooms_below_its_own(module):
    package = module.split(".")[0]
    order = ORDER[package]
    room = room_of(module)
    assert not room or room in order, f"{module}: {room} has no place in ORDER"
    for name in own_imports(MODULES[module], package):
        below = room_of(name)
        if room and below:
            assert order.index(below) <= order.index(room), f"{module} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: imported_modules(path, MODULES) & set(MODULES) - {module}
        for module, path in MODULES.items()
    }
    assert sum(map(len, graph.values())) > len(graph)
    done, trail = set(), []

    def visit(module):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        trail.append(module)
        for name in sorted(graph[module]):
            visit(name)
        done.add(trail.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_each_other_one_way(module):
    package, path = module.split(".")[0], MODULES[module]
    imported = imported_modules(path, MODULES)
    others = {name for name in imported if name.split(".")[0] in set(ORDER) - {package}}
    if package == "tfdare":
        assert not others
        return
    runs_a_model = {"session"} if module == "beam_jobs.batch_rank" else set()
    for name in others:
        assert name.split(".")[0] == "tfdare", f"{module} imports {name}"
        assert room_of(name) in {"", *LIGHT, *runs_a_model}, f"{module} imports {name}"
    if room_of(module) != "server":
        # tensorflow.core and tensorflow_serving hold messages; the library itself stays out
        assert not {
            n for n in imported if n in HEAVY or n.startswith(("tensorflow.python", "keras."))
        }


def test_light_rooms_load_without_tensorflow():
    names = [
        m for m in MODULES if m == "tfdare" or (m.startswith("tfdare.") and room_of(m) in LIGHT)
    ]
    names = [name for name in names if name != "tfdare.simulation.plot"]  # matplotlib alone
    names += [m for m in MODULES if room_of(m) == "client" and m.startswith("serving.")]
    code = f"import {', '.join(names)}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_no_module_bears_the_name_of_what_its_package_exports():
    hidden = []
    for module, path in MODULES.items():
        if "." not in module or path.stem.startswith("__") or ".recommenders" in module:
            continue  # tfdare.recommenders loads under Keras 2 alone
        package, _, name = module.rpartition(".")
        importlib.import_module(module)
        if not inspect.ismodule(getattr(sys.modules[package], name)):
            hidden.append(module)
    assert not hidden


def test_tests_stand_in_the_folders_of_what_they_test():
    for package in ORDER:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            assert (ROOT / path.parent.relative_to(ROOT / "tests")).is_dir(), path


def test_the_parser_sees_relative_and_inner_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tfdare" / "inner").mkdir(parents=True)
    path = tmp_path / "tfdare" / "inner" / "x.py"
    path.write_text("from ..data import y, Z\ndef f():\n    import beam_jobs.rows\n")
    modules = {"tfdare.data", "tfdare.data.y"}
    assert imported_modules(path, modules) == {"tfdare.data.y", "tfdare.data", "beam_jobs.rows"}
    assert room_of("tfdare.commands.parser") == "commands.parser"
    assert room_of("tfdare.commands.train") == "commands" and room_of("tfdare") == ""
