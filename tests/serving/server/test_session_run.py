"""Runs that bypass Session.run's Python code: the same values and errors."""

import numpy as np
import pytest
import tensorflow as tf

from serving.server import session_run
from serving.server.session_run import SessionRun


@pytest.fixture(params=["direct", "as Session.run"])
def run(request, monkeypatch):
    if request.param != "direct":
        monkeypatch.setattr(session_run, "pywrap_tf_session", None)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
        words = tf.compat.v1.placeholder(tf.string, [None], name="words")
        times = tf.compat.v1.placeholder_with_default(0, [], name="times")
        tf.add(x, 1, name="more")
        tf.strings.join([words, "!"], name="loud")
        tf.debugging.check_numerics(x, "Not finite:", name="checked")
        tf.while_loop(  # as slow as one likes
            lambda n, _: n < times,
            lambda n, m: (n + 1, tf.linalg.matmul(m, m) * 1e-9),
            (0, tf.ones([300, 300])),
            name="slow",
        )
        tensors = {
            name: graph.get_tensor_by_name(name)
            for name in ("x:0", "words:0", "times:0", "more:0", "loud:0", "checked:0")
        }
        slow = next(
            op
            for op in graph.get_operations()
            if op.name.startswith("slow") and op.type in ("While", "StatelessWhile", "Exit")
        )
        tensors["slow"] = slow.outputs[0]
    with tf.compat.v1.Session(graph=graph) as session:
        yield SessionRun(session, tensors)


def test_values_of_numbers_and_of_bytes_in_the_order_asked_for(run):
    x = np.arange(8, dtype=np.float32).reshape(4, 2)[::2]  # not contiguous
    loud, more = run({"x:0": x, "words:0": np.array([b"a", b"\xff"], object)}, ["loud:0", "more:0"])
    assert loud.tolist() == [b"a!", b"\xff!"] and more.dtype == np.float32
    np.testing.assert_array_equal(more, x + 1)
    assert run({"x:0": x[:0]}, ["more:0"], timeout=9)[0].shape == (0, 2)


def test_errors_are_those_of_tensorflow(run):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Not finite: : Tensor had NaN") as e:
        run({"x:0": np.full([1, 2], np.nan, np.float32)}, ["checked:0"], timeout=9)
    assert e.value.error_code == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="must feed a value for placeholder"):
        run({}, ["more:0"])


def test_a_run_is_given_up_in_time_and_the_next_one_works(run):
    with pytest.raises(tf.errors.DeadlineExceededError):
        run({"times:0": np.array(10**6, np.int32)}, ["slow"], timeout=0.05)
    assert run({"times:0": np.array(3, np.int32)}, ["slow"], timeout=60)[0] == 3
