"""Runs a loaded graph without most of the Python work that ``Session.run`` does at every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

try:
    from tensorflow.python.client import pywrap_tf_session
except ImportError:  # this version of TensorFlow keeps it elsewhere
    pywrap_tf_session = None


class SessionRun:
    """Runs a session's graph from any thread: tensors by graph name in and out.

    ``Session.run`` takes a third of a millisecond to resolve feeds and fetches at every call, while
    it holds Python's lock. Here that is done once, and calls go to the internal method that
    ``Session.run`` ends in, with the same values and errors. Where TensorFlow has no such method,
    they go to ``Session.run``.

    Args:
        session: tf.compat.v1.Session. Its graph is complete.
        tensors: mapping of graph name to tensor. All that will be fed or fetched.

    Call arguments:
        feeds: mapping of tensor name to array, dtypes and shapes already checked.
        fetches: sequence of tensor names.
        timeout: float or None. Seconds after which the run is given up.

    Raises:
        tf.errors.OpError: (from the call) the run failed.
    """

    def __init__(self, session: tf.compat.v1.Session, tensors: Mapping[str, tf.Tensor]):
        self._session, self._tensors = session, tensors
        self._outputs = None
        if pywrap_tf_session is not None and hasattr(session, "_call_tf_sessionrun"):
            session._extend_graph()
            self._outputs = {name: tensor._as_tf_output() for name, tensor in tensors.items()}

    def __call__(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        options = None
        if timeout is not None:
            milliseconds = min(max(1, int(timeout * 1000)), 2**31)
            options = tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        if self._outputs is None:
            return self._session.run(
                [self._tensors[name] for name in fetches],
                {self._tensors[name]: value for name, value in feeds.items()},
                options=options,
            )
        fed = {self._outputs[name]: value for name, value in feeds.items()}
        fetched = [self._outputs[name] for name in fetches]
        if options is None:
            return self._session._call_tf_sessionrun(None, fed, fetched, [], None)
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            return self._session._call_tf_sessionrun(buffer, fed, fetched, [], None)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
