"""The development server: what it loads, how it starts, fails to start, and stops."""

import concurrent.futures
import dataclasses
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import grpc
import pytest
from google.protobuf import text_format

import serving
from serving.client import Client, ServingError
from serving.client.protos import (
    model_pb2,
    model_server_config_pb2,
    predict_pb2,
    prediction_log_pb2,
)
from serving.client.tensors import to_proto
from serving.server.config import ModelConfig, find_versions, read_config
from serving.server.errors import MAX_MESSAGE, RequestError, StartError, shortened
from serving.server.main import main
from tfdare.sequences.record import read_framed, write_framed

FIRST = model_pb2.ModelSpec(name="two")
FIRST.version.value = 1
CONFIG = pathlib.Path(serving.__file__).parent / "config" / "models.config"


def predict_request(inputs, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_proto(value))
    return request


# --- starting ---


def test_help_starts_with_a_line_to_paste(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("tfdare serve --model_base_path ")


def test_starting_says_what_is_served_and_nothing_else(own_server):
    assert own_server.said == [
        "Loaded dare version 1, 3 warm-up requests.",
        f"dare version 1 is served at {own_server.address} (gRPC) and {own_server.rest} (REST). "
        "Ctrl-C stops the server.",
    ]
    assert own_server.complained == ""


def test_help_and_mistakes_do_not_start_tensorflow(environment, tmp_path):
    code = (
        "import sys\nfrom serving.server.main import main\n"
        f"assert main(['--model_base_path', {str(tmp_path)!r}]) == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "No version of model 'dare'" in done.stderr, done.stderr


def test_no_such_folder(capsys, tmp_path):
    assert main(["--model_base_path", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "No such folder" in capsys.readouterr().err


def test_no_version_in_the_folder(capsys, tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "3").touch()
    assert main(["--model_base_path", str(tmp_path), "--port", "0"]) == 2
    assert "No version of model 'dare'" in capsys.readouterr().err


def test_port_in_use(capsys, model_base, own_server):
    port = own_server.address.rpartition(":")[2]
    assert main(["--model_base_path", str(model_base), "--port", port]) == 2
    assert f"Port {port} on localhost cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model_base_path", "a", "--model_config_file", "b"],
        ["--model_base_path", "a", "--port", "-1"],
        ["--model_base_path", "a", "--port", "99999"],
        ["--model_base_path", "a", "--grpc_max_threads", "0"],
    ],
)
def test_invalid_flags_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "error:" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["graph", "variables", "assets"])
def test_a_version_that_does_not_load(damage, model_base, tmp_path, capsys):
    shutil.copytree(model_base, tmp_path / "dare")
    version = tmp_path / "dare" / "1"
    if damage == "graph":
        (version / "saved_model.pb").write_bytes(b"garbage")
    elif damage == "variables":
        shutil.rmtree(version / "variables")
    else:
        (version / "assets" / "item.txt").unlink()
    assert main(["--model_base_path", str(tmp_path / "dare"), "--port", "0"]) == 2
    assert "Version 1 of model 'dare'" in (said := capsys.readouterr().err)
    assert "does not load" in said and "Traceback" not in said


def rewrite_warmup(model_base, base, change):
    """Copies the model with warm-up records ``change(records)``."""
    shutil.copytree(model_base, base)
    path = base / "1" / "assets.extra" / "tf_serving_warmup_requests"
    with open(path, "rb") as file:
        records = [prediction_log_pb2.PredictionLog.FromString(data) for data in read_framed(file)]
    with open(path, "wb") as file:
        for record in change(records):
            write_framed(file, record.SerializeToString())


def without_position(records):
    del records[1].predict_log.request.inputs["behavior_position"]
    return records


@pytest.mark.parametrize(
    "change, message",
    [
        (without_position, "record 2 failed: input size does not match signature"),
        (lambda records: records * 334, "record 1001 failed: Number of warmup records exceeds"),
        (lambda records: [prediction_log_pb2.PredictionLog()], "Unsupported log_type for warmup"),
    ],
)
def test_a_warm_up_record_that_fails_fails_the_load(change, message, model_base, tmp_path, capsys):
    rewrite_warmup(model_base, tmp_path / "dare", change)
    assert main(["--model_base_path", str(tmp_path / "dare"), "--port", "0"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"garbage", struct.pack("<QI", 1, 1)])
def test_a_damaged_warm_up_file_fails_the_load(content, model_base, tmp_path, capsys):
    shutil.copytree(model_base, tmp_path / "dare")
    (tmp_path / "dare/1/assets.extra/tf_serving_warmup_requests").write_bytes(content)
    assert main(["--model_base_path", str(tmp_path / "dare"), "--port", "0"]) == 2
    assert "Damaged TFRecord" in capsys.readouterr().err


