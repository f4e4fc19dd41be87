"""Exports SavedModels for TensorFlow Serving, which are published only after passing the checks.

A model is written to a temporary folder, every signature runs with the v1 Session loader, which
servers use, in a separate process and must agree with the Keras model, and only then the folder is
renamed to ``base/<name>/<version>/``. Where search and score are exported as separate servables,
none is published before all passed.
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
from tfdare.export.signatures import SCORE, SEARCH, ServingModule, check_separable
from tfdare.export.warmup import write_warmup
from tfdare.models import RequestModel
from tfdare.sequences import Sequences

LARGEST_VERSION = 2**63 - 1
"""Servers read versions as int64."""
REPORT = "attention.json"
"""In ``assets.extra``: the type of the attention tables, their bytes, and the recall of search."""


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
        name: str. Name of the servable. Defaults to ``"dare"``.
        version: int or None. Defaults to one more than the highest existing version.
        **options: further arguments of :func:`export_servables`.

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
    only: str | None = None,
) -> dict[str, str]:
    """Writes, checks and publishes one version, with `split` also search and score separately.

    ``<name>`` has all signatures. ``<name>_search`` has ``search`` and only the variables that it
    reads; ``<name>_score`` has ``score`` and only the variables that it reads. All get the same
    version, and none is published before all passed the checks.

    Args:
        model, base, vocabularies, name, version: see :func:`export_model`.
        split: bool. Whether to write the servables of search and score, too. Defaults to False.
        attention_dtype: str. Type in which attention tables are stored: ``float32``, ``float16``,
            ``bfloat16``, or ``int8`` with a scale for each row; they are float32 again once rows
            are gathered. Defaults to ``"float32"``.
        recall_on: tuple of requests over row ids and a name for them, or None. On these the recall
            of search with compact tables is measured, for ``assets.extra/attention.json``.
            Defaults to synthetic requests.
        only: str or None. ``"search"`` or ``"score"``: writes nothing but that half, such as the
            search servable after attention was renewed. Defaults to None.

    Returns:
        The published folders by servable.

    Raises:
        UsageError: as for :func:`export_model`; or `split`, `only` or a compact `attention_dtype`
            for a model whose stages share tables.
        ExportError: as for :func:`export_model`; compact tables are compared with a model of the
            same rounded weights.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name.startswith("."):
        raise UsageError(f"`name` must be letters, digits, '_', '-' or '.'. Received: {name!r}")
    signatures: dict[str, str | None] = {name: None}  # signature of each servable; None: all
    if only is not None:
        if only not in (SEARCH, SCORE):
            raise UsageError(f"`only` must be {SEARCH} or {SCORE}. Received: {only!r}")
        signatures = {f"{name}_{only}": only}
    elif split:
        signatures |= {f"{name}_{half}": half for half in (SEARCH, SCORE)}
    if version is None:
        existing = [
            int(v) for servable in signatures for v in _versions(os.path.join(base, servable))
        ]
        version = 1 + max(existing, default=0)
    if not 0 <= version <= LARGEST_VERSION:
        raise UsageError(
            f"`version` must be from 0 to {LARGEST_VERSION}, as servers load no other. "
            f"Received: {version}"
        )
    targets = {servable: os.path.join(base, servable, str(version)) for servable in signatures}
    for target in targets.values():
        if os.path.exists(target):
            raise UsageError(f"{target!r} exists; versions are never overwritten, choose another")
    compact = None
    if split or only or attention_dtype != "float32":
        check_separable(model)
        compact = CompactAttention(model, attention_dtype)
    with contextlib.ExitStack() as stack:
        temporary: dict[str, str] = {}
        for servable in signatures:
            os.makedirs(os.path.join(base, servable), exist_ok=True)
            # A server loads subfolders whose name is an integer; this name is not.
            temporary[servable] = tempfile.mkdtemp(
                prefix=f".writing-{version}-", dir=os.path.join(base, servable)
            )
            stack.callback(shutil.rmtree, temporary[servable], ignore_errors=True)
        requests = example_requests(model, vocabularies)
        report = compact.report(*(recall_on or _generated_requests(model))) if compact else None
        stack.enter_context(compact.rounded() if compact else contextlib.nullcontext())
        exports = []
        for servable, half in signatures.items():
            inputs = [{k: v for k, v in b.items() if half in (None, k)} for b in requests]
            with compact.stored() if compact else contextlib.nullcontext():
                module = ServingModule(model, vocabularies, half)
            path = temporary[servable]
            _write(module, path, servable, model, inputs, None if half == SCORE else report)
            exports.append((path, inputs))
        check_exports(exports, model, vocabularies)
        _publish(temporary, targets)
    return targets


def _generated_requests(model):
    return example_requests(model, None)[2][SEARCH], "synthetic histories of uniformly drawn ids"


def _write(module, path, name, model, requests, report: Mapping[str, Any] | None) -> None:
    with _without_info_messages():
        tf.saved_model.save(module, path, signatures=module.signatures_by_name)
    extra = os.path.join(path, "assets.extra")
    os.makedirs(extra)
    with open(os.path.join(extra, "schema.json"), "w", encoding="utf-8") as file:
        file.write(model.schema.to_json())
    if report is not None:
        with open(os.path.join(extra, REPORT), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, sort_keys=True)
    write_warmup(os.path.join(extra, "tf_serving_warmup_requests"), name, requests)


def _publish(temporary: Mapping[str, str], targets: Mapping[str, str]) -> None:
    """Renames all folders to their targets or, if a rename fails, none."""
    for folder in temporary.values():
        _sync(folder)
        os.chmod(folder, 0o755)  # mkdtemp makes it private; a server runs as another user
    done = []
    try:
        for servable, target in targets.items():
            os.rename(temporary[servable], target)
            done.append(servable)
    except OSError:
        for servable in done:
            os.rename(targets[servable], temporary[servable])
        raise
    for target in targets.values():
        _sync_folder(os.path.dirname(target))


@contextlib.contextmanager
def _without_info_messages():
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("WARNING")  # info messages name temporary folders
    try:
        yield
    finally:
        logger.setLevel(before)


def _versions(servable):
    if not os.path.isdir(servable):
        return []
    numbers = [child for child in os.listdir(servable) if child.isdigit()]
    return [number for number in numbers if int(number) < LARGEST_VERSION]


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
