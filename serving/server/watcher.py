"""Polling of the models' folders and of the config file."""

from __future__ import annotations

import logging
import threading
import time

from serving.server.config import ModelConfig, read_config
from serving.server.errors import RequestError, StartError
from serving.server.manager import Manager

_LOG = logging.getLogger(__name__)
_SHORTEST = 0.1  # seconds until a retry, at least


class Watcher:
    """A thread that updates a manager's models when their folders or the config file change.

    Args:
        manager: Manager.
        seconds: float. Pause between two polls of the folders; 0: only when woken or to retry.
        config_file: str or None. Model config file that is polled, too.
        config_seconds: float. Pause between two polls of it; 0: never.
    """

    def __init__(
        self,
        manager: Manager,
        seconds: float = 1.0,
        config_file: str | None = None,
        config_seconds: float = 0.0,
    ):
        self._manager, self._seconds = manager, seconds
        self._config_file = config_file
        self._config_seconds = config_seconds if config_file is not None else 0.0
        self._seen: list[ModelConfig] | None = None
        self._woken, self._stopped = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        """Starts to watch."""
        if self._config_seconds:
            self._seen = self._read()
        self._thread.start()

    def wake(self) -> None:
        """Polls the folders at once, without waiting for the pause."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the thread once a poll under way is done."""
        self._stopped = True
        self._woken.set()
        self._thread.join()

    def _work(self) -> None:
        now = time.monotonic()
        look, read = now + self._seconds, now + self._config_seconds
        retry: float | None = None
        while True:
            due = [look] * bool(self._seconds) + [read] * bool(self._config_seconds)
            due += [] if retry is None else [retry]
            self._woken.wait(max(min(due) - time.monotonic(), 0.0) if due else None)
            woken = self._woken.is_set()
            self._woken.clear()
            if self._stopped:
                return
            now = time.monotonic()
            if self._config_seconds and now >= read:
                woken = self._reload() or woken
                read = time.monotonic() + self._config_seconds
            if woken or (self._seconds and now >= look) or (retry is not None and now >= retry):
                retry = self._look()
                look = time.monotonic() + self._seconds

    def _look(self) -> float | None:
        try:
            left = self._manager.refresh()
        except Exception:  # a fault of this server: it goes on serving
            _LOG.exception("Looking for new versions failed")
            return None
        return None if left is None else time.monotonic() + max(left, _SHORTEST)

    def _read(self) -> list[ModelConfig] | None:
        assert self._config_file is not None  # or there is nothing to poll
        try:
            return read_config(self._config_file)
        except StartError as error:
            _LOG.error("The model config file is not applied: %s", error)
            return None

    def _reload(self) -> bool:
        configs = self._read()
        if configs is None or configs == self._seen:
            return False
        try:
            self._manager.configure(configs)
        except RequestError as error:
            _LOG.error("The model config file is not applied: %s", error)
            if error.code.name != "UNKNOWN":
                return False  # perhaps its labels can be assigned later
        self._seen = configs
        return True
