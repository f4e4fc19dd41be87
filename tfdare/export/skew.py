"""Training-serving skew: outputs of the SavedModel and of servers against the Keras model's.

``python -m tfdare.export.skew RUN SERVABLE REQUESTS.npz ANSWERS.npz OUT.json`` is the part of
``tfdare verify`` that needs TensorFlow. REQUESTS holds ``<request>/<input>`` over raw ids, ANSWERS
``<request>/<who>/<signature>/<output>``, the outputs of others (`who`), such as a server.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.errors import UsageError
from tfdare.export.check import TOLERANCE, pair_outputs, row_lookups, to_row_ids
from tfdare.export.compact_tables import CompactAttention
from tfdare.export.publish import REPORT
from tfdare.export.signatures import DEFAULT, SCORE, SEARCH
from tfdare.sequences.requests import score_inputs
from tfdare.session import SavedModelSession
from tfdare.training import load_run

SESSION = "session"
Outputs = Mapping[str, np.ndarray]


def session_answers(
    session: SavedModelSession, request: Mapping[str, np.ndarray]
) -> dict[str, Outputs]:
    """Runs every signature of a servable on one request; score gets what its search returns."""
    answers: dict[str, Outputs] = {}
    for signature in (SEARCH, SCORE, DEFAULT):
        if signature not in session.signatures:
            continue
        inputs = request
        if signature == SCORE:
            if SEARCH not in answers:
                continue
            inputs = _score_inputs(request, answers[SEARCH])
        names = session.signatures[signature].inputs
        answers[signature] = session.run(signature, {name: inputs[name] for name in names})
    return answers


def _score_inputs(request: Mapping[str, np.ndarray], outputs: Outputs) -> dict[str, np.ndarray]:
    return score_inputs(
        request,
        outputs["behavior_index"],
        outputs["attention_score"],
        outputs.get("mean_score"),
    )


def differences(
    model,
    vocabularies,
    requests: Mapping[str, Mapping[str, np.ndarray]],
    answers: Mapping[str, Mapping[str, Mapping[str, Outputs]]],
) -> list[dict[str, Any]]:
    """Computes each output's greatest difference from the Keras model's, and its index.

    Args:
        model: RequestModel.
        vocabularies: Sequences. With the vocabulary files.
        requests: mapping of request to inputs over raw ids.
        answers: nested mapping: request, who answered (such as a server), signature, outputs.

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
                    inputs = _score_inputs(inputs, of_signature[SEARCH])
                rows = to_row_ids(inputs, lookups, model.schema)
                for output, (got, wanted) in pair_outputs(model, rows, outputs).items():
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


def _load_nested(path: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    with np.load(path) as file:
        for key in file.files:
            branch = tree
            *folders, name = key.split("/")
            for folder in folders:
                branch = branch.setdefault(folder, {})
            branch[name] = file[key]
    return tree


def verify(run: str, servable: str, requests_path: str, answers_path: str) -> list[dict[str, Any]]:
    """Computes the :func:`differences` of a servable's session and of the answers in a file.

    Args:
        run: str. Folder that ``tfdare train`` wrote.
        servable: str. Folder of one exported version.
        requests_path: str. REQUESTS.npz, see the module's docstring.
        answers_path: str. ANSWERS.npz.

    Raises:
        UsageError: there is no such run or servable, or the servable takes row ids.
    """
    if not os.path.exists(os.path.join(servable, "saved_model.pb")):
        raise UsageError(
            f"No servable at {servable!r}: it has no saved_model.pb. Give the folder of one version"
        )
    opened = load_run(run)
    model = opened.model()
    requests, answers = _load_nested(requests_path), _load_nested(answers_path)
    session = SavedModelSession(servable)
    kinds = {i.dtype for n, i in session.signatures[DEFAULT].inputs.items() if "target_" in n}
    if tf.int32.as_datatype_enum in kinds:
        raise UsageError(f"{servable!r} takes row ids; verify sends the raw ids of the log")
    for number, request in requests.items():
        own = session_answers(session, request)
        answers[number] = {SESSION: own, **answers.get(number, {})}
    session.close()
    with rounded_as(model, servable):
        return differences(model, opened.sequences_for_lookup(), requests, answers)


def rounded_as(model, servable: str):
    """Returns a context in which the model's attention tables are rounded as a servable's are."""
    path = os.path.join(servable, "assets.extra", REPORT)
    if not os.path.exists(path):
        return contextlib.nullcontext()
    with open(path, encoding="utf-8") as file:
        return CompactAttention(model, json.load(file)["attention_dtype"]).rounded()


def main(argv: list[str]) -> int:
    """Writes OUT.json, see the module's docstring.

    Returns:
        0; 2, with a line on standard error, where there is nothing to compare.
    """
    run, servable, requests_path, answers_path, out = argv
    try:
        rows = verify(run, servable, requests_path, answers_path)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"tolerance": TOLERANCE, "differences": rows}, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
