"""Message and stub modules of the serving API, without starting TensorFlow.

The modules of ``tensorflow-serving-api`` import ``tensorflow.core.*``: plain message modules, but
their import would run ``tensorflow/__init__.py`` first, which takes seconds and hundreds of
megabytes. While the messages are imported here, an empty package with TensorFlow's path replaces
it, and is removed afterwards. A later ``import tensorflow`` therefore imports the real package, and
gets the same message classes: protobuf keeps one class for each registered message. If TensorFlow
is loaded already, it is used directly.

Import this module before other threads may import TensorFlow for the first time.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator

_ROOT = "tensorflow"


@contextlib.contextmanager
def _message_modules_only() -> Iterator[None]:
    """Makes ``tensorflow`` an empty package with the real one's modules, inside the block."""
    if _ROOT in sys.modules:
        yield
        return
    installed = importlib.util.find_spec(_ROOT)  # of a top-level package: does not import it
    if installed is None or not installed.submodule_search_locations:
        raise ImportError("The serving API's messages need the package tensorflow installed.")
    spec = importlib.machinery.ModuleSpec(_ROOT, loader=None, is_package=True)
    spec.submodule_search_locations = list(installed.submodule_search_locations)
    sys.modules[_ROOT] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == _ROOT or n.startswith(_ROOT + ".")]:
            del sys.modules[name]


with _message_modules_only():
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_log_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import (
        file_system_storage_path_source_pb2,
        model_server_config_pb2,
    )

__all__ = [
    "file_system_storage_path_source_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "meta_graph_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_server_config_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2_grpc",
    "tensor_pb2",
    "types_pb2",
]
