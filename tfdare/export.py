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
import subprocess
import sys
import tempfile
from functools import partial

import numpy as np

from tfdare.command import Parser, UsageError, run
from tfdare.compat import tf
from tfdare.layers import gather_behaviors, newest_first
from tfdare.models import TwoStageModel
from tfdare.runs import load_run
from tfdare.schema import FIRST_ID, OOV_ID
from tfdare.sequences import Sequences
from tfdare.signatures import DEFAULT, SCORE, SEARCH, ServingModule
from tfdare.warmup import write_warmup

TOLERANCE = 1e-5


class ExportError(RuntimeError):
    """The SavedModel does not run as a server would run it, or answers differently."""


def export_model(
    model: TwoStageModel,
    base: str,
    vocabularies: Sequences | None,
    name: str = "dare",
    version: int | None = None,
) -> str:
    """Writes, checks and publishes one version.

    Args:
        model: TwoStageModel. Trained, or at least built.
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


def example_requests(
    model: TwoStageModel, vocabularies: Sequences | None, seed: int = 0
) -> list[dict[str, dict[str, np.ndarray]]]:
    """Inputs for every signature in a few shapes, ids drawn from the vocabularies.

    Among them an empty history, one shorter than K, a full one, ids never seen, and one candidate
    as well as many.

    Returns:
        A list of ``{signature name: {input name: array}}``.
    """
    rng = np.random.default_rng(seed)
    schema, top_k = model.schema, model.search_layer.top_k
    known_ids = _raw_ids(model, vocabularies)

    def ids(feature, shape):
        known = max(feature.vocabulary_size - FIRST_ID, 1)
        row = rng.integers(0, known, shape)
        if vocabularies is None:
            return (row + OOV_ID).astype(np.int32)
        raw_ids = known_ids[feature.name]
        drawn = raw_ids[row] if raw_ids.size else row.astype(np.int64)
        return np.where(rng.random(shape) < 0.05, np.int64(2**62) + row, drawn)

    batches = []
    for behaviors, lengths, candidates in (
        (1, [0], 1),
        (max(1, top_k // 2), [max(1, top_k // 2)], 3),
        (schema.window, [schema.window], 100),
        (schema.window, [schema.window, schema.window // 2], 3),
    ):
        users = len(lengths)
        length = np.array(lengths, np.int32)
        target = {f"target_{f.name}": ids(f, (users, candidates)) for f in schema.features}
        found = (users, candidates, top_k)
        search = {
            **{f"history_{f.name}": ids(f, (users, behaviors)) for f in schema.features},
            "history_length": length,
            **target,
        }
        place = np.arange(1, top_k + 1, dtype=np.int32)
        position = np.where(place <= length[:, None, None], place, 0)
        score = {
            **target,
            **{f"behavior_{f.name}": ids(f, found) for f in schema.features},
            "behavior_position": np.broadcast_to(position, found).astype(np.int32),
            "attention_score": rng.normal(size=found).astype(np.float32),
        }
        batches.append({SEARCH: search, SCORE: score, DEFAULT: search})
    return batches


def check_export(path: str, model, requests, vocabularies) -> float:
    """Runs every signature in a separate process and compares with the Keras model.

    Returns:
        The greatest difference found.

    Raises:
        ExportError: a signature fails, or differs by more than 1e-5.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, answers = os.path.join(folder, "in.npz"), os.path.join(folder, "out.npz")
        np.savez(given, **{
            f"{i}/{signature}/{name}": array
            for i, batch in enumerate(requests)
            for signature, inputs in batch.items()
            for name, array in inputs.items()
        })
        command = [sys.executable, "-m", "tfdare.session", path, given, answers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(
                f"The SavedModel fails in the session loader:\n{done.stderr.strip()[-2000:]}"
            )
        with np.load(answers) as file:
            found = dict(file)
    lookups = {
        name: partial(lookup_rows, raw_ids, order=np.argsort(raw_ids, kind="stable"))
        for name, raw_ids in _raw_ids(model, vocabularies).items()
    }
    greatest = 0.0
    for i, batch in enumerate(requests):
        for signature, inputs in batch.items():
            rows = _rows(inputs, lookups)
            prefix = f"{i}/{signature}/"
            got = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
            for name, (answer, wanted) in _compared(model, rows, got).items():
                gap = _difference(answer, wanted)
                if not gap <= TOLERANCE:
                    raise ExportError(
                        f"Signature {signature!r}, {name} differs from the Keras model "
                        f"by {gap:.3g} (more than {TOLERANCE:g})"
                    )
                greatest = max(greatest, gap)
    return greatest


def _raw_ids(model, vocabularies) -> dict[str, np.ndarray]:
    """Each feature's vocabulary, its file read once; empty where signatures take row ids."""
    if vocabularies is None:
        return {}
    return {name: vocabularies.vocabulary(name) for name in model.schema.names}


def _rows(inputs, lookups):
    rows = dict(inputs)
    for name, lookup in lookups.items():
        for kind in ("history", "target", "behavior"):
            key = f"{kind}_{name}"
            if key in rows:
                rows[key] = lookup(rows[key])
    return rows


def _compared(model, rows, got):
    """What a signature answered beside what the Keras model says, by name.

    Two behaviors whose scores are a rounding step apart may change places, so a found behavior is
    compared by the score that the model gives it, and the probability by what was found.
    """
    if "attention_score" not in got:
        return {"probability": (got["probability"], model.score(rows).numpy())}
    index, length = got["behavior_index"], rows["history_length"][:, np.newaxis, np.newaxis]
    wanted = model.search(rows)
    place = np.where(index >= 0, length - 1 - index, -1)
    scores = np.pad(model.attend(rows).numpy(), [(0, 0), (0, 0), (1, 0)])
    pairs = {
        "attention_score": (got["attention_score"], wanted["attention_score"].numpy()),
        "number of behaviors found": ((index >= 0).sum(-1), (wanted["behavior_index"] >= 0)
                                      .numpy().sum(-1)),
        "score of behavior_index": (np.take_along_axis(scores, place + 1, axis=-1),
                                    got["attention_score"]),
        "repeats in behavior_index": (_repeats(index), np.zeros(index.shape[:2])),
    }
    if "probability" in got:
        history = {
            name: newest_first(tf.constant(rows[f"history_{name}"]), rows["history_length"])
            for name in model.schema.names
        }
        behaviors = gather_behaviors(history, tf.constant(place, tf.int32))
        again = model.score({**rows, **behaviors, "attention_score": got["attention_score"]})
        pairs["probability"] = (got["probability"], again.numpy())
    return pairs


def _repeats(index):
    ordered = np.sort(index, axis=-1)
    return ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).sum(-1)


