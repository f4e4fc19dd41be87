"""Loads versions, replays their warm-up requests, and records the metrics of both."""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf

from serving.server.batching import Batcher
from serving.server.errors import LoadError
from serving.server.metrics import Metrics
from serving.server.servable import Servable
from serving.server.warmup import warm_up


class Loader:
    """Loads and warms up a Servable, given a model's name, the version and its folder.

    Args:
        metrics: Metrics.
        session_config: tf.compat.v1.ConfigProto or None. Threads of each session.
        batcher: Batcher or None. Batches requests. Defaults to None: no batching.
        warmup: int. Times that each warm-up request is replayed; 0: not at all. Defaults to 1.
        log: callable. Receives a line for each version loaded.
    """

    def __init__(
        self,
        metrics: Metrics,
        session_config: tf.compat.v1.ConfigProto | None = None,
        batcher: Batcher | None = None,
        warmup: int = 1,
        log: Callable[[str], None] = lambda line: None,
    ):
        self._metrics, self._session_config, self._batcher = metrics, session_config, batcher
        self._warmup, self._log = warmup, log

    def __call__(self, name: str, version: int, path: str) -> Servable:
        """Loads the version and replays its warm-up requests.

        Raises:
            LoadError: loading or a replay failed.
        """
        started = time.monotonic()
        try:
            servable = Servable(name, version, path, self._session_config, self._batcher)
        except LoadError:
            self._metrics.load(path, False, time.monotonic() - started)
            raise
        self._metrics.load(path, True, time.monotonic() - started)
        if not self._warmup:
            self._log(f"Loaded {name} version {version}.")
            return servable
        started = time.monotonic()
        try:
            replayed = warm_up(servable, self._warmup)
        except LoadError as error:
            servable.close()
            self._metrics.warmup(path, error.code.name, time.monotonic() - started)
            raise
        self._metrics.warmup(path, "OK", time.monotonic() - started)
        self._log(f"Loaded {name} version {version}, {replayed} warm-up requests.")
        return servable
