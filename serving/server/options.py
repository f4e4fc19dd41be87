"""Flags of the development server, named like the stock server's."""

from __future__ import annotations

import argparse
import os

import grpc

from serving.server.errors import StartError
from serving.server.metrics import DEFAULT_PATH
from serving.server.text_protos import monitoring_config, read_text_proto, ssl_config
from tfdare.commands.parser import Parser, non_negative_int, positive_int

MAX_PORT = 65535


def parser() -> Parser:
    """Builds the parser of ``tfdare serve``."""
    flags = Parser(
        "serve",
        example="tfdare serve --model_base_path build/servables/dare --model_name dare --port 8500",
        description="Serves exported models over the gRPC and REST API of TensorFlow Serving, "
        "for development; flags are named like those of tensorflow_model_server. Use that in "
        "production. Predict, GetModelMetadata, GetModelStatus and HandleReloadConfigRequest are "
        "served; Classify, Regress and MultiInference answer UNIMPLEMENTED.",
    )
    threads = 4 * (os.cpu_count() or 1)
    models = flags.add_argument_group("models")
    models.add_argument("--model_name", default="dare", help="name that requests give")
    models.add_argument("--model_base_path", help="folder with a folder for each version")
    models.add_argument("--model_config_file", help="text proto with a model_config_list, instead")
    _add(
        models,
        "model_config_file_poll_wait_seconds",
        non_negative_int,
        0,
        "seconds until that file is read again; 0: read once",
    )
    _add(
        models,
        "file_system_poll_wait_seconds",
        non_negative_int,
        1,
        "seconds between two looks for new versions; 0: look once",
    )
    _add(
        models,
        "allow_version_labels_for_unavailable_models",
        _boolean,
        False,
        "let a label that is not in use name a version that is not loaded; without it no label "
        "can be given at the start",
    )
    _add(
        models, "num_load_threads", non_negative_int, 0, "versions loaded at the same time; 0: one"
    )
    _add(
        models,
        "max_num_load_retries",
        non_negative_int,
        0,
        "times that a failed load is tried again (tensorflow_model_server: 5)",
    )
    _add(
        models,
        "load_retry_interval_micros",
        non_negative_int,
        60_000_000,
        "microseconds before a failed load is tried again",
    )
    _add(models, "enable_model_warmup", _boolean, True, "replay a version's warm-up requests")
    _add(
        models,
        "num_request_iterations_for_warmup",
        positive_int,
        1,
        "times that each warm-up request is replayed",
    )

    listening = flags.add_argument_group("gRPC")
    listening.add_argument("--port", type=non_negative_int, default=8500, help="0: any free port")
    listening.add_argument("--host", default="localhost", help="0.0.0.0: every interface")
    _add(listening, "grpc_max_threads", positive_int, threads, "calls processed at the same time")
    _add(
        listening,
        "grpc_channel_arguments",
        str,
        "",
        "key=value,..., such as grpc.max_receive_message_length=4194304",
    )
    listening.add_argument(
        "--ssl_config_file",
        help="SSLConfig text proto: server_key, server_cert, custom_ca, client_verify",
    )

    rest = flags.add_argument_group("REST")
    rest.add_argument(
        "--rest_api_port", type=non_negative_int, help="None: no REST; 0: any free port"
    )
    _add(rest, "rest_api_num_threads", positive_int, threads, "requests processed at the same time")
    _add(rest, "rest_api_timeout_in_ms", positive_int, 30_000, "time limit of a request")
    rest.add_argument(
        "--monitoring_config_file",
        help="MonitoringConfig text proto: prometheus_config { enable: true path: ... }",
    )

    running = flags.add_argument_group("running")
    _add(running, "enable_batching", _boolean, False, "batch requests")
    running.add_argument("--batching_parameters_file", help="BatchingParameters text proto")
    for name, what in (
        ("session", "in each of a session's two pools, instead of the two flags below"),
        ("intra_op", "for one operation"),
        ("inter_op", "for operations at the same time"),
    ):
        _add(
            running,
            f"tensorflow_{name}_parallelism",
            non_negative_int,
            0,
            f"threads {what}; 0: TensorFlow chooses",
        )
    return flags


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the flags and checks what can be checked without files."""
    flags = parser()
    options = flags.parse_args(argv)
    if (options.model_base_path is None) == (options.model_config_file is None):
        flags.error("give either --model_base_path or --model_config_file")
    for name in ("port", "rest_api_port"):
        if (getattr(options, name) or 0) > MAX_PORT:
            flags.error(f"--{name} must be at most {MAX_PORT}. Received: {getattr(options, name)}")
    if options.port and options.port == options.rest_api_port:
        flags.error("--rest_api_port cannot be the same as --port")
    if options.batching_parameters_file and not options.enable_batching:
        flags.error("--batching_parameters_file needs --enable_batching")
    if options.tensorflow_session_parallelism and (
        options.tensorflow_intra_op_parallelism or options.tensorflow_inter_op_parallelism
    ):
        flags.error(
            "give --tensorflow_session_parallelism or --tensorflow_intra_op_parallelism and "
            "--tensorflow_inter_op_parallelism, not both"
        )
    if options.monitoring_config_file and options.rest_api_port is None:
        flags.error("--monitoring_config_file needs --rest_api_port, where metrics are read")
    try:
        options.grpc_channel_arguments = _channel_arguments(options.grpc_channel_arguments)
    except ValueError as error:
        flags.error(f"--grpc_channel_arguments must be key=value,.... Received: {error}")
    return options


def server_credentials(path: str | None) -> grpc.ServerCredentials | None:
    """Reads the credentials of an ``SSLConfig`` text proto, whose fields hold the PEM text itself.

    Raises:
        StartError: the file is not one, or holds no key and certificate.
    """
    if path is None:
        return None
    proto = read_text_proto(path, ssl_config())
    if not proto.server_key or not proto.server_cert:
        raise StartError(f"{path!r} must hold server_key and server_cert, as PEM text.")
    if proto.client_verify and not proto.custom_ca:
        raise StartError(f"{path!r} must hold custom_ca, which client_verify needs.")
    return grpc.ssl_server_credentials(
        [(proto.server_key.encode(), proto.server_cert.encode())],
        root_certificates=proto.custom_ca.encode() or None,
        require_client_auth=proto.client_verify,
    )


def metrics_path(path: str | None) -> str | None:
    """Returns the REST path of the metrics by a ``MonitoringConfig`` text proto; None: no metrics.

    Raises:
        StartError: the file is not one.
    """
    if path is None:
        return None
    config = read_text_proto(path, monitoring_config()).prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else None


def _add(group, name: str, kind, default, text: str) -> None:
    extra = {"nargs": "?", "const": True} if kind is _boolean else {}
    group.add_argument(f"--{name}", type=kind, default=default, help=text, **extra)


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"must be true or false. Received: {text!r}") from None


def _channel_arguments(text: str) -> dict[str, int | str]:
    arguments: dict[str, int | str] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not key:
            raise ValueError(repr(text))
        arguments[key] = int(value) if value.lstrip("-").isdigit() else value
    return arguments
