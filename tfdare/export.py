"""``tfdare export``: a SavedModel that TensorFlow Serving loads, published only once it ran.

The model is written beside its place, every signature runs through the v1 Session loader in a
separate process (the path a server takes) and must agree with the Keras model, and only then the
folder is renamed to ``base/<name>/<version>/``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile

from tfdare.command import Parser, UsageError, run
from tfdare.compat import tf
from tfdare.examples import example_requests
from tfdare.export_check import TOLERANCE, ExportError, check_export
from tfdare.models import RequestModel
from tfdare.runs import load_run
from tfdare.sequences import Sequences
from tfdare.signatures import ServingModule, signature_inputs
from tfdare.warmup import write_warmup


def export_model(
    model: RequestModel,
    base: str,
    vocabularies: Sequences | None,
    name: str = "dare",
    version: int | None = None,
) -> str:
    """Writes, checks and publishes one version.

    Args:
        model: RequestModel. Trained, or at least built.
        base: str. Folder that holds the servables.
        vocabularies: Sequences or None. Folder (or run) with the vocabulary files, for signatures
            over raw ids; None for signatures over row ids.
        name: str. Of the servable. Defaults to ``"dare"``.
        version: int or None. Defaults to one more than the highest there.

    Returns:
        The published folder, ``base/name/version``.

    Raises:
        UsageError: the version exists, or name or version are not usable.
        ExportError: a signature fails in a separate process, or differs from the Keras model by
            more than 1e-5. Nothing is published then.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name.startswith("."):
        raise UsageError(f"--name must be letters, digits, '_', '-' or '.'. Received: {name!r}")
    servable = os.path.join(base, name)
    if version is None:
        version = 1 + max((int(v) for v in _versions(servable)), default=0)
    if version < 0:
        raise UsageError(f"--version must not be negative. Received: {version}")
    target = os.path.join(servable, str(version))
    if os.path.exists(target):
        raise UsageError(f"{target!r} exists; versions are never overwritten, choose another")
    os.makedirs(servable, exist_ok=True)
    # A server takes any child whose name is an integer: this one is not.
    aside = tempfile.mkdtemp(prefix=f".writing-{version}-", dir=servable)
    try:
        module = ServingModule(model, vocabularies)
        with _only_warnings():
            tf.saved_model.save(module, aside, signatures=module.signatures_by_name)
        extra = os.path.join(aside, "assets.extra")
        os.makedirs(extra)
        with open(os.path.join(extra, "schema.json"), "w", encoding="utf-8") as file:
            file.write(model.schema.to_json())
        requests = example_requests(model, vocabularies)
        write_warmup(os.path.join(extra, "tf_serving_warmup_requests"), name, requests)
        check_export(aside, model, requests, vocabularies)
        _sync(aside)
        os.chmod(aside, 0o755)  # mkdtemp makes it private; a server runs as somebody else
        os.rename(aside, target)
        _sync_folder(servable)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


@contextlib.contextmanager
def _only_warnings():
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("WARNING")  # where assets were written is a passing name here
    try:
        yield
    finally:
        logger.setLevel(before)


def _versions(servable):
    if not os.path.isdir(servable):
        return []
    return [child for child in os.listdir(servable) if child.isdigit()]


def _sync(folder):
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(parent)


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(argv: list[str] | None = None) -> int:
    """``tfdare export``."""
    parser = Parser(
        "export",
        "tfdare export --run build/dare --output build/servables --name dare",
        "Writes a SavedModel with signatures search, score and serving_default (only the last "
        "where the model does not search), runs it the way a server does, and publishes it as "
        "OUTPUT/NAME/VERSION.",
    )
    parser.add_argument("--run", required=True, help="folder that `tfdare train` wrote")
    parser.add_argument("--output", required=True, help="folder that holds the servables")
    parser.add_argument("--name", default="dare", help="of the servable")
    parser.add_argument("--version", type=int, help="an integer; by default the next one free")
    parser.add_argument("--row_ids", action="store_true",
                        help="signatures over row ids, without look-up tables")

    def action(options):
        opened = load_run(options.run)
        lookup = None if options.row_ids else opened.sequences_for_lookup()
        model = opened.model()
        try:
            path = export_model(model, options.output, lookup, options.name, options.version)
        except ExportError as error:
            raise UsageError(str(error)) from error
        names = ", ".join(signature_inputs(model, tf.int64))
        print(f"{path}: {names} ran through the session loader and agree with the Keras model "
              f"to {TOLERANCE:g}")

    return run(parser, argv, action)
