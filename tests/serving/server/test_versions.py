"""Versions are added, removed, fail and get labels while requests are answered."""

import concurrent.futures
import contextlib
import dataclasses
import shutil
import threading
import time

import grpc
import pytest

from serving.client import Client
from serving.client.protos import (
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
)
from serving.client.tensors import to_proto
from serving.server.config import ModelConfig
from serving.server.errors import RequestError

Code = grpc.StatusCode
State = get_model_status_pb2.ModelVersionStatus.State


def published(source, base, version):
    """Adds a version as exports do: whole, by a rename."""
    shutil.copytree(source, base / f"tmp-{version}")
    (base / f"tmp-{version}").rename(base / str(version))


def broken(base, version):
    (base / f"tmp-{version}").mkdir()
    (base / f"tmp-{version}" / "saved_model.pb").write_bytes(b"garbage")
    (base / f"tmp-{version}").rename(base / str(version))


def states(client):
    return dict(client.versions().items())


@contextlib.contextmanager
def asking(client, requests):
    """Sends requests without a pause; yields the versions that answered."""
    stop, answered = threading.Event(), []

    def ask():
        while not stop.is_set():
            answered.append(client.rank(requests).version)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(ask) for _ in range(2)]
        try:
            yield answered
        finally:
            stop.set()
        for future in futures:
            future.result()  # raises where a request was lost


def test_a_folder_is_watched_and_no_request_is_lost(
    models, tmp_path, start_server, requests_of, until
):
    base, requests = tmp_path / "dare", requests_of()
    shutil.copytree(models / "two" / "1", base / "1")
    with (
        start_server("--model_base_path", base, "--port", 0) as server,
        Client(server.address, timeout=60, retries=0) as client,
        asking(client, requests) as answered,
    ):
        until(lambda: answered)
        published(models / "two" / "2", base, 2)
        until(lambda: states(client) == {1: "END", 2: "AVAILABLE"})
        broken(base, 3)
        until(lambda: states(client) == {1: "END", 2: "AVAILABLE", 3: "END"})
        stub = model_service_pb2_grpc.ModelServiceStub(client._channels[server.address])
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "dare"
        first = stub.GetModelStatus(request).model_version_status[0]
        assert first.version == 3 and first.status.error_code != 0
        assert "does not load" in first.status.error_message
        assert client.rank(requests).version == 2
        shutil.rmtree(base / "3")
        shutil.rmtree(base / "2")  # rolled back by deleting
        until(lambda: states(client) == {1: "AVAILABLE", 2: "END", 3: "END"})
        assert client.rank(requests).version == 1
    assert answered[0] == 1 and set(answered) == {1, 2}


def test_a_config_file_is_read_again(models, tmp_path, start_server, requests_of, until):
    file, requests = tmp_path / "models.config", requests_of()

    def write(stable, text=""):
        file.write_text(f"""model_config_list {{ config {{
            name: "two" base_path: "{models}/two" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: {stable} }} }} }} {text}""")

    def answers():
        return client.predict("serving_default", requests, label="stable").version

    write(1)
    flags = [
        "--model_config_file",
        file,
        "--model_config_file_poll_wait_seconds",
        1,
        "--port",
        0,
        "--allow_version_labels_for_unavailable_models",
    ]
    with start_server(*flags) as server, Client(server.address, "two", timeout=60) as client:
        assert answers() == 1 and states(client) == {1: "AVAILABLE", 2: "AVAILABLE"}
        write(2, "nonsense {")  # is not taken over
        time.sleep(1.5)
        assert answers() == 1
        write(7)  # the label is in use, and there is no version 7
        time.sleep(1.5)
        assert answers() == 1
        write(2)
        until(lambda: answers() == 2)


def test_a_label_cannot_be_given_at_the_start(models, tmp_path, capsys):
    from serving.server.main import main

    file = tmp_path / "models.config"
    file.write_text(f"""model_config_list {{ config {{
        name: "two" base_path: "{models}/two" model_platform: "tensorflow"
        version_labels {{ key: "stable" value: 2 }} }} }}""")
    assert main(["--model_config_file", str(file), "--port", "0"]) == 2
    assert "assign label to version 2 of model two, which is not currently available" in (
        capsys.readouterr().err
    )


# --- in this process ---


@pytest.fixture
def managed():
    """Returns ``managed(**options)``, which makes a Manager; closed afterwards."""
    from serving.server.loading import Loader
    from serving.server.manager import Manager
    from serving.server.metrics import Metrics

    managers = []

    def make(**options):
        metrics = Metrics()
        managers.append(Manager(Loader(metrics), **options))
        managers[-1].metrics = metrics
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def config(models):
    return ModelConfig("two", str(models / "two"), all=True)