# --- the shipped configuration, and an orderly stop ---


def test_shipped_config_starts_a_server_which_drains(models, tmp_path, start_server, requests_of):
    config = text_format.Parse(CONFIG.read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (
        "dare",
        "/models/dare",
        "tensorflow",
    )
    file = tmp_path / "models.config"
    file.write_text(CONFIG.read_text().replace("/models/", f"{models}/"))
    heavy = requests_of(users=2, width=20_000, candidates=500)
    flags = ["--model_config_file", file, "--port", 0, "--grpc_max_threads", 1]
    with start_server(*flags) as server, Client(server.address, timeout=60, retries=0) as client:
        assert client.versions() == {1: "AVAILABLE"}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            under_way = [pool.submit(client.rank, heavy) for _ in range(8)]
            concurrent.futures.wait(under_way, return_when=concurrent.futures.FIRST_COMPLETED)
            assert not all(call.done() for call in under_way)
            assert server.stop(signal.SIGTERM) == 0
            for call in under_way:  # one that ran and those that waited for the thread
                assert call.result().probability.shape == (2, 500)
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            client.versions()


def test_options_of_a_config_file(tmp_path, models):
    file = tmp_path / "models.config"
    file.write_text(f"""
        model_config_list {{
          config {{ name: "a" base_path: "{models}/two" model_platform: "tensorflow"
                    model_version_policy {{ all {{}} }}
                    version_labels {{ key: "stable" value: 1 }} }}
          config {{ name: "b" base_path: "{models}/two" model_platform: "tensorflow"
                    model_version_policy {{ specific {{ versions: 1 }} }} }}
          config {{ name: "c" base_path: "{models}/two" model_platform: "tensorflow" }}
          config {{ name: "d" base_path: "{models}/two" model_platform: "tensorflow"
                    model_version_policy {{ latest {{ num_versions: 5 }} }} }}
          config {{ name: "e" base_path: "{models}/two" model_platform: "tensorflow"
                    model_version_policy {{ specific {{ versions: 7 }} }} }}
        }}""")
    a, b, c, d, e = read_config(str(file))
    assert [list(m.versions()) for m in (a, b, c, d)] == [[1, 2], [1], [2], [1, 2]]
    assert a.labels == {"stable": 1} and c.labels == {}
    with pytest.raises(StartError, match=r"has no version 7 .*Versions there: \[1, 2\]"):
        e.versions()


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense {", "is no ModelServerConfig"),
        ("", "names no model"),
        ('model_config_list { config { name: "a" } }', "needs a name and a base_path"),
        (
            'model_config_list { config { name: "a" base_path: "/a" } }',
            'model a needs model_platform: "tensorflow"',
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "x" } }',
            "Model a requests unsupported platform x",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" '
            "model_version_policy { specific {} } } }",
            "asks for specific versions and names none",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } '
            'config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
            "Illegal to list model a multiple times in config list",
        ),
    ],
)
def test_config_files_that_cannot_be_used(text, message, tmp_path, capsys):
    file = tmp_path / "models.config"
    file.write_text(text)
    assert main(["--model_config_file", str(file)]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(StartError, match="Cannot read"):
        read_config(str(tmp_path / "none"))


def test_versions_are_integers_in_rising_order(tmp_path):
    for name in ("2", "10", "007", "-3", "1.5", "tmp-4", "٣", "20231127141500123456"):
        (tmp_path / name).mkdir()
    assert list(find_versions(str(tmp_path))) == [2, 7, 10]


# --- in this process: versions, labels, the run ---


@pytest.fixture(scope="module")
def config(models):
    """Makes a config of both versions of the model ``two``, each with a label."""
    labels = {"stable": 1, "canary": 2}
    return ModelConfig("two", str(models / "two"), all=True, labels=labels)


@pytest.fixture(scope="module")
def manager(config):
    from serving.server.loading import Loader
    from serving.server.manager import Manager
    from serving.server.metrics import Metrics

    manager = Manager(Loader(Metrics()), unavailable_labels=True)
    manager.configure([config])
    yield manager
    manager.close()


def served(manager, port=0, host="localhost"):
    from serving.server.api import Api
    from serving.server.server import Listen, Server

    return Server(Api(manager), Listen(host, port, threads=2, grace=1))


@pytest.fixture(scope="module")
def two(manager):
    server = served(manager)
    server.start()
    with Client(f"localhost:{server.port}", "two", timeout=60) as client:
        yield client
    server.stop()


def test_latest_specific_and_labels(two, requests_of):
    requests = requests_of()
    latest, first = two.rank(requests), two.rank(requests, version=1)
    assert (latest.version, first.version) == (2, 1)
    assert abs(latest.probability - first.probability).max() > 0.01
    for label, version, whole in (("stable", 1, first), ("canary", 2, latest)):
        answer = two.predict("serving_default", requests, label=label)
        assert answer.version == version and answer.model == "two"
        assert (answer.outputs["probability"] == whole.probability).all()
    assert two.rank(requests, split=True, version=1).version == 1
    assert list(two.versions()) == [2, 1]


def test_a_version_replaced_between_search_and_score(manager, config, two, requests_of):
    class Replacing(Client):
        def _send(self, call, until):
            answer = super()._send(call, until)
            if call.request.model_spec.signature_name == "search":
                manager.configure([dataclasses.replace(config, all=False, specific=(1,))])
                manager.refresh()
            return answer

    try:
        with Replacing(two.address, "two", timeout=60) as client:
            result = client.rank(requests_of(), split=True)
            assert result.version == 1
            whole = client.rank(requests_of())
            assert abs(result.probability - whole.probability).max() <= 1e-6
            manager.configure([config])
            manager.refresh()
            with pytest.raises(ServingError, match="NOT_FOUND"):
                client.rank(requests_of(), split=True, version=2)
    finally:
        manager.configure([config])
        manager.refresh()
    assert manager.available("two") == [1, 2]


def test_halves_that_are_rolled_out_one_after_the_other(manager, config, two, requests_of):
    """Serves versions 1 and 2 of search, and 1 of score: both halves of an answer are of 1."""
    from serving.server.loading import Loader
    from serving.server.manager import Manager
    from serving.server.metrics import Metrics

    behind = Manager(Loader(Metrics()))
    behind.configure([dataclasses.replace(config, all=False, specific=(1,), labels={})])
    server = served(behind)
    server.start()
    try:
        with Client(f"localhost:{server.port}", "two", timeout=60, search_address=two.address) as c:
            split, requests = c.rank(requests_of(), split=True), requests_of()
            whole = two.rank(requests, version=1)
            assert split.version == 1
            assert abs(split.probability - whole.probability).max() <= 1e-6
            assert (split.behavior_index == whole.behavior_index).all()
            with pytest.raises(ServingError, match=r"NOT_FOUND.*Specific\(two, 2\)"):
                c.rank(requests, split=True, version=2)
    finally:
        server.stop()
        behind.close()


def test_a_server_that_starts_late_is_waited_for(manager, requests_of):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Client(f"localhost:{port}", "two", timeout=60, retries=1000) as client:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.rank, requests_of())
            time.sleep(0.7)
            assert not answer.done()
            server = served(manager, port)
            server.start()
            assert answer.result(30).probability.shape == (3, 5)
            server.stop()


