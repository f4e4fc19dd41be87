"""A small model, a running development server and a folder of sequences, once a session."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from serving.client import Client
from tfdare.schema import Feature, Schema
from tfdare.sequences.folder import file_digest
from tfdare.sequences.record import UserRecord, encode, write_framed

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CONFIG = ROOT / "serving" / "config"
K = 4


def raw_items():
    """Lists the raw item ids that the small model knows; see small_model.py."""
    return np.array([1_000_000_000_000 + 7 * i for i in range(300)], np.int64)


def raw_categories():
    return np.array([11 * i + 3 for i in range(20)], np.int64)


def category_of(items):
    """Returns the category of a raw item that the small model knows."""
    return raw_categories()[((np.asarray(items) - raw_items()[0]) // 7) % 20]


@pytest.fixture(scope="session")
def ids():
    """Returns (items, categories, category_of) of the small model."""
    return raw_items(), raw_categories(), category_of


def _environment():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture(scope="session")
def environment():
    """Returns the environment of a child process that finds the packages under test."""
    return _environment()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Writes the models ``dare`` (version 1) and ``two`` (versions 1 and 2, of other weights,
    the first one that of ``dare``), all with three warm-up requests."""
    folder = tmp_path_factory.mktemp("models")
    command = [
        sys.executable,
        str(HERE / "small_model.py"),
        f"{folder}/dare/1:0",
        f"{folder}/two/2:1",
    ]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "dare" / "1", folder / "two" / "1")
    return folder


@pytest.fixture(scope="session")
def model_base(models):
    """Returns the folder of the model ``dare``."""
    return models / "dare"


@dataclasses.dataclass
class Running:
    """A server process: where it listens (gRPC, and REST where it does), what it said."""

    process: subprocess.Popen
    address: str
    rest: str | None
    said: list[str]
    complained: str

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def running(*arguments, log):
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.server", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={k: v for k, v in _environment().items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        )
    said = []
    try:
        for line in process.stdout:
            said.append(line.rstrip())
            if match := re.search(r"served at (\S+:\d+) \(gRPC\)(?: and (\S+:\d+))?", line):
                complained = pathlib.Path(log).read_text()
                yield Running(process, *match.groups(), said, complained)
                if process.poll() is None:
                    process.terminate()
                    assert process.wait(30) == 0, pathlib.Path(log).read_text()
                return
        raise AssertionError(f"No server: {said} {pathlib.Path(log).read_text()}")
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """Returns the context manager of a server process with the given flags."""

    def start(*arguments):
        return running(*arguments, log=tmp_path_factory.mktemp("log") / "stderr")

    return start


@pytest.fixture(scope="session")
def own_server(model_base, start_server):
    """Runs the development server on the small model, with the shipped monitoring file."""
    with start_server(
        "--model_base_path",
        model_base,
        "--model_name",
        "dare",
        "--port",
        0,
        "--rest_api_port",
        0,
        "--monitoring_config_file",
        CONFIG / "monitoring.config",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def address(request):
    """Returns the server under test: TFDARE_SERVING_ADDRESS, or the development server."""
    configured = os.environ.get("TFDARE_SERVING_ADDRESS")
    return configured or request.getfixturevalue("own_server").address


@pytest.fixture(scope="session")
def rest(request):
    """Returns the REST address under test: TFDARE_SERVING_REST, or the development server's.

    Skips where a gRPC address is given and no REST one.
    """
    configured = os.environ.get("TFDARE_SERVING_REST")
    if configured is None and "TFDARE_SERVING_ADDRESS" in os.environ:
        pytest.skip("TFDARE_SERVING_REST is not set")
    return configured or request.getfixturevalue("own_server").rest


@pytest.fixture(scope="session")
def client(own_server):
    """Provides a client of the development server."""
    with Client(own_server.address, timeout=60) as client:
        yield client


def random_requests(users=3, width=20, candidates=5, seed=0):
    """Draws a request mapping of ids that the small model knows, lengths from 0 to ``width``."""
    random = np.random.default_rng(seed)
    history = random.choice(raw_items(), [users, width])
    target = random.choice(raw_items(), [users, candidates])
    return {
        "history_item": history,
        "history_category": category_of(history),
        "history_length": random.integers(0, width + 1, users).astype(np.int32),
        "target_item": target,
        "target_category": category_of(target),
    }


@pytest.fixture(scope="session")
def requests_of():
    """Returns ``requests_of(users, width, candidates, seed)``, which draws a request mapping."""
    return random_requests


@pytest.fixture(scope="session")
def until():
    """Returns ``until(holds)``, which waits until ``holds()`` is true and returns its value."""

    def wait(holds, seconds=60):
        end = time.monotonic() + seconds
        while not (value := holds()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)
        return value

    return wait


@pytest.fixture(scope="session")
def sequences(tmp_path_factory):
    """Writes a folder of sequences whose raw ids the small model knows: users 100 to 103."""
    path = tmp_path_factory.mktemp("sequences")
    (path / "vocabulary").mkdir()
    for name, raw in (("item", raw_items()), ("category", raw_categories())):
        lines = [f"{value}\t{len(raw) - i}\n" for i, value in enumerate(raw)]
        (path / "vocabulary" / f"{name}.tsv").write_text("".join(lines))
    schema = Schema(
        features=tuple(
            Feature(
                name,
                size + 2,
                vocabulary=f"vocabulary/{name}.tsv",
                digest=file_digest(path / "vocabulary" / f"{name}.tsv"),
            )
            for name, size in (("item", 300), ("category", 20))
        ),
        window=30,
    )
    (path / "schema.json").write_text(schema.to_json())
    (path / "manifest.json").write_text("{}")
    random = np.random.default_rng(3)
    for split in ("train", "test"):
        (path / split).mkdir()
        with open(path / split / "part-00000-of-00001.tfrecord", "wb") as file:
            for user in (100, 101, 102, 103):
                item = random.integers(2, 200, 50)
                target = random.integers(2, 200, 6)
                if split == "test":
                    item[40] = 1  # out of vocabulary
                record = UserRecord(
                    str(user),
                    {"item": item, "category": np.where(item > 1, (item - 2) % 20 + 2, 1)},
                    np.arange(50),
                    np.array([0, 0] if user == 103 else [20, 45]),
                    np.array([3, 3]),
                    {"item": target, "category": (target - 2) % 20 + 2},
                    np.array([1, 0, 0, 1, 0, 0]),
                )
                write_framed(file, encode(record))
    (path / "_SUCCESS").touch()
    return path
