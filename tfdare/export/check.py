"""Checks that an exported model runs in a server's loader and gives the Keras model's outputs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.export.sample_requests import raw_ids_of
from tfdare.export.signatures import id_inputs
from tfdare.layers import gather_behaviors, newest_first
from tfdare.layers.embedding import TIME_GAP
from tfdare.schema import FIRST_ID, OOV_ID, PADDING_ID
from tfdare.schema.id_hash import hash_rows
from tfdare.sequences.requests import no_value

TOLERANCE = 1e-5


class ExportError(RuntimeError):
    """The SavedModel fails in a server's loader, or its outputs differ from the Keras model's."""


def check_export(path: str, model, requests, vocabularies) -> float:
    """Runs every signature in a separate process and compares with the Keras model.

    Args:
        path: str. Folder with ``saved_model.pb``.
        model: RequestModel.
        requests: list of ``{signature name: {input name: array}}``.
        vocabularies: Sequences or None. As for :func:`tfdare.export.export_model`.

    Returns:
        The greatest difference.

    Raises:
        ExportError: a signature fails, or differs by more than 1e-5.
    """
    return check_exports([(path, requests)], model, vocabularies)


def check_exports(exports: Sequence[tuple[str, Any]], model, vocabularies) -> float:
    """Checks several SavedModels of one model, as :func:`check_export`, in one process.

    Args:
        exports: sequence of ``(path, requests)``.
        model, vocabularies: as for :func:`check_export`.

    Returns, raises: as :func:`check_export`.
    """
    return max(
        compare(model, requests, answers, vocabularies)
        for (_, requests), answers in zip(exports, run_in_subprocess(exports))
    )


def run_in_subprocess(
    exports: Iterable[tuple[str, Any]],
) -> list[list[dict[str, dict[str, np.ndarray]]]]:
    """Runs SavedModels with the v1 Session loader, all in one separate process.

    Args:
        exports: iterable of ``(path, requests)``, as for :func:`check_export`.

    Returns:
        For each SavedModel a list of ``{signature name: {output name: array}}``, one for each of
        its requests.

    Raises:
        ExportError: one of them does not load, or does not run.
    """
    exports = list(exports)
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for i, (path, requests) in enumerate(exports):
            inputs_path, outputs_path = (
                os.path.join(folder, f"{i}.{end}.npz") for end in ("in", "out")
            )
            arrays = {
                f"{j}/{signature}/{name}": array
                for j, batch in enumerate(requests)
                for signature, inputs in batch.items()
                for name, array in inputs.items()
            }
            np.savez(inputs_path, **arrays)
            arguments += [path, inputs_path, outputs_path]
        command = [sys.executable, "-m", "tfdare.session", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(
                f"The SavedModel fails in the session loader:\n{done.stderr.strip()[-2000:]}"
            )
        answers: list[list[dict[str, dict[str, np.ndarray]]]] = []
        for (_, requests), path in zip(exports, arguments[2::3]):
            answers.append([{signature: {} for signature in batch} for batch in requests])
            with np.load(path) as file:
                for key in file.files:
                    batch, signature, name = key.split("/")
                    answers[-1][int(batch)][signature][name] = file[key]
        return answers


def compare(model, requests, answers, vocabularies) -> float:
    """Returns the greatest difference between a SavedModel's answers and the Keras model's.

    Args:
        model, requests, vocabularies: as for :func:`check_export`.
        answers: list of ``{signature name: {output name: array}}``, one for each of the requests.

    Raises:
        ExportError: an answer differs by more than 1e-5.
    """
    lookups = row_lookups(model, vocabularies)
    greatest = 0.0
    for batch, batch_answers in zip(requests, answers, strict=True):
        for signature, inputs in batch.items():
            rows = to_row_ids(inputs, lookups, model.schema)
            pairs = pair_outputs(model, rows, batch_answers[signature])
            for name, (answer, expected) in pairs.items():
                gap = _difference(answer, expected)
                if not gap <= TOLERANCE:
                    raise ExportError(
                        f"Signature {signature!r}, {name} differs from the Keras model "
                        f"by {gap:.3g} (more than {TOLERANCE:g})"
                    )
                greatest = max(greatest, gap)
    return greatest


def row_lookups(model, vocabularies) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns a function of raw ids to row ids by feature; empty where signatures take row ids."""
    hashed = {part.name: part.hash_buckets for part in model.schema.categorical}
    return {
        name: partial(hash_rows, buckets=hashed[name])
        if hashed[name]
        else partial(lookup_rows, raw_ids, order=np.argsort(raw_ids, kind="stable"))
        for name, raw_ids in raw_ids_of(model, vocabularies).items()
    }


