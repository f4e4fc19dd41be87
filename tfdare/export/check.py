"""Whether an exported model runs the way a server runs it, and answers as the Keras model does."""

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
from tfdare.export.signatures import NO_VALUE, id_inputs
from tfdare.layers import gather_behaviors, newest_first
from tfdare.layers.embedding import TIME_GAP
from tfdare.schema import FIRST_ID, OOV_ID, PADDING_ID
from tfdare.schema.id_hash import hash_rows

TOLERANCE = 1e-5


class ExportError(RuntimeError):
    """The SavedModel does not run as a server would run it, or answers differently."""


def check_export(path: str, model, requests, vocabularies) -> float:
    """Runs every signature in a separate process and compares with the Keras model.

    Args:
        path: str. Folder with ``saved_model.pb``.
        model: RequestModel.
        requests: list of ``{signature name: {input name: array}}``.
        vocabularies: Sequences or None. As for :func:`tfdare.export.export_model`.

    Returns:
        The greatest difference found.

    Raises:
        ExportError: a signature fails, or differs by more than 1e-5.
    """
    return check_exports([(path, requests)], model, vocabularies)


def check_exports(exports: Sequence[tuple[str, Any]], model, vocabularies) -> float:
    """The same for several SavedModels of one model, all in one process.

    Args:
        exports: sequence of ``(path, requests)``.
        model, vocabularies: as for :func:`check_export`.

    Returns, raises: as :func:`check_export`.
    """
    return max(
        compare(model, requests, answers, vocabularies)
        for (_, requests), answers in zip(exports, run_apart(exports))
    )


def run_apart(exports: Iterable[tuple[str, Any]]) -> list[list[dict[str, dict[str, np.ndarray]]]]:
    """Answers of SavedModels through the session loader, all in one process that is not this one.

    Args:
        exports: iterable of ``(path, requests)``, as for :func:`check_export`.

    Returns:
        For each, as many ``{signature name: {output name: array}}`` as requests.

    Raises:
        ExportError: one of them does not load, or does not run.
    """
    exports = list(exports)
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for i, (path, requests) in enumerate(exports):
            given, answers = (os.path.join(folder, f"{i}.{end}.npz") for end in ("in", "out"))
            np.savez(
                given,
                **{
                    f"{j}/{signature}/{name}": array
                    for j, batch in enumerate(requests)
                    for signature, inputs in batch.items()
                    for name, array in inputs.items()
                },
            )
            arguments += [path, given, answers]
        command = [sys.executable, "-m", "tfdare.session", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(
                f"The SavedModel fails in the session loader:\n{done.stderr.strip()[-2000:]}"
            )
        found = []
        for (_, requests), path in zip(exports, arguments[2::3]):
            found.append([{signature: {} for signature in batch} for batch in requests])
            with np.load(path) as file:
                for key in file.files:
                    batch, signature, name = key.split("/")
                    found[-1][int(batch)][signature][name] = file[key]
        return found


def compare(model, requests, answers, vocabularies) -> float:
    """The greatest difference of a SavedModel's answers from the Keras model's.

    Args:
        model, requests, vocabularies: as for :func:`check_export`.
        answers: list of ``{signature name: {output name: array}}``, one for each of the requests.

    Raises:
        ExportError: an answer differs by more than 1e-5.
    """
    lookups = row_lookups(model, vocabularies)
    greatest = 0.0
    for inputs_of, got_of in zip(requests, answers, strict=True):
        for signature, inputs in inputs_of.items():
            rows = to_row_ids(inputs, lookups, model.schema)
            for name, (answer, wanted) in compared(model, rows, got_of[signature]).items():
                gap = _difference(answer, wanted)
                if not gap <= TOLERANCE:
                    raise ExportError(
                        f"Signature {signature!r}, {name} differs from the Keras model "
                        f"by {gap:.3g} (more than {TOLERANCE:g})"
                    )
                greatest = max(greatest, gap)
    return greatest


def row_lookups(model, vocabularies) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """A function of raw ids to rows for every feature; none where signatures take row ids."""
    hashed = {part.name: part.hash_buckets for part in model.schema.categorical}
    return {
        name: partial(hash_rows, buckets=hashed[name])
        if hashed[name]
        else partial(lookup_rows, raw_ids, order=np.argsort(raw_ids, kind="stable"))
        for name, raw_ids in raw_ids_of(model, vocabularies).items()
    }


def to_row_ids(inputs, lookups, schema) -> dict[str, np.ndarray]:
    """Inputs over raw ids as inputs over row ids; `lookups` maps a feature to its function."""
    rows = dict(inputs)
    for key, part in id_inputs(schema).items():
        if key in rows and part.name in lookups:
            found = lookups[part.name](rows[key])
            several = part.max_values > 1
            rows[key] = np.where(rows[key] == NO_VALUE, PADDING_ID, found) if several else found
    return rows


def compared(model, rows, got):
    """What a signature answered beside what the Keras model says, by name.

    Two behaviors whose scores are a rounding step apart may change places, so a found behavior is
    compared by the score that the model gives it, and the probability by what was found.
    """
    if "behavior_index" not in got:
        whole = "history_length" in rows
        wanted = model(rows) if whole else model.score(rows)
        return {"probability": (got["probability"], wanted.numpy())}
    index, length = got["behavior_index"], rows["history_length"][:, np.newaxis, np.newaxis]
    wanted = model.search(rows)
    place = np.where(index >= 0, length - 1 - index, -1)
    scores = np.pad(model.attend(rows).numpy(), [(0, 0), (0, 0), (1, 0)])
    top_k = model.search_layer.top_k
    pairs = {
        "attention_score": (got["attention_score"], wanted["attention_score"].numpy()),
        "number of behaviors found": (
            (index >= 0).sum(-1),
            (wanted["behavior_index"] >= 0).numpy().sum(-1),
        ),
        "score of behavior_index": (
            np.take_along_axis(scores, place + 1, axis=-1),
            got["attention_score"],
        ),
    }
    # The newest, which follow what was searched for, may be among the latter, too.
    for part in (index[..., :top_k], index[..., top_k:]):
        pairs[f"repeats in behavior_index of {part.shape[-1]} slots"] = (
            _repeats(part),
            np.zeros(index.shape[:2]),
        )
    if "probability" in got:
        names = [*model.schema.names, *([TIME_GAP] if model.schema.time_gap is not None else [])]
        history = {
            name: newest_first(tf.constant(rows[f"history_{name}"]), rows["history_length"])
            for name in names
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
