"""``tfdare serve``: the development server's command."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading

from serving.arguments import non_negative_int, positive_int
from serving.server.config import ModelConfig, read_config
from serving.server.errors import StartError
from tfdare.command import Parser
from tfdare.quiet import quiet

GRACE_SECONDS = 10.0


def _parser() -> Parser:
    parser = Parser(
        "serve",
        example="tfdare serve --model_base_path build/servables/dare --model_name dare --port 8500",
        description="Serves exported models over the gRPC API of TensorFlow Serving, for "
        "development; flags are named as the stock server's. Use the stock server in production.",
    )
    parser.add_argument("--port", type=non_negative_int, default=8500, help="0: any free port")
    parser.add_argument("--host", default="localhost", help="0.0.0.0: every interface")
    parser.add_argument("--model_name", default="dare", help="name that requests give")
    parser.add_argument("--model_base_path", help="folder with a folder for each version")
    parser.add_argument("--model_config_file", help="text proto with a model_config_list, instead")
    parser.add_argument(
        "--grpc_max_threads", type=positive_int, default=4 * (os.cpu_count() or 1),
        help="calls worked on at the same time",
    )
    parser.add_argument(
        "--tensorflow_session_parallelism", type=non_negative_int, default=0,
        help="threads of each of a session's two pools; 0: TensorFlow chooses",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM.

    Returns:
        0 after an orderly stop, 2 where it could not start, 130 when interrupted while loading.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.model_base_path is None) == (options.model_config_file is None):
        parser.error("give either --model_base_path or --model_config_file")
    if options.port > 65535:
        parser.error(f"--port must be at most 65535. Received: {options.port}")
    try:
        return _serve(options)
    except (StartError, OSError) as error:
        print(f"tfdare serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while loading; later the signal is a request to stop
        return 130


def _serve(options) -> int:
    # What can be wrong is found before TensorFlow is started.
    if options.model_config_file is not None:
        configs = read_config(options.model_config_file)
    else:
        configs = [ModelConfig(options.model_name, options.model_base_path)]
    for config in configs:
        config.versions()
    _require_free(options.host, options.port)
    with quiet():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("grpc._common").addFilter(_without_traceback)
    from serving.server.manager import load_models
    from serving.server.service import Server

    threads = options.tensorflow_session_parallelism
    session_config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads,
        inter_op_parallelism_threads=threads,
        allow_soft_placement=True,
        gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),  # others may need the device too
    )
    with quiet(explained=(StartError,)):
        manager = load_models(configs, session_config, lambda line: print(line, flush=True))
    try:
        server = Server(manager, f"{options.host}:{options.port}", options.grpc_max_threads)
    except OSError:
        manager.close()
        raise
    stopping = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
    server.start()
    for name, model in manager.models.items():
        versions = sorted(model.versions)
        what = f"version {versions[0]} is" if len(versions) == 1 else (
            f"versions {', '.join(map(str, versions))} are"
        )
        print(f"{name} {what} served at {options.host}:{server.port} (gRPC). "
              "Ctrl-C stops the server.", flush=True)
    stopping.wait()
    print("Stopping: no new calls; those under way may end.", flush=True)
    server.stop(GRACE_SECONDS)
    manager.close()
    return 0


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None  # a request that is no message is the sender's fault: one line
    return True


def _require_free(host: str, port: int) -> None:
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1" if host == "localhost" else host, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                "Give another --port, or 0 for any free one."
            ) from error
