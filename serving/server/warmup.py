"""Replays a version's warm-up requests before it is served, so that the first call is not slow."""

from __future__ import annotations

import os

from google.protobuf.message import DecodeError

from serving.client.protos import prediction_log_pb2
from serving.server.errors import LoadError, RequestError, invalid
from serving.server.predict import predict
from serving.server.servable import Servable
from tfdare.sequences.record import read_framed

MAX_RECORDS = 1000


def warm_up(servable: Servable, times: int = 1) -> int:
    """Replays ``assets.extra/tf_serving_warmup_requests``, a TFRecord of ``PredictionLog``.

    Args:
        servable: Servable. Run without batching, so that each request has its own shape.
        times: int. Times that each request is replayed. Defaults to 1.

    Returns:
        The number of requests that were replayed; 0 where the version has no such file.

    Raises:
        LoadError: a record cannot be read or answered.
    """
    if not os.path.exists(servable.warmup_path):
        return 0
    count = 0
    try:
        with open(servable.warmup_path, "rb") as file:
            for data in read_framed(file):
                count += 1
                if count > MAX_RECORDS:
                    raise ValueError(
                        f"Number of warmup records exceeds the maximum ({MAX_RECORDS})"
                    )
                log = prediction_log_pb2.PredictionLog.FromString(data)
                kind = log.WhichOneof("log_type")
                if kind != "predict_log":
                    raise ValueError(f"Unsupported log_type for warmup: {kind}")
                for _ in range(times):
                    predict(servable, log.predict_log.request, run=servable.run_alone)
    except (RequestError, ValueError, DecodeError, OSError) as error:
        code = error.code if isinstance(error, RequestError) else invalid("").code
        raise LoadError(
            f"Version {servable.version} of model {servable.name!r} in {servable.path!r} does not "
            f"load: warm-up record {count} failed: {error}",
            code,
        ) from error
    return count
