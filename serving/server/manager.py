"""Names, versions and labels, and the loaded version that each of them means."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping

import grpc

from serving.protos import model_pb2
from serving.server.config import ModelConfig
from serving.server.errors import RequestError, StartError, invalid
from serving.server.servable import Servable
from serving.server.warmup import warm_up


@dataclass(frozen=True)
class Model:
    """What is served under one name. Never changed, only replaced.

    Attributes:
        versions: mapping of version to the loaded version.
        labels: mapping of label to version.
    """

    versions: Mapping[int, Servable]
    labels: Mapping[str, int] = field(default_factory=dict)


class Manager:
    """The models that are served. Readers see one consistent state and take no lock."""

    def __init__(self):
        self._models: Mapping[str, Model] = {}
        self._writer = threading.Lock()

    def publish(self, name: str, model: Model) -> Model | None:
        """Serves ``model`` under ``name`` from now on; returns what it replaced.

        Raises:
            StartError: a label names a version that is not there.
        """
        for label, version in model.labels.items():
            if version not in model.versions:
                raise StartError(
                    f"Request to assign label {label!r} to version {version} of model {name}, "
                    "which is not currently available for inference"
                )
        with self._writer:
            before = self._models.get(name)
            self._models = {**self._models, name: model}
        return before

    @property
    def models(self) -> Mapping[str, Model]:
        """Every model by name."""
        return self._models

    def resolve(self, spec: model_pb2.ModelSpec) -> Servable:
        """The loaded version that a request's ``model_spec`` means; the highest by default.

        Raises:
            RequestError: no name (INVALID_ARGUMENT), an unknown label (INVALID_ARGUMENT), an
                unknown model or version (NOT_FOUND).
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            if model is None or spec.version_label not in model.labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            version, asked = model.labels[spec.version_label], ""
        elif choice == "version":
            version = spec.version.value
            asked = f"Specific({spec.name}, {version})"
        else:
            version = max(model.versions) if model and model.versions else None
            asked = f"Latest({spec.name})"
        if model is None or version not in model.versions:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
            )
        return model.versions[version]

    def status(self, spec: model_pb2.ModelSpec) -> list[Servable]:
        """Loaded versions of a model, or the one asked for, newest first.

        Raises:
            RequestError: there is none (NOT_FOUND).
        """
        model = self._models.get(spec.name)
        versions = model.versions if model else {}
        if spec.HasField("version"):
            version = spec.version.value
            if version not in versions:
                raise RequestError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Could not find version {version} of model {spec.name}",
                )
            return [versions[version]]
        if not versions:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}"
            )
        return [versions[version] for version in sorted(versions, reverse=True)]

    def close(self) -> None:
        """Forgets and frees every model."""
        with self._writer:
            models, self._models = self._models, {}
        for model in models.values():
            for servable in model.versions.values():
                servable.close()


def load_models(
    configs: Iterable[ModelConfig],
    session_config=None,
    said: Callable[[str], None] = lambda line: None,
) -> Manager:
    """Loads and warms every version that ``configs`` ask for.

    Args:
        configs: iterable of ModelConfig.
        session_config: tf.compat.v1.ConfigProto or None. Threads of each session.
        said: callable. Receives a line for each version loaded.

    Raises:
        StartError: a folder, a version or a warm-up record is not as it must be.
    """
    manager, loaded = Manager(), []
    try:
        for config in configs:
            versions = {}
            for version, path in config.versions().items():
                versions[version] = Servable(config.name, version, path, session_config)
                loaded.append(versions[version])
                replayed = warm_up(versions[version])
                said(f"Loaded {config.name} version {version}, {replayed} warm-up requests.")
            manager.publish(config.name, Model(versions, config.labels))
    except StartError:
        for servable in loaded:
            servable.close()
        raise
    return manager
