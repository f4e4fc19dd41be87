"""A portable runner with workers in separate processes gives the same sequences."""

import os
import socket
import subprocess
import sys
import time

import pytest

from tests.beam_jobs.conftest import SMALL, csv_text, made_up_rows


@pytest.fixture
def worker_pool():
    """Yields the address of a pool that starts workers when a runner asks for them."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
    beside = os.path.dirname(sys.executable)  # the pool starts its workers as `python`
    environment = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    pool = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
            f"--service_port={port}",
        ],
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    while not _listens(port):
        assert pool.poll() is None, f"the worker pool ended with {pool.returncode}"
        time.sleep(0.1)
    yield f"localhost:{port}"
    pool.kill()
    pool.wait()


def _listens(port):
    with socket.socket() as caller:
        return caller.connect_ex(("localhost", port)) == 0


def test_a_portable_runner_gives_the_same_sequences(prepare, tmp_path, worker_pool):
    log = tmp_path / "log.csv"
    log.write_text(csv_text(made_up_rows()))
    local = prepare(log, *SMALL, output="local")
    portable = prepare(
        log,
        *SMALL,
        "--runner=PortableRunner",
        "--job_endpoint=embed",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool}",
        output="portable",
    )
    assert portable.code == 0, portable.err
    assert "running on PortableRunner" in portable.err
    assert portable.manifest["digests"] == local.manifest["digests"]
    assert portable.manifest["counts"] == local.manifest["counts"]
    assert portable.manifest["vectors"] == local.manifest["vectors"]
