"""SavedModels that TensorFlow Serving loads, published only once they ran.

A model is written beside its place, every signature runs through the v1 Session loader in a
separate process (the path a server takes) and must agree with the Keras model, and only then the
folder is renamed to ``base/<name>/<version>/``. Where search and score are exported apart, none of
the servables is published before all are good.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.errors import UsageError
from tfdare.export.check import check_exports
from tfdare.export.compact_tables import CompactAttention
from tfdare.export.sample_requests import example_requests
from tfdare.export.signatures import SCORE, SEARCH, ServingModule, check_apart
from tfdare.export.warmup import write_warmup
from tfdare.models import RequestModel
from tfdare.sequences import Sequences

REPORT = "attention.json"
"""In ``assets.extra``: in which type the attention tables are stored, and what that costs."""


def export_model(
    model: RequestModel,
    base: str,
    vocabularies: Sequences | None,
    name: str = "dare",
    version: int | None = None,
    **options,
) -> str:
    """Writes, checks and publishes one version.

    Args:
        model: RequestModel. Trained, or at least built.
        base: str. Folder that holds the servables.
        vocabularies: Sequences or None. Folder (or run) with the vocabulary files, for signatures
            over raw ids; None for signatures over row ids.
        name: str. Of the servable. Defaults to ``"dare"``.
        version: int or None. Defaults to one more than the highest there.
        **options: of :func:`export_servables`.

    Returns:
        The published folder, ``base/name/version``.

    Raises:
        UsageError: the version exists, or name or version are not usable.
        ExportError: a signature fails in a separate process, or differs from the Keras model by
            more than 1e-5. Nothing is published then.
    """
    return export_servables(model, base, vocabularies, name, version, **options)[name]


def export_servables(
    model: RequestModel,
    base: str,
    vocabularies: Sequences | None,
    name: str = "dare",
    version: int | None = None,
    split: bool = False,
    attention_dtype: str = "float32",
    recall_on: tuple[Mapping[str, np.ndarray], str] | None = None,
) -> dict[str, str]:
    """Writes, checks and publishes one version, whole and, if asked for, in its two halves.

    ``<name>`` answers all signatures. ``<name>_search`` answers ``search`` and holds nothing that
    only score reads, ``<name>_score`` answers ``score`` and holds nothing that only search reads.
    All get the same version, and none is published before all are good.

    Args:
        model, base, vocabularies, name, version: see :func:`export_model`.
        split: bool. Whether the halves are written, too. Defaults to False.
        attention_dtype: str. Type in which attention tables are stored: ``float32``, ``float16``,
            ``bfloat16``, or ``int8`` with a scale for each row; they are float32 again once rows
            are gathered. Defaults to ``"float32"``.
        recall_on: requests over row ids and what they are, on which is measured what another type
            loses; made-up ones by default. ``assets.extra/attention.json`` says it.

    Returns:
        The published folders by servable.

    Raises:
        UsageError: as for :func:`export_model`; or the model's stages share tables, and it is to
            be split or attention to be stored otherwise.
        ExportError: as for :func:`export_model`; compact tables must agree with a model of the
            same rounded weights.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name.startswith("."):
        raise UsageError(f"--name must be letters, digits, '_', '-' or '.'. Received: {name!r}")
    signatures = {name: None}
    if split:
        signatures |= {f"{name}_{only}": only for only in (SEARCH, SCORE)}
    if version is None:
        taken = [int(v) for part in signatures for v in _versions(os.path.join(base, part))]
        version = 1 + max(taken, default=0)
    if version < 0:
        raise UsageError(f"--version must not be negative. Received: {version}")
    targets = {part: os.path.join(base, part, str(version)) for part in signatures}
    for target in targets.values():
        if os.path.exists(target):
            raise UsageError(f"{target!r} exists; versions are never overwritten, choose another")
    compact = None
    if split or attention_dtype != "float32":
        check_apart(model)
        compact = CompactAttention(model, attention_dtype)
    with contextlib.ExitStack() as stack:
        asides = {}
        for part in signatures:
            os.makedirs(os.path.join(base, part), exist_ok=True)
            # A server takes any child whose name is an integer: this one is not.
            asides[part] = tempfile.mkdtemp(
                prefix=f".writing-{version}-", dir=os.path.join(base, part)
            )
            stack.callback(shutil.rmtree, asides[part], ignore_errors=True)
        requests = example_requests(model, vocabularies)
        report = compact.report(*(recall_on or _made_up(model))) if compact else None
        stack.enter_context(compact.rounded() if compact else contextlib.nullcontext())
        asked = []
        for part, only in signatures.items():
            inputs = [{k: v for k, v in b.items() if only in (None, k)} for b in requests]
            with compact.stored() if compact else contextlib.nullcontext():
                module = ServingModule(model, vocabularies, only)
            _write(module, asides[part], part, model, inputs, None if only == SCORE else report)
            asked.append((asides[part], inputs))
        check_exports(asked, model, vocabularies)
        _publish(asides, targets)
    return targets


def _made_up(model):
    return example_requests(model, None)[2][SEARCH], "made-up histories of evenly drawn ids"


def _write(module, path, name, model, requests, report: Mapping[str, Any] | None) -> None:
    with _only_warnings():
        tf.saved_model.save(module, path, signatures=module.signatures_by_name)
    extra = os.path.join(path, "assets.extra")
    os.makedirs(extra)
    with open(os.path.join(extra, "schema.json"), "w", encoding="utf-8") as file:
        file.write(model.schema.to_json())
    if report is not None:
        with open(os.path.join(extra, REPORT), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, sort_keys=True)
    write_warmup(os.path.join(extra, "tf_serving_warmup_requests"), name, requests)


def _publish(asides: Mapping[str, str], targets: Mapping[str, str]) -> None:
    """All under their names, or, where one cannot be renamed, none."""
    for aside in asides.values():
        _sync(aside)
        os.chmod(aside, 0o755)  # mkdtemp makes it private; a server runs as somebody else
    done = []
    try:
        for part, target in targets.items():
            os.rename(asides[part], target)
            done.append(part)
    except OSError:
        for part in done:
            os.rename(targets[part], asides[part])
        raise
    for target in targets.values():
        _sync_folder(os.path.dirname(target))


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