def to_row_ids(inputs, lookups, schema) -> dict[str, np.ndarray]:
    """Converts inputs over raw ids to row ids; `lookups` is the result of :func:`row_lookups`."""
    rows = dict(inputs)
    for key, part in id_inputs(schema).items():
        if key in rows and part.name in lookups:
            ids = lookups[part.name](rows[key])
            several = part.max_values > 1
            rows[key] = np.where(rows[key] == no_value(part), PADDING_ID, ids) if several else ids
    return rows


def pair_outputs(model, rows, outputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs a signature's outputs with those of the Keras model, by name.

    Two behaviors whose scores differ by a rounding error may swap places. Behaviors that search
    found are therefore compared by the score that the model gives them, and the probability with
    the model's for the same behaviors.

    Args:
        model: RequestModel.
        rows: mapping of input name to array, over row ids.
        outputs: mapping of output name to array, of the signature.
    """
    if "behavior_index" not in outputs:
        expected = model(rows) if "history_length" in rows else model.score(rows)
        return {"probability": (outputs["probability"], expected.numpy())}
    index, length = outputs["behavior_index"], rows["history_length"][:, np.newaxis, np.newaxis]
    expected = model.search(rows)
    newest = np.where(index >= 0, length - 1 - index, -1)  # 0 is the newest behavior
    scores = np.pad(model.attend(rows).numpy(), [(0, 0), (0, 0), (1, 0)])
    search = model.search_layer
    pairs = {
        "attention_score": (outputs["attention_score"], expected["attention_score"].numpy()),
        "number of behaviors found": (
            (index >= 0).sum(-1),
            (expected["behavior_index"] >= 0).numpy().sum(-1),
        ),
        "score of behavior_index": (
            np.take_along_axis(scores, newest + 1, axis=-1),
            outputs["attention_score"],
        ),
    }
    if "mean_score" in outputs:
        pairs["mean_score"] = (outputs["mean_score"], expected["mean_score"].numpy())
    # The newest behaviors follow those that queries found; only within a set none may come twice.
    ends = [search.top_k * query for query in range(1, search.queries + 1)]
    for number, part in enumerate(np.split(index, ends, axis=-1)):
        pairs[f"repeats in set {number} of behavior_index"] = (
            _repeats(part),
            np.zeros(index.shape[:2]),
        )
    if "probability" in outputs:
        names = [*model.schema.names, *([TIME_GAP] if model.schema.time_gap is not None else [])]
        history = {
            name: newest_first(tf.constant(rows[f"history_{name}"]), rows["history_length"])
            for name in names
        }
        behaviors = gather_behaviors(history, tf.constant(newest, tf.int32))
        scored = model.score(
            {**expected, **rows, **behaviors, "attention_score": outputs["attention_score"]}
        )
        pairs["probability"] = (outputs["probability"], scored.numpy())
    return pairs


def _repeats(index):
    ordered = np.sort(index, axis=-1)
    return ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).sum(-1)


def lookup_rows(
    raw_ids: np.ndarray, ids: np.ndarray, order: np.ndarray | None = None
) -> np.ndarray:
    """Looks up the row ids of raw ids in NumPy, independently of the exported graph.

    Args:
        raw_ids: int64, or bytes, ``[V]``. The vocabulary; element ``i`` has row id ``i + 2``.
        ids: int64, or bytes, any shape.
        order: int ``[V]`` or None. ``argsort`` of `raw_ids`, to compute it once for many calls.

    Returns:
        int32, the shape of `ids`; 1 for ids that the vocabulary lacks.
    """
    if not raw_ids.size:
        return np.full(ids.shape, OOV_ID, np.int32)
    if order is None:
        order = np.argsort(raw_ids, kind="stable")
    index = np.clip(np.searchsorted(raw_ids, ids, sorter=order), 0, raw_ids.size - 1)
    known = raw_ids[order[index]] == ids
    return np.where(known, order[index] + FIRST_ID, OOV_ID).astype(np.int32)


def _difference(answer, expected):
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.max(np.abs(answer.astype(np.float64) - expected), initial=0.0))
