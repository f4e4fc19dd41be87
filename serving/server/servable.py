"""One loaded version of a model: a SavedModel in a graph and session of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from serving.client.protos import meta_graph_pb2
from serving.server.batching import Batcher
from serving.server.errors import LoadError, RequestError, code_of, shortened
from serving.server.session_run import SessionRun

DEFAULT_SIGNATURE = "serving_default"
_UNKNOWN, _NOT_FOUND = 2, 5


class Servable:
    """A version that is loaded and can be run, from any thread.

    It is loaded the way the stock server does it: the ``serve`` graph of the SavedModel is restored
    into a session and its tables are initialized. ``tf.saved_model.load`` would hide faults.

    Args:
        name: str. The model's name.
        version: int. The version's number.
        path: str. Folder that holds ``saved_model.pb``.
        session_config: tf.compat.v1.ConfigProto or None. Threads of the session.
        batcher: Batcher or None. Batches requests; None: each runs on its own.

    Raises:
        LoadError: the folder does not load.
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: str,
        session_config: tf.compat.v1.ConfigProto | None = None,
        batcher: Batcher | None = None,
    ):
        self.name = name
        self.version = version
        self.path = path
        self._batcher = batcher
        self._leases = 0
        self._idle = threading.Condition()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=session_config)
        try:
            with graph.as_default():
                meta = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], path
                )
            self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = dict(meta.signature_def)
            self._tensors = {
                info.name: graph.get_tensor_by_name(info.name)
                for signature in self.signatures.values()
                for info in [*signature.inputs.values(), *signature.outputs.values()]
                if info.WhichOneof("encoding") == "name" and ":" in info.name
            }
            graph.finalize()  # no run may change it, so runs need no lock
            self._run = SessionRun(self._session, self._tensors)
        except Exception as error:  # whatever the loader raises, the version is not usable
            self._session.close()
            missing = _NOT_FOUND if isinstance(error, OSError) else _UNKNOWN
            raise LoadError(
                f"Version {version} of model {name!r} in {path!r} does not load: "
                f"{type(error).__name__}: {shortened(str(error))}",
                code_of(getattr(error, "error_code", missing)),
            ) from error

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Computes the tensors ``fetches``, by graph name, from the values in ``feeds``.

        Args:
            feeds: mapping of tensor name to array, dtypes and shapes already checked.
            fetches: sequence of tensor names.
            timeout: float or None. Seconds after which the run is given up.

        Raises:
            RequestError: the run failed; carries the code that TensorFlow gives.
        """
        if self._batcher is None:
            return self.run_alone(feeds, fetches, timeout)
        return self._batcher.run(self, self.run_alone, feeds, fetches, timeout)

    def run_alone(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Does the same as :meth:`run`, without batching."""
        try:
            return self._run(feeds, fetches, timeout)
        except tf.errors.OpError as error:
            raise RequestError(code_of(error.error_code), shortened(error.message)) from error

    def knows(self, tensor_name: str) -> bool:
        """Returns whether a tensor of a signature can be fed or fetched."""
        return tensor_name in self._tensors

    @property
    def warmup_path(self) -> str:
        """File with requests that are replayed before the version serves."""
        return os.path.join(self.path, "assets.extra", "tf_serving_warmup_requests")

    def enter(self) -> None:
        """Keeps the session from being freed until :meth:`leave`."""
        with self._idle:
            self._leases += 1

    def leave(self) -> None:
        """Releases the session after :meth:`enter`."""
        with self._idle:
            self._leases -= 1
            if not self._leases:
                self._idle.notify_all()

    def close(self) -> None:
        """Waits for the requests under way, then frees the session."""
        with self._idle:
            self._idle.wait_for(lambda: not self._leases)
        if self._batcher is not None:
            self._batcher.forget(self)
        self._session.close()
        # Frees the variables now, not when garbage is collected.
        del self._session, self._tensors, self._run
