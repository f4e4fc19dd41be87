"""Warm-up requests that a server replays while it loads a version."""

from __future__ import annotations

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfdare.compat import tf


def write_warmup(path: str, name: str, requests) -> int:
    """Writes ``assets.extra/tf_serving_warmup_requests``.

    Args:
        path: str. The file.
        name: str. Of the servable.
        requests: list of ``{signature name: {input name: array}}``, one per shape.

    Returns:
        Records written: one per signature and shape.
    """
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for batch in requests:
            for signature, inputs in batch.items():
                request = predict_pb2.PredictRequest()
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key, array in inputs.items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())
                count += 1
    return count
