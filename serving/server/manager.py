"""The models, versions and labels that are served, and the state of each version."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import grpc

from serving.client.protos import get_model_status_pb2, model_pb2
from serving.server.config import ModelConfig
from serving.server.errors import LoadError, RequestError, StartError, invalid
from serving.server.servable import Servable

State = get_model_status_pb2.ModelVersionStatus.State
_OK = grpc.StatusCode.OK


@dataclass(frozen=True)
class VersionState:
    """State of a version: what ``GetModelStatus`` reports, and what the manager needs to retry.

    Attributes:
        version: int.
        state: int. A ``ModelVersionStatus.State``.
        code: grpc.StatusCode. Not OK where the version failed to load.
        message: str. Why it failed.
        attempts: int. Times that loading failed.
        retry_at: float. ``time.monotonic()`` of the next attempt, while LOADING.
        folder: tuple. Identity of the folder that was tried, see :func:`_identity`.
    """

    version: int
    state: int
    code: grpc.StatusCode = _OK
    message: str = ""
    attempts: int = 0
    retry_at: float = 0.0
    folder: tuple = ()


class Manager:
    """The models that are served. A new version is loaded before an old one is unloaded.

    Args:
        load: callable of (name, version, path). Returns a Servable that is loaded and warm.
        threads: int. Versions that are loaded at the same time. Defaults to 1.
        retries: int. Times that a failed load is tried again. Defaults to 0.
        retry_seconds: float. Pause before it is tried again. Defaults to 60.
        unavailable_labels: bool. Whether a label that is not in use may name a version that is
            not available. Defaults to False.
        log: callable. Receives a line for each version that was unloaded or failed to load, and
            each folder that cannot be read.
    """

    def __init__(
        self,
        load: Callable[[str, int, str], Servable],
        *,
        threads: int = 1,
        retries: int = 0,
        retry_seconds: float = 60.0,
        unavailable_labels: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ):
        self._load, self._log = load, log
        self._threads, self._retries, self._retry_seconds = threads, retries, retry_seconds
        self._unavailable_labels = unavailable_labels
        self._lock = threading.Lock()  # guards the next three; not held while a version loads
        self._configs: dict[str, ModelConfig] = {}
        self._serving: dict[str, dict[int, Servable]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._refreshing = threading.Lock()  # one change of versions at a time
        self._leaving: dict[tuple[str, int], threading.Thread] = {}
        self._unreadable: set[str] = set()

    # --- for requests ---

    @contextlib.contextmanager
    def borrow(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """Yields the loaded version that a ``model_spec`` selects, by default the highest.

        The version stays loaded inside the ``with`` block.

        Raises:
            RequestError: no name or an unknown label (INVALID_ARGUMENT), an unknown model or
                version (NOT_FOUND).
        """
        with self._lock:
            servable = self._find(spec)
            servable.enter()
        try:
            yield servable
        finally:
            servable.leave()

    def status(self, spec: model_pb2.ModelSpec) -> list[VersionState]:
        """Returns the states of a model's versions, or of one of them, newest first.

        Raises:
            RequestError: there is none (NOT_FOUND), or no such label (INVALID_ARGUMENT).
        """
        with self._lock:
            states = dict(self._states.get(spec.name, {}))
            choice = spec.WhichOneof("version_choice")
            version = spec.version.value
            if choice == "version_label":
                version = self._labelled(spec)
        if choice:
            if version not in states:
                raise RequestError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Could not find version {version} of model {spec.name}",
                )
            return [states[version]]
        if not states:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}"
            )
        return [states[version] for version in sorted(states, reverse=True)]

    def available(self, name: str) -> list[int]:
        """Returns the versions of a model that can be called, rising."""
        with self._lock:
            return sorted(self._serving.get(name, {}))

    @property
    def names(self) -> list[str]:
        """Names of the models that are configured."""
        with self._lock:
            return list(self._configs)

    def knows(self, name: str) -> bool:
        """Returns whether a model is configured."""
        return name in self._configs

    def _find(self, spec: model_pb2.ModelSpec) -> Servable:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        versions = self._serving.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            version, wanted = max(versions, default=None), f"Latest({spec.name})"
        else:
            version = self._labelled(spec) if choice == "version_label" else spec.version.value
            wanted = f"Specific({spec.name}, {version})"
        if version not in versions:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
            )
        return versions[version]

    def _labelled(self, spec: model_pb2.ModelSpec) -> int:
        config = self._configs.get(spec.name)
        if config is None or spec.version_label not in config.labels:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return config.labels[spec.version_label]

    # --- changes of the models ---

    def configure(self, configs: Iterable[ModelConfig]) -> None:
        """Sets the models, versions and labels to serve.

        Models that are new are loaded before this returns; other changes are left to
        :meth:`refresh`.

        Raises:
            RequestError: a label names a version that is not available (FAILED_PRECONDITION;
                nothing is changed), or a new model did not become available (UNKNOWN; everything
                else is applied).
        """
        by_name = {config.name: config for config in configs}
        with self._lock:
            for config in by_name.values():
                self._require_labels(config)
            new = [name for name in by_name if name not in self._configs]
            self._configs = by_name
        self.refresh(new)
        missing = [name for name in new if not self.available(name)]
        if missing:
            raise RequestError(
                grpc.StatusCode.UNKNOWN,
                f"Some models did not become available: {{{', '.join(missing)}}}"
                + "".join(f" {text}" for name in missing for text in self._messages(name)),
            )

    def refresh(self, names: Iterable[str] | None = None) -> float | None:
        """Reads the folders, loads versions that are not served but should be, unloads the others.

        A version that fails to load is reported in its state; versions that it should replace
        stay loaded.

        Args:
            names: iterable of str or None. Models to update. Defaults to all.

        Returns:
            Seconds until a failed load is to be tried again, or None.
        """
        with self._refreshing:
            chosen = set(names) if names is not None else {*self._configs, *self._serving}
            wanted = {name: self._wanted(name) for name in sorted(chosen)}
            self._load_all(
                [
                    (name, version, path)
                    for name, versions in wanted.items()
                    for version, path in sorted((versions or {}).items(), reverse=True)
                    if self._is_due(name, version, path)
                ]
            )
            for name, versions in wanted.items():
                if versions is not None:
                    self._let_go(name, set(versions))
            return self._next_retry()

    def close(self) -> None:
        """Unloads every model, after the requests under way."""
        with self._lock:
            self._configs = {}
        self.refresh()
        for thread in list(self._leaving.values()):
            thread.join()

    def _require_labels(self, config: ModelConfig) -> None:
        now = self._configs.get(config.name)
        for label, version in config.labels.items():
            if version in self._serving.get(config.name, {}):
                continue
            in_use = now is not None and now.labels.get(label, version) != version
            if not self._unavailable_labels or in_use:
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                )

    def _wanted(self, name: str) -> dict[int, str] | None:
        """Returns the versions to serve; None (no change) where the folder cannot be read."""
        config = self._configs.get(name)
        if config is None:
            return {}
        try:
            wanted = config.wanted()
        except StartError as error:
            if name not in self._unreadable:  # logged once, not at every poll
                self._log(f"{name}: {error}")
            self._unreadable.add(name)
            return None
        self._unreadable.discard(name)
        return wanted

    def _is_due(self, name: str, version: int, path: str) -> bool:
        state = self._states.get(name, {}).get(version)
        if state is None:
            return True
        if state.state == State.LOADING:
            return time.monotonic() >= state.retry_at
        if state.state == State.UNLOADING:  # wanted again: loaded once it is unloaded
            return True
        failed_before = state.code is not _OK and state.folder == _identity(path)
        return state.state == State.END and not failed_before

    def _load_all(self, due: list[tuple[str, int, str]]) -> None:
        for name, version, path in due:
            leaving = self._leaving.get((name, version))
            if leaving is not None:
                leaving.join()
            before = self._states.get(name, {}).get(version)
            attempts = before.attempts if before and before.state == State.LOADING else 0
            self._set(
                name,
                VersionState(version, State.LOADING, attempts=attempts, folder=_identity(path)),
            )
        if len(due) < 2 or self._threads < 2:
            for arguments in due:
                self._load_version(*arguments)
            return
        with concurrent.futures.ThreadPoolExecutor(self._threads, "load") as pool:
            list(pool.map(lambda arguments: self._load_version(*arguments), due))

    def _load_version(self, name: str, version: int, path: str) -> None:
        state = self._states[name][version]
        try:
            servable = self._load(name, version, path)
        except LoadError as error:
            attempts = state.attempts + 1
            final = attempts > self._retries
            self._set(
                name,
                replace(
                    state,
                    state=State.END if final else State.LOADING,
                    code=error.code,
                    message=str(error),
                    attempts=attempts,
                    retry_at=time.monotonic() + self._retry_seconds,
                ),
            )
            self._log(f"Failed {name} version {version}: {error}")
            return
        with self._lock:
            self._serving.setdefault(name, {})[version] = servable
            self._states[name][version] = VersionState(version, State.AVAILABLE)

    def _let_go(self, name: str, wanted: set[int]) -> None:
        with self._lock:
            serving, states = self._serving.get(name, {}), self._states.get(name, {})
            for version, state in states.items():
                if version not in wanted and state.state == State.LOADING:  # not tried again
                    states[version] = replace(state, state=State.END)
            if wanted and not wanted & set(serving):
                return  # nothing replaces them: they stay
            leaving = [serving.pop(version) for version in sorted(set(serving) - wanted)]
            for servable in leaving:
                states[servable.version] = VersionState(servable.version, State.UNLOADING)
            if not serving:
                self._serving.pop(name, None)
        for servable in leaving:
            thread = threading.Thread(target=self._unload, args=(name, servable), daemon=True)
            self._leaving[name, servable.version] = thread
            thread.start()

    def _unload(self, name: str, servable: Servable) -> None:
        servable.close()
        self._set(name, VersionState(servable.version, State.END))
        self._log(f"Unloaded {name} version {servable.version}.")
        self._leaving.pop((name, servable.version))

    def _next_retry(self) -> float | None:
        with self._lock:
            due = [
                state.retry_at
                for states in self._states.values()
                for state in states.values()
                if state.state == State.LOADING
            ]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _set(self, name: str, state: VersionState) -> None:
        with self._lock:
            self._states.setdefault(name, {})[state.version] = state

    def _messages(self, name: str) -> list[str]:
        states: Mapping[int, VersionState] = self._states.get(name, {})
        return [state.message for state in states.values() if state.message]


def _identity(path: str) -> tuple:
    """Identifies a folder by inodes and times, which change when another replaces it."""
    identity: list[tuple[int, int] | None] = []
    for name in (path, os.path.join(path, "saved_model.pb")):
        try:
            status = os.stat(name)
            identity.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            identity.append(None)
    return tuple(identity)