def lookup_rows(
    raw_ids: np.ndarray, ids: np.ndarray, order: np.ndarray | None = None
) -> np.ndarray:
    """Rows of raw ids by a sorted vocabulary, int32; the check's own way, apart from the graph's.

    Args:
        raw_ids: int64 ``[V]``; element ``i`` has row ``i + 2``.
        ids: int64, any shape.
        order: int ``[V]`` or None. What sorts `raw_ids`, where many calls share it.
    """
    if not raw_ids.size:
        return np.full(ids.shape, OOV_ID, np.int32)
    if order is None:
        order = np.argsort(raw_ids, kind="stable")
    place = np.clip(np.searchsorted(raw_ids, ids, sorter=order), 0, raw_ids.size - 1)
    known = raw_ids[order[place]] == ids
    return np.where(known, order[place] + FIRST_ID, OOV_ID).astype(np.int32)


def _difference(got, wanted):
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(got.astype(np.float64) - wanted), initial=0.0))


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
        "Writes a SavedModel with signatures search, score and serving_default, runs it the way a "
        "server does, and publishes it as OUTPUT/NAME/VERSION.",
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
        try:
            path = export_model(
                opened.model(), options.output, lookup, options.name, options.version
            )
        except ExportError as error:
            raise UsageError(str(error)) from error
        print(f"{path}: search, score and serving_default ran through the session loader and "
              f"agree with the Keras model to {TOLERANCE:g}")

    return run(parser, argv, action)
