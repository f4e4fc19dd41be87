"""Models and versions to serve, from flags, a file or a call. Does not import TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.client.protos import model_server_config_pb2
from serving.server.errors import RequestError, StartError, invalid
from serving.server.text_protos import read_text_proto

PLATFORM = "tensorflow"
_LARGEST_VERSION = 2**63 - 1


@dataclass(frozen=True)
class ModelConfig:
    """One model: a name, the folder of its versions, and which of them to serve.

    Args:
        name: str. The name that requests give.
        base_path: str. Folder that holds a folder for each version, named by an integer.
        latest: int. Serve that many of the highest versions. Defaults to 1.
        all: bool. Serve every version. Defaults to False.
        specific: tuple of int. Serve these versions and no other. Defaults to none.
        labels: mapping of label to version.
    """

    name: str
    base_path: str
    latest: int = 1
    all: bool = False
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self) -> dict[int, str]:
        """Finds the versions to serve that exist: version to folder, rising.

        Raises:
            StartError: no such folder.
        """
        versions = find_versions(self.base_path)
        if self.all:
            return versions
        if self.specific:
            return {version: path for version, path in versions.items() if version in self.specific}
        return {version: versions[version] for version in sorted(versions)[-self.latest :]}

    def versions(self) -> dict[int, str]:
        """Returns the same as :meth:`wanted`, but requires the versions to exist.

        Raises:
            StartError: no such folder, no version in it, or not the one asked for.
        """
        versions = find_versions(self.base_path)
        if not versions:
            raise StartError(
                f"No version of model {self.name!r} in {self.base_path!r}: a version is a folder "
                "named by an integer that holds saved_model.pb, such as "
                f"{os.path.join(self.base_path, '1')!r}."
            )
        if missing := sorted(set(self.specific) - set(versions)):
            raise StartError(
                f"Model {self.name!r} has no version {missing[0]} in {self.base_path!r}. "
                f"Versions there: {sorted(versions)}"
            )
        return self.wanted()


def find_versions(base_path: str) -> dict[int, str]:
    """Finds every folder in ``base_path`` named by an integer: version to folder, rising.

    Numbers beyond int64 are passed over, as by TensorFlow Serving (``safe_strto64``).

    Raises:
        StartError: ``base_path`` is not a folder.
    """
    try:
        names = os.listdir(base_path)
    except OSError as error:
        raise StartError(f"No such folder: {base_path!r} (the model's base path)") from error
    versions: dict[int, str] = {}
    for name in names:
        path = os.path.join(base_path, name)
        number = name.isascii() and name.isdigit() and int(name) <= _LARGEST_VERSION
        if number and os.path.isdir(path):
            versions.setdefault(int(name), path)
    return dict(sorted(versions.items()))


def read_config(path: str) -> list[ModelConfig]:
    """Reads a config file: a ``ModelServerConfig`` text proto with a ``model_config_list``.

    Raises:
        StartError: the file cannot be read, or asks for what this server does not do.
    """
    proto = read_text_proto(path, model_server_config_pb2.ModelServerConfig())
    if not proto.model_config_list.config:
        raise StartError(f"{path!r} names no model in a model_config_list.")
    try:
        return models_of(proto)
    except RequestError as error:
        raise StartError(f"{path!r}: {error.message}") from error


def models_of(proto: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """Reads the models of a ``ModelServerConfig``; most errors have the stock server's wording.

    Raises:
        RequestError: (INVALID_ARGUMENT) no list of models, a model that is listed twice or has no
            name, folder or supported platform, or a policy that serves nothing.
    """
    if proto.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    models = [_model(config) for config in proto.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"Illegal to list model {name} multiple times in config list")
    return models


def _model(config: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not config.name or not config.base_path:
        raise invalid(f"Every model needs a name and a base_path. Received: {_line(config)}")
    if not config.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform: model {config.name} needs model_platform: "
            f'"{PLATFORM}"'
        )
    if config.model_platform != PLATFORM:
        raise invalid(f"Model {config.name} requests unsupported platform {config.model_platform}")
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific" and not policy.specific.versions:
        raise invalid(f"Model {config.name} asks for specific versions and names none")
    return ModelConfig(
        name=config.name,
        base_path=config.base_path,
        latest=policy.latest.num_versions or 1,
        all=choice == "all",
        specific=tuple(policy.specific.versions),
        labels=dict(config.version_labels),
    )


def _line(proto) -> str:
    return " ".join(str(proto).split()) or "{}"