def test_requests_past_their_deadline_leave_the_threads_free(two, requests_of):
    heavy, light = requests_of(4, 20_000, 500), requests_of()
    for _ in range(4):
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            two.rank(heavy, timeout=0.02)
    assert two.rank(light).probability.shape == (3, 5)


def test_the_deadline_is_the_timeout_of_the_run(manager, requests_of):
    from serving.server.predict import predict

    with manager.borrow(FIRST) as servable:
        with pytest.raises(RequestError) as caught:
            predict(servable, predict_request(requests_of(4, 5000, 500)), timeout=0.01)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert predict(servable, predict_request(requests_of()), timeout=60).outputs


def test_an_error_inside_the_run_keeps_its_code(manager, requests_of):
    from serving.server.predict import predict

    requests = requests_of(width=6)
    requests["history_category"] = requests["history_category"][:, :5]
    with manager.borrow(FIRST) as servable, pytest.raises(RequestError) as caught:
        predict(servable, predict_request(requests))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message.startswith("ConcatOp")


def test_a_signature_that_is_not_one_to_predict_with(manager, requests_of):
    from serving.server.predict import predict

    request = predict_request(requests_of(), "__saved_model_init_op")
    refused = pytest.raises(RequestError, match="Expected prediction signature method_name")
    with manager.borrow(FIRST) as servable, refused as caught:
        predict(servable, request)
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_an_address_that_cannot_be_listened_on(manager):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="Cannot listen on"):
            served(manager, taken.getsockname()[1], "127.0.0.1").start()


def test_long_error_messages_are_shortened():
    assert shortened("wrong\n\nOriginal stack trace for x") == "wrong"
    assert shortened("x" * 5000) == "x" * MAX_MESSAGE + "...TRUNCATED"
