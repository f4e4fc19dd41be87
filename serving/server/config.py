"""Which models and versions to serve: from flags or a model config file. No TensorFlow here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Mapping

from google.protobuf import text_format

from serving.protos import model_server_config_pb2
from serving.server.errors import StartError


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

    def versions(self) -> dict[int, str]:
        """Version to folder, of the versions to serve, rising.

        Raises:
            StartError: no such folder, no version in it, or not the one asked for.
        """
        found = find_versions(self.base_path)
        if not found:
            raise StartError(
                f"No version of model {self.name!r} in {self.base_path!r}: a version is a folder "
                "named by an integer that holds saved_model.pb, such as "
                f"{os.path.join(self.base_path, '1')!r}."
            )
        if self.all:
            return found
        if self.specific:
            missing = sorted(set(self.specific) - set(found))
            if missing:
                raise StartError(
                    f"Model {self.name!r} has no version {missing[0]} in {self.base_path!r}. "
                    f"Versions there: {sorted(found)}"
                )
            return {version: found[version] for version in sorted(set(self.specific))}
        return {version: found[version] for version in sorted(found)[-self.latest :]}


def find_versions(base_path: str) -> dict[int, str]:
    """Version to folder, rising, of every child of ``base_path`` named by an integer.

    Raises:
        StartError: ``base_path`` is not a folder.
    """
    if not os.path.isdir(base_path):
        raise StartError(f"No such folder: {base_path!r} (the model's base path)")
    found = {}
    for name in os.listdir(base_path):
        path = os.path.join(base_path, name)
        if name.isascii() and name.isdigit() and os.path.isdir(path):
            found.setdefault(int(name), path)
    return dict(sorted(found.items()))


def read_config(path: str) -> list[ModelConfig]:
    """Models of a config file: a ``ModelServerConfig`` text proto with a ``model_config_list``.

    Raises:
        StartError: the file cannot be read, or asks for what this server does not do.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"Cannot read the model config file {path!r}: {error}") from error
    try:
        proto = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise StartError(f"{path!r} is not a model server config: {error}") from error
    if not proto.model_config_list.config:
        raise StartError(f"{path!r} names no model in a model_config_list.")
    models = [_model(config, path) for config in proto.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise StartError(f"{path!r} names model {name!r} more than once.")
    return models


def _model(config: model_server_config_pb2.ModelConfig, path: str) -> ModelConfig:
    if not config.name or not config.base_path:
        raise StartError(f"Every model in {path!r} needs a name and a base_path. Got: {config}")
    if config.model_platform not in ("", "tensorflow"):
        raise StartError(
            f"Model {config.name!r} in {path!r} must have model_platform \"tensorflow\". "
            f"Received: {config.model_platform!r}"
        )
    policy = config.model_version_policy
    return ModelConfig(
        name=config.name,
        base_path=config.base_path,
        latest=policy.latest.num_versions or 1,
        all=policy.WhichOneof("policy_choice") == "all",
        specific=tuple(policy.specific.versions),
        labels=dict(config.version_labels),
    )
