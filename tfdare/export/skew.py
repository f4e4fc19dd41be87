"""Whether what is served answers as what was trained: Keras model, SavedModel and server compared.

``python -m tfdare.export.skew RUN SERVABLE REQUESTS.npz ANSWERS.npz OUT.json`` is the half of
``tfdare verify`` that needs TensorFlow. REQUESTS holds ``<request>/<input>`` over raw ids, ANSWERS
``<request>/<who>/<signature>/<output>`` of those who were asked already.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.errors import UsageError
from tfdare.export.check import TOLERANCE, compared, row_lookups, to_row_ids
from tfdare.export.compact_tables import CompactAttention
from tfdare.export.publish import REPORT
from tfdare.export.signatures import DEFAULT, SCORE, SEARCH
from tfdare.layers import gather_behaviors
from tfdare.layers.embedding import TIME_GAP
from tfdare.session import SavedModelSession
from tfdare.training import load_run

SESSION = "session"
Outputs = Mapping[str, np.ndarray]


def session_answers(
    session: SavedModelSession, request: Mapping[str, np.ndarray], names: Iterable[str]
) -> dict[str, Outputs]:
    """Outputs of every signature of a servable for one request; score gets what search found."""
    answers = {}
    for signature in (SEARCH, SCORE, DEFAULT):
        if signature not in session.signatures:
            continue
        inputs = request
        if signature == SCORE:
            if SEARCH not in answers:
                continue
            inputs = score_inputs(request, answers[SEARCH], names)
        known = session.signatures[signature].inputs
        answers[signature] = session.run(signature, {name: inputs[name] for name in known})
    return answers


def score_inputs(
    request: Mapping[str, np.ndarray], found: Outputs, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """The request with the behaviors that search found, as ``score`` takes them."""
    index = found["behavior_index"]
    history = {
        name: tf.constant(request[f"history_{name}"])
        for name in (*names, TIME_GAP)
        if f"history_{name}" in request
    }
    gathered = {k: v.numpy() for k, v in gather_behaviors(history, tf.constant(index)).items()}
    length = request["history_length"][:, np.newaxis, np.newaxis]
    gathered["behavior_position"] = np.where(index >= 0, length - index, 0).astype(np.int32)
    return {**request, **gathered, "attention_score": found["attention_score"]}


def differences(
    model,
    vocabularies,
    requests: Mapping[str, Mapping[str, np.ndarray]],
    answers: Mapping[str, Mapping[str, Mapping[str, Outputs]]],
) -> list[dict[str, Any]]:
    """The greatest difference from the Keras model of every output of everyone, and where it is.

    Args:
        model: RequestModel.
        vocabularies: Sequences. With the vocabulary files.
        requests: mapping of request to inputs over raw ids.
        answers: mapping of request to who answered to signature to outputs.

    Returns:
        A list of ``{"who", "signature", "output", "difference", "request", "at"}``; `at` is the
        index of the value in the output.
    """
    lookups = row_lookups(model, vocabularies)
    greatest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for number, of_request in answers.items():
        for who, of_signature in of_request.items():
            for signature, outputs in of_signature.items():
                inputs = requests[number]
                if signature == SCORE:
                    inputs = score_inputs(inputs, of_signature[SEARCH], model.schema.names)
                    inputs.pop("history_length")  # by which the whole is told from score alone
                rows = to_row_ids(inputs, lookups, model.schema)
                for output, (got, wanted) in compared(model, rows, outputs).items():
                    gap, at = _gap(got, wanted)
                    key = (who, signature, output)
                    if key not in greatest or not gap <= greatest[key]["difference"]:
                        greatest[key] = {
                            "who": who,
                            "signature": signature,
                            "output": output,
                            "difference": gap,
                            "request": number,
                            "at": at,
                        }
    return list(greatest.values())


def _gap(got, wanted):
    if got.shape != wanted.shape:
        return float("inf"), []
    gap = np.abs(got.astype(np.float64) - wanted)
    gap = np.where(np.isfinite(gap), gap, np.inf)
    if not gap.size:
        return 0.0, []
    at = np.unravel_index(int(gap.argmax()), gap.shape)
    return float(gap[at]), [int(i) for i in at]


def _nested(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with np.load(path) as file:
        for key in file.files:
            place = found
            *folders, name = key.split("/")
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = file[key]
    return found


def verify(run: str, servable: str, given: str, answered: str) -> list[dict[str, Any]]:
    """:func:`differences` of a servable's session, and of those who were asked already.

    Raises:
        UsageError: there is no such run or servable, or the servable takes row ids.
    """
    if not os.path.exists(os.path.join(servable, "saved_model.pb")):
        raise UsageError(
            f"No servable at {servable!r}: it has no saved_model.pb. Give the folder of one version"
        )
    opened = load_run(run)
    model, requests, answers = opened.model(), _nested(given), _nested(answered)
    session = SavedModelSession(servable)
    kinds = {i.dtype for n, i in session.signatures[DEFAULT].inputs.items() if "target_" in n}
    if tf.int64.as_datatype_enum not in kinds:
        raise UsageError(f"{servable!r} takes row ids; verify sends the raw ids of the log")
    for number, request in requests.items():
        own = session_answers(session, request, model.schema.names)
        answers[number] = {SESSION: own, **answers.get(number, {})}
    session.close()
    with rounded_as(model, servable):
        return differences(model, opened.sequences_for_lookup(), requests, answers)


def rounded_as(model, servable: str):
    """A context in which the model has its attention tables as a servable stores them."""
    path = os.path.join(servable, "assets.extra", REPORT)
    if not os.path.exists(path):
        return contextlib.nullcontext()
    with open(path, encoding="utf-8") as file:
        return CompactAttention(model, json.load(file)["attention_dtype"]).rounded()


def main(argv: list[str]) -> int:
    """See the module's docstring; 2 and one line on standard error where it cannot be done."""
    run, servable, given, answered, out = argv
    try:
        found = verify(run, servable, given, answered)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"tolerance": TOLERANCE, "differences": found}, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