def seen(manager, name="two"):
    spec = model_pb2.ModelSpec(name=name)
    return {status.version: State.Name(status.state) for status in manager.status(spec)}


def test_calls_under_way_on_a_version_that_leaves_are_finished(managed, config, requests_of, until):
    from serving.server.predict import predict

    manager = managed()
    manager.configure([config])
    spec = model_pb2.ModelSpec(name="two")
    request = predict_pb2.PredictRequest()
    for name, value in requests_of().items():
        request.inputs[name].CopyFrom(to_proto(value))
    with manager.borrow(spec) as servable:
        manager.configure([dataclasses.replace(config, all=False, specific=(1,))])
        manager.refresh()
        assert seen(manager) == {1: "AVAILABLE", 2: "UNLOADING"}
        with manager.borrow(spec) as other:
            assert other.version == 1
        assert len(predict(servable, request).outputs) == 3 and servable.version == 2
    until(lambda: seen(manager) == {1: "AVAILABLE", 2: "END"})


def test_a_version_wanted_again_while_it_leaves_comes_back(managed, config):
    manager, spec = managed(), model_pb2.ModelSpec(name="two")
    manager.configure([config])
    without = dataclasses.replace(config, all=False, specific=(1,))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with manager.borrow(spec) as servable:  # a call on version 2
            manager.configure([without])
            manager.refresh()
            manager.configure([config])
            refreshed = pool.submit(manager.refresh)
            time.sleep(0.1)
            assert seen(manager) == {1: "AVAILABLE", 2: "UNLOADING"} and not refreshed.done()
        refreshed.result(60)
    assert seen(manager) == {1: "AVAILABLE", 2: "AVAILABLE"}
    with manager.borrow(spec) as again:
        assert again.version == 2 and again is not servable


def test_a_failed_load_is_tried_again(managed, models, tmp_path):
    base = tmp_path / "dare"
    base.mkdir()
    broken(base, 1)
    manager = managed(retries=2, retry_seconds=0.01)
    with pytest.raises(RequestError, match="did not become available: {dare}.*does not load"):
        manager.configure([ModelConfig("dare", str(base))])
    assert seen(manager, "dare") == {1: "LOADING"}
    time.sleep(0.05)
    assert 0 <= manager.refresh() <= 0.01 and seen(manager, "dare") == {1: "LOADING"}
    (base / "1" / "saved_model.pb").unlink()
    shutil.copytree(models / "dare" / "1", base / "1", dirs_exist_ok=True)
    time.sleep(0.05)
    assert manager.refresh() is None and seen(manager, "dare") == {1: "AVAILABLE"}


def test_a_version_that_is_gone_is_not_tried_again(managed, tmp_path):
    base = tmp_path / "dare"
    base.mkdir()
    broken(base, 1)
    manager = managed(retries=9, retry_seconds=100)
    with pytest.raises(RequestError, match="did not become available"):
        manager.configure([ModelConfig("dare", str(base))])
    (base / "1").rename(tmp_path / "away")
    broken(base, 2)
    assert 90 < manager.refresh() <= 100
    assert seen(manager, "dare") == {1: "END", 2: "LOADING"}
    (base / "2").rename(tmp_path / "away2")
    assert manager.refresh() is None and seen(manager, "dare") == {1: "END", 2: "END"}


def test_a_version_that_failed_is_left_alone_until_its_folder_changes(
    managed, models, tmp_path, until
):
    base = tmp_path / "dare"
    shutil.copytree(models / "dare" / "1", base / "1")
    manager = managed()
    manager.configure([ModelConfig("dare", str(base))])
    broken(base, 2)
    for _ in range(3):
        manager.refresh()
    page = manager.metrics.page()
    assert f'load_attempt_count{{model_path="{base}/2",status="fail"}} 1.0' in page
    assert f'load_attempt_count{{model_path="{base}/1",status="success"}} 1.0' in page
    assert seen(manager, "dare") == {1: "AVAILABLE", 2: "END"}
    shutil.rmtree(base / "2")
    published(models / "two" / "2", base, 2)
    manager.refresh()
    until(lambda: seen(manager, "dare") == {1: "END", 2: "AVAILABLE"})


