"""The message modules: imported without TensorFlow, or before or after it."""

import subprocess
import sys

import pytest

# Fails where TensorFlow's own code has run: its compiled part, or its package proper.
NOT_STARTED = """
import sys
assert not any(name == "tensorflow" or name.startswith("tensorflow.") for name in sys.modules), (
    sorted(n for n in sys.modules if n.startswith("tensorflow.")))
assert "keras" not in sys.modules and "h5py" not in sys.modules
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
assert "libtensorflow" not in maps and "_pywrap_tensorflow" not in maps
"""
SAME = """
import numpy as np
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from serving.client import protos
from serving.client.tensors import from_proto, to_proto
assert tf.constant(1).numpy() == 1 and tf.__version__
assert tensor_pb2.TensorProto is protos.tensor_pb2.TensorProto
assert meta_graph_pb2.SignatureDef is protos.meta_graph_pb2.SignatureDef
tensor = tf.make_tensor_proto(np.array([[1, 2], [3, 4]]))
assert isinstance(tensor, protos.tensor_pb2.TensorProto)
request = protos.predict_pb2.PredictRequest()
request.inputs["x"].CopyFrom(tensor)
assert from_proto(request.inputs["x"]).tolist() == [[1, 2], [3, 4]]
assert tf.make_ndarray(to_proto(np.float32([1.5]))).tolist() == [1.5]
@tf.function
def double(x):
    return x * 2
assert double(tf.constant(2)).numpy() == 4
import tensorflow.core.framework.graph_pb2 as graph_pb2
assert graph_pb2.GraphDef().SerializeToString() == b""
assert isinstance(tf.compat.v1.GraphDef(), graph_pb2.GraphDef)
"""
ORDERS = {
    "client only": "import serving.client, serving.client.lookup, serving.tools.query"
    + NOT_STARTED,
    "client, then tensorflow": "import serving.client"
    + NOT_STARTED
    + "import tensorflow as tf\n"
    + SAME,
    "tensorflow, then client": "import tensorflow as tf\nimport serving.client\n" + SAME,
}


@pytest.mark.parametrize("order", ORDERS)
def test_import_order(order, environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ORDERS[order]],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_stub_is_removed_when_messages_are_missing(environment, tmp_path):
    # A package tensorflow without the messages: the import fails, and leaves nothing behind.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("real = True")
    code = """
import sys
try:
    import serving.client.protos
except ImportError as error:
    assert "tensorflow" in str(error)
else:
    raise AssertionError("imported")
assert "tensorflow" not in sys.modules
import tensorflow
assert tensorflow.real
"""
    environment = {**environment, "PYTHONPATH": f"{tmp_path}:{environment['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
