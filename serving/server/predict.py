"""Answers a Predict request with one loaded version: every check, the run, the reply.

Codes, and most messages, are those of TensorFlow Serving, so that a client that is tested here sees
the same errors there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from serving.client.protos import meta_graph_pb2, model_pb2, predict_pb2
from serving.client.tensors import from_proto, to_proto, type_name
from serving.server.errors import RequestError, code_of, invalid
from serving.server.servable import DEFAULT_SIGNATURE, Servable

_METHODS = (
    tf.saved_model.PREDICT_METHOD_NAME,
    tf.saved_model.CLASSIFY_METHOD_NAME,
    tf.saved_model.REGRESS_METHOD_NAME,
)
_FAILED_PRECONDITION, _INTERNAL = code_of(9), code_of(13)


def predict(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    timeout: float | None = None,
    run: Callable | None = None,
) -> predict_pb2.PredictResponse:
    """Answers ``request`` with ``servable``, which need not be what its ``model_spec`` names.

    Args:
        servable: Servable.
        request: PredictRequest.
        timeout: float or None. Seconds that the run may take.
        run: callable or None. Runs the graph. Defaults to ``servable.run``.

    Raises:
        RequestError: the request does not fit the signature, or the run failed.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = find_signature(servable, name)
    feeds = _feeds(servable, name, signature, request)
    aliases = _outputs(signature, request.output_filter)
    tensors = [signature.outputs[alias].name for alias in aliases]
    _require_known(servable, name, tensors)
    values = (run or servable.run)(feeds, tensors, timeout)
    response = predict_pb2.PredictResponse(model_spec=resolved(servable, name))
    for alias, value in zip(aliases, values):
        to_proto(value, typed=True, into=response.outputs[alias])
    return response


def find_signature(servable: Servable, name: str) -> meta_graph_pb2.SignatureDef:
    """Looks up the signature ``name``.

    Raises:
        RequestError: there is no such signature, or it has another method than prediction.
    """
    signature = servable.signatures.get(name)
    if signature is None:
        raise RequestError(_FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    if signature.method_name not in _METHODS:
        raise RequestError(
            _INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(_METHODS)}}}. Was: {signature.method_name}",
        )
    return signature


def require_signature_inputs(servable: Servable, name: str):
    """Returns the inputs of the signature ``name`` (empty: the default), for the REST API.

    Raises:
        RequestError: (INVALID_ARGUMENT) there is no such signature, or it has no inputs.
    """
    name = name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {name}")
    return signature.inputs


def resolved(servable: Servable, signature_name: str = "") -> model_pb2.ModelSpec:
    """Makes the ``model_spec`` of a reply: the version that answers, not the request's spec."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _feeds(servable, name, signature, request) -> dict[str, np.ndarray]:
    sent, wanted = set(request.inputs), set(signature.inputs)
    if len(sent) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_braces(sent)}) != len({_braces(wanted)}). "
            f"Sent extra: {_braces(sent - wanted)}. "
            f"Missing but required: {_braces(wanted - sent)}."
        )
    feeds, rows = {}, {}
    for position, alias in enumerate(sorted(sent)):
        if alias not in wanted:
            raise invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {_braces(wanted)}."
            )
        info, proto = signature.inputs[alias], request.inputs[alias]
        if proto.dtype != info.dtype:
            raise invalid(
                f"Expects arg[{position}] to be {type_name(info.dtype)} but "
                f"{type_name(proto.dtype)} is provided (input {alias})"
            )
        try:
            value = from_proto(proto)
        except ValueError as error:
            raise invalid(f"tensor parsing error: {alias} ({error})") from error
        _require_shape(name, alias, info, value)
        if not info.tensor_shape.unknown_rank and info.tensor_shape.dim:
            if info.tensor_shape.dim[0].size < 0:
                rows[alias] = len(value)
        feeds[info.name] = value
    if len(rows) == len(feeds) and len(set(rows.values())) > 1:
        raise invalid(
            f"input tensors of signature {name} must have equal 0th-dimension size. Received: "
            + ", ".join(f"{alias} {size}" for alias, size in rows.items())
        )
    _require_known(servable, name, feeds)
    return feeds


def _require_shape(name, alias, info, value) -> None:
    if info.tensor_shape.unknown_rank:
        return
    shape = [dim.size for dim in info.tensor_shape.dim]
    fits = len(shape) == value.ndim and all(
        want in (-1, got) for want, got in zip(shape, value.shape)
    )
    if not fits:
        expected = ",".join("?" if size < 0 else str(size) for size in shape)
        received = ",".join(map(str, value.shape))
        raise invalid(
            f"input {alias} of signature {name} must have shape [{expected}]. "
            f"Received: [{received}]"
        )


def _outputs(signature, output_filter: Iterable[str]) -> list[str]:
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braces(signature.outputs)}."
            )
        if alias in chosen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or sorted(signature.outputs)


def _require_known(servable: Servable, name: str, tensors: Iterable[str]) -> None:
    for tensor in tensors:
        if not servable.knows(tensor):
            raise RequestError(
                _FAILED_PRECONDITION,
                f'Signature "{name}" has a tensor that is not dense: "{tensor}".',
            )


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