def test_a_version_whose_warm_up_fails_does_not_replace_another(managed, models, tmp_path):
    base = tmp_path / "dare"
    shutil.copytree(models / "dare" / "1", base / "1")
    manager = managed()
    manager.configure([ModelConfig("dare", str(base))])
    shutil.copytree(models / "two" / "2", base / "tmp")
    (base / "tmp/assets.extra/tf_serving_warmup_requests").write_bytes(b"garbage")
    (base / "tmp").rename(base / "2")
    manager.refresh()
    spec = model_pb2.ModelSpec(name="dare")
    newest, oldest = manager.status(spec)
    assert (newest.state, newest.code) == (State.END, Code.INVALID_ARGUMENT)
    assert "warm-up record" in newest.message and oldest.state == State.AVAILABLE
    assert 'model_warmup_latency_count{model_path="' in manager.metrics.page()


def test_a_folder_that_cannot_be_read_changes_nothing(managed, models, tmp_path):
    base, said = tmp_path / "dare", []
    shutil.copytree(models / "dare" / "1", base / "1")
    manager = managed(log=said.append)
    manager.configure([ModelConfig("dare", str(base))])
    base.rename(tmp_path / "away")
    manager.refresh()
    manager.refresh()
    assert seen(manager, "dare") == {1: "AVAILABLE"}
    assert len(said) == 1 and "No such folder" in said[0]


# --- HandleReloadConfigRequest ---


def reload_request(*models):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name, base, specific, labels in models:
        config = request.config.model_config_list.config.add(
            name=name, base_path=str(base), model_platform="tensorflow"
        )
        config.model_version_policy.specific.versions.extend(specific)
        for label, version in labels.items():
            config.version_labels[label] = version
    return request


@pytest.fixture(scope="module")
def reloadable(models, start_server):
    """Starts a server whose configuration may change, and a stub of its ModelService."""
    flags = ["--model_base_path", models / "dare", "--port", 0]
    with start_server(*flags) as server, grpc.insecure_channel(server.address) as channel:
        yield server, model_service_pb2_grpc.ModelServiceStub(channel)


def test_a_canary_is_rolled_out_and_back(reloadable, models, requests_of, until):
    server, stub = reloadable
    two, dare = models / "two", ("dare", models / "dare", [1], {})

    def change(versions, labels):
        answer = stub.HandleReloadConfigRequest(
            reload_request(dare, ("two", two, versions, labels)), timeout=60
        )
        assert answer.status.error_code == 0 and answer.status.error_message == ""

    with Client(server.address, "two", timeout=60) as client:

        def answers(label):
            return client.predict("serving_default", requests_of(), label=label).version

        change([1], {})  # a new model: loaded when the call comes back
        assert states(client) == {1: "AVAILABLE"}
        change([1], {"stable": 1})
        with pytest.raises(grpc.RpcError) as caught:
            change([1, 2], {"stable": 1, "canary": 2})
        assert caught.value.code() is Code.FAILED_PRECONDITION
        assert "assign label to version 2 of model two" in caught.value.details()
        change([1, 2], {"stable": 1})
        until(lambda: states(client) == {1: "AVAILABLE", 2: "AVAILABLE"})
        change([1, 2], {"stable": 1, "canary": 2})
        assert (answers("stable"), answers("canary")) == (1, 2)
        change([1, 2], {"stable": 2})
        assert answers("stable") == 2
        change([1, 2], {"stable": 1})  # and back
        assert answers("stable") == 1
        change([2], {"stable": 2})
        until(lambda: states(client) == {1: "END", 2: "AVAILABLE"})
        stub.HandleReloadConfigRequest(reload_request(dare), timeout=60)
        until(lambda: states(client) == {1: "END", 2: "END"})
        assert client.versions("dare") == {1: "AVAILABLE"}


def test_a_new_model_that_is_not_there(reloadable, models):
    _, stub = reloadable
    with pytest.raises(grpc.RpcError) as caught:
        stub.HandleReloadConfigRequest(
            reload_request(("dare", models / "dare", [1], {}), ("none", models / "none", [], {})),
            timeout=60,
        )
    assert caught.value.code() is Code.INVALID_ARGUMENT  # specific versions, none named
    request = reload_request(("dare", models / "dare", [1], {}))
    request.config.model_config_list.config.add(
        name="none", base_path=str(models / "none"), model_platform="tensorflow"
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.HandleReloadConfigRequest(request, timeout=60)
    assert caught.value.code() is Code.UNKNOWN
    assert "Some models did not become available: {none}" in caught.value.details()
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "dare"
    (version_status,) = stub.GetModelStatus(status).model_version_status
    assert version_status.state == State.AVAILABLE
