"""Pages of the reference for mkdocs: the rooms' READMEs, and a page a package from its docstrings.

``mkdocs.yml`` names this file as a hook. A public name without a docstring fails the build.
"""

import pathlib
import re

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
READMES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "beam_jobs/README.md",
    "serving/README.md",
    "serving/config/README.md",
    "serving/config/RUNBOOK.md",
    "tfdare/README.md",
    "tfdare/analysis/README.md",
    "tests/benchmarks/README.md",
]
OF_KERAS = {
    "build",
    "call",
    "compute_output_shape",
    "from_config",
    "get_config",
    "result",
    "update_state",
    "update_step",
}
# Packages in the order of the way from a log to an answer.
PACKAGES = [
    "tfdare.schema",
    "tfdare.sequences",
    "tfdare.data",
    "tfdare.layers",
    "tfdare.models",
    "tfdare.losses",
    "tfdare.optimizers",
    "tfdare.metrics",
    "tfdare.training",
    "tfdare.evaluation",
    "tfdare.comparison",
    "tfdare.analysis",
    "tfdare.simulation",
    "tfdare.recommenders",
    "tfdare.export",
    "tfdare.session",
    "serving.client",
]


class Sections(griffe.Extension):
    """Names the sections of docstrings as the parser knows them; `mkdocs.yml` lists it."""

    def on_instance(self, *, obj, **options):
        """Changes the headings of an object's docstring."""
        if not obj.is_alias and obj.docstring:
            text = obj.docstring.value
            text = re.sub(r"^Call arguments:", "Other Parameters:", text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^Example:", "Examples:", text, flags=re.MULTILINE)


def on_config(config):
    """Writes the navigation: guides first, then the reference."""
    config.nav = [
        {"Start": "index.md"},
        {
            "Guides": [
                {"Models": "tfdare/README.md"},
                {"Beam jobs": "beam_jobs/README.md"},
                {"Serving": "serving/README.md"},
                {"TensorFlow Serving": "serving/config/README.md"},
                {"Runbook": "serving/config/RUNBOOK.md"},
                {"Analysis": "tfdare/analysis/README.md"},
                {"Measurements": "tests/benchmarks/README.md"},
            ]
        },
        {"Reference": [{name: f"reference/{name}.md"} for name in PACKAGES]},
        {
            "Project": [
                {"Contributing": "CONTRIBUTING.md"},
                {"Changes": "CHANGELOG.md"},
                {"Security": "SECURITY.md"},
            ]
        },
    ]
    return config


def on_files(files, config):
    """Gives the pages, and every file of the repository that a README links to."""
    packages = load_packages()
    missing = undocumented_names(packages.values())
    if missing:
        raise PluginError("Public names without a docstring: " + ", ".join(missing))
    pages = Files([file for file in files if not file.src_uri.endswith(".ipynb")])
    for source in READMES:
        text = (ROOT / source).read_text(encoding="utf-8")
        plain = text.replace("```python no-run", "```python")
        page = "index.md" if source == "README.md" else source
        pages.append(File.generated(config, page, content=plain))
        for link in re.findall(r"\]\(\s*([^)#:\s]+)\)", text):
            target = (ROOT / source).parent.joinpath(link).resolve()
            uri = target.relative_to(ROOT).as_posix()
            if target.is_file() and uri not in READMES and uri not in pages.src_uris:
                pages.append(File.generated(config, uri, abs_src_path=str(target)))
    for name, package in packages.items():
        content = reference_page(name, exported(package))
        pages.append(File.generated(config, f"reference/{name}.md", content=content))
    return pages


def on_page_content(html, page, config, files):
    """Drops the roles before names in docstrings, such as ``:class:``; the names stay as code."""
    return re.sub(r":(?:class|func|meth|mod|data|attr|exc):(?=<code>)", "", html)


def reference_page(name, members):
    """Writes a package's page in Markdown: the names it exports, in the order of ``__all__``."""
    options = "\n".join(f"        - {member.name}" for member in members)
    return (
        f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        f"      show_root_toc_entry: false\n      members:\n{options}\n"
    )


def load_packages():
    """Returns the packages of PACKAGES by name, read and not imported."""
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    for package in dict.fromkeys(name.split(".")[0] for name in PACKAGES):
        loader.load(package)
    loader.resolve_aliases()
    return {name: loader.modules_collection[name] for name in PACKAGES}


def exported(package):
    """Returns what a package exports: the names of ``__all__``, or what a module defines."""
    if package.exports:
        return [package.members[str(member)] for member in package.exports]
    return [
        member
        for member in package.members.values()
        if not member.is_alias and member.is_public and (member.is_function or member.is_class)
    ]


def undocumented_names(packages):
    """Returns dotted names of exported functions and classes, and of their public methods, that
    have no docstring, neither their own nor that of the method they override."""
    missing = set()
    for package in packages:
        for member in exported(package):
            if member.is_attribute or member.is_module:
                continue
            target = member.final_target if member.is_alias else member
            if not target.has_docstring:
                missing.add(target.canonical_path)
            if target.is_class:
                missing.update(undocumented_methods(target))
    return sorted(missing)


def undocumented_methods(target):
    """Yields the dotted names of a class's public methods without a docstring."""
    bases = [base for base in target.mro() if base.is_class]
    for name, method in target.members.items():
        documented = method.has_docstring or any(
            name in base.members and base.members[name].has_docstring for base in bases
        )
        if method.is_function and not name.startswith("_") and name not in OF_KERAS:
            if not documented:
                yield method.canonical_path
