"""``tfdare serve``: the development server's command."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading

from serving.server.batching import Batcher, read_batching_options
from serving.server.config import ModelConfig, read_config
from serving.server.errors import RequestError, StartError
from serving.server.metrics import Metrics
from serving.server.options import metrics_path, parse, server_credentials
from tfdare.quiet import quiet

_SWITCH_SECONDS = 0.0005


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM.

    Returns:
        0 after an orderly stop, 2 where it could not start, 130 when interrupted while loading.
    """
    options = parse(argv)
    try:
        return _serve(options)
    except (StartError, OSError) as error:
        print(f"tfdare serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while loading; later the signal is a request to stop
        return 130


def _serve(options) -> int:
    # Flags and files are checked before TensorFlow is started.
    configs = _configs(options)
    batching = (
        read_batching_options(options.batching_parameters_file) if options.enable_batching else None
    )
    path = metrics_path(options.monitoring_config_file)
    credentials = server_credentials(options.ssl_config_file)
    _require_free(options.host, options.port, "port")
    if options.rest_api_port is not None:
        _require_free(options.host, options.rest_api_port, "rest_api_port")
    with quiet():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    from serving.server.api import Api
    from serving.server.loading import Loader
    from serving.server.manager import Manager
    from serving.server.server import Listen, Server
    from serving.server.watcher import Watcher

    metrics = Metrics()
    batcher = Batcher(batching, metrics) if batching else None
    manager = Manager(
        Loader(
            metrics,
            _session_config(tf, options),
            batcher,
            options.num_request_iterations_for_warmup if options.enable_model_warmup else 0,
            _print,
        ),
        threads=max(1, options.num_load_threads),
        retries=options.max_num_load_retries,
        retry_seconds=options.load_retry_interval_micros / 1e6,
        unavailable_labels=options.allow_version_labels_for_unavailable_models,
        log=_print,
    )
    watcher = Watcher(
        manager,
        options.file_system_poll_wait_seconds,
        options.model_config_file,
        options.model_config_file_poll_wait_seconds,
    )
    server = Server(
        Api(manager, metrics, watcher),
        Listen(
            host=options.host,
            port=options.port,
            threads=options.grpc_max_threads,
            credentials=credentials,
            options=options.grpc_channel_arguments,
            rest_port=options.rest_api_port,
            rest_threads=options.rest_api_num_threads,
            rest_timeout=options.rest_api_timeout_in_ms / 1e3,
            metrics_path=path,
        ),
    )
    sys.setswitchinterval(_SWITCH_SECONDS)  # so that gRPC's threads do not wait for a busy one
    try:
        with quiet(explained=(StartError,)):
            load(manager, configs)
        server.start()
    except (StartError, OSError):
        manager.close()
        raise
    stopping = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
    watcher.start()
    for name in manager.names:
        _print(_served_text(name, manager.available(name), options.host, server))
    stopping.wait()
    _print("Stopping: no new calls are accepted; those under way may end.")
    server.stop()
    watcher.stop()
    manager.close()
    if batcher is not None:
        batcher.close()
    return 0


def load(manager, configs: list[ModelConfig]) -> None:
    """Loads every model of ``configs``.

    Raises:
        StartError: one of them has no version that loads, or a label cannot be assigned.
    """
    try:
        manager.configure(configs)
    except RequestError as error:
        raise StartError(error.message) from error


def _configs(options) -> list[ModelConfig]:
    if options.model_config_file is not None:
        configs = read_config(options.model_config_file)
    else:
        configs = [ModelConfig(options.model_name, options.model_base_path)]
    for config in configs:
        config.versions()
    return configs


def _session_config(tf, options):
    both = options.tensorflow_session_parallelism
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.tensorflow_intra_op_parallelism or both,
        inter_op_parallelism_threads=options.tensorflow_inter_op_parallelism or both,
        allow_soft_placement=True,
        gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),  # others may need the device too
    )


def _print(line: str) -> None:
    print(line, flush=True)


def _served_text(name: str, versions: list[int], host: str, server) -> str:
    verb = (
        f"version {versions[0]} is"
        if len(versions) == 1
        else (f"versions {', '.join(map(str, versions))} are")
    )
    where = f"{host}:{server.port} (gRPC)"
    if server.rest_port is not None:
        where += f" and {host}:{server.rest_port} (REST)"
    return f"{name} {verb} served at {where}. Ctrl-C stops the server."


def _require_free(host: str, port: int, flag: str) -> None:
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1" if host == "localhost" else host, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                f"Give another --{flag}, or 0 for any free one."
            ) from error
