"""How the server listens: TLS, limits, health checks under load, and shutdown."""

import asyncio
import concurrent.futures
import datetime
import http.client
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import AsyncClient, Client, ServingError
from serving.server.main import main
from serving.server.options import metrics_path

Code = grpc.StatusCode


# --- TLS ---


def certificate(name, issuer=None, authority=False):
    """Makes a (certificate, key) for ``name``, signed by ``issuer`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.SubjectAlternativeName(addresses), False)
        .add_extension(x509.ExtendedKeyUsage(purposes), False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    return signed, key


def pem(pair):
    """Returns the PEM bytes of a certificate and its key."""
    return pair[0].public_bytes(serialization.Encoding.PEM), pair[1].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture(scope="module")
def certificates():
    """Makes the PEM of an authority, a (certificate, key) it signed, and a self-signed pair."""
    authority = certificate("authority", authority=True)
    return pem(authority)[0], pem(certificate("signed", authority)), pem(certificate("stranger"))


def ssl_config(file, certificates, verify):
    authority, (signed, key), _ = certificates
    file.write_text(
        f"server_key: {json.dumps(key.decode())}\nserver_cert: {json.dumps(signed.decode())}\n"
        f"custom_ca: {json.dumps(authority.decode())}\nclient_verify: {str(verify).lower()}\n"
    )
    return file


@pytest.fixture(scope="module")
def secure(model_base, start_server, certificates, tmp_path_factory):
    file = ssl_config(tmp_path_factory.mktemp("tls") / "ssl.config", certificates, True)
    flags = ["--model_base_path", model_base, "--port", 0, "--ssl_config_file", file]
    with start_server(*flags) as server:
        yield server


def test_mutual_tls(secure, certificates, requests_of, client):
    authority, (signed, key), (other, other_key) = certificates
    requests = requests_of()
    known = grpc.ssl_channel_credentials(authority, key, signed)
    with Client(secure.address, timeout=60, credentials=known) as tls:
        got = tls.rank(requests, split=True).probability
        assert abs(got - client.rank(requests).probability).max() < 1e-6

    async def use():
        async with AsyncClient(secure.address, timeout=60, credentials=known) as tls:
            return await tls.versions()

    assert asyncio.run(use()) == {1: "AVAILABLE"}
    for credentials in (
        None,  # in the clear
        grpc.ssl_channel_credentials(authority),  # without a certificate
        grpc.ssl_channel_credentials(authority, other_key, other),  # with a stranger's
        grpc.ssl_channel_credentials(other, key, signed),  # who trusts another authority
    ):
        with Client(secure.address, timeout=5, retries=0, credentials=credentials) as tls:
            with pytest.raises(ServingError) as caught:
                tls.versions()
            assert caught.value.code is Code.UNAVAILABLE


def test_tls_files_that_cannot_be_used(tmp_path, model_base, capsys, certificates):
    for text, message in (
        ("server_key: 'x'", "must hold server_key and server_cert"),
        ("server_key: 'x' server_cert: 'y' client_verify: true", "must hold custom_ca"),
        ("surprise: 1", "is no SSLConfig"),
    ):
        file = tmp_path / "ssl.config"
        file.write_text(text)
        flags = ["--model_base_path", str(model_base), "--port", "0"]
        assert main([*flags, "--ssl_config_file", str(file)]) == 2
        assert message in capsys.readouterr().err


# --- monitoring ---


def test_the_path_of_metrics_is_configured(tmp_path):
    file = tmp_path / "monitoring.config"
    for text, path in (
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "/metrics" }', "/metrics"),
        ('prometheus_config { path: "/metrics" }', None),
        ("", None),
    ):
        file.write_text(text)
        assert metrics_path(str(file)) == path
    assert metrics_path(None) is None


# --- one thread, and heavy work on it ---


@pytest.fixture(scope="module")
def narrow(model_base, start_server):
    """Runs a server with one thread each for gRPC and REST, and a limit on message sizes."""
    flags = [
        "--model_base_path",
        model_base,
        "--port",
        0,
        "--rest_api_port",
        0,
        "--grpc_max_threads",
        1,
        "--rest_api_num_threads",
        1,
        "--rest_api_timeout_in_ms",
        400,
        "--grpc_channel_arguments",
        "grpc.max_receive_message_length=2000000",
        "--tensorflow_intra_op_parallelism",
        1,
        "--tensorflow_inter_op_parallelism",
        1,
    ]
    with start_server(*flags) as server:
        yield server


def test_health_is_answered_beside_heavy_work(narrow, requests_of):
    heavy = requests_of(users=1, width=20_000, candidates=500)
    with (
        Client(narrow.address, timeout=60) as client,
        grpc.insecure_channel(narrow.address) as channel,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest())
        under_way = [pool.submit(client.rank, heavy) for _ in range(6)]
        for _ in range(5):  # each comes before the work is done, though the only thread is taken
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert not all(call.done() for call in under_way)
        for call in under_way:
            assert call.result().probability.shape == (1, 500)


def test_a_message_larger_than_allowed(narrow, requests_of):
    with Client(narrow.address, timeout=60) as client:
        with pytest.raises(ServingError) as caught:
            client.rank(requests_of(users=2, width=100_000, candidates=2))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert client.rank(requests_of()).probability.shape == (3, 5)


def test_rest_has_a_time_limit(narrow, requests_of):
    heavy = {name: value.tolist() for name, value in requests_of(1, 20_000, 10_000).items()}
    connection = http.client.HTTPConnection(narrow.rest, timeout=60)
    connection.request("POST", "/v1/models/dare:predict", json.dumps({"inputs": heavy}))
    response = connection.getresponse()
    assert response.status == 504 and "error" in json.loads(response.read())
    connection.close()


# --- the end ---


def test_rest_requests_under_way_are_finished(model_base, start_server, requests_of):
    heavy = {name: value.tolist() for name, value in requests_of(2, 20_000, 500).items()}
    body = json.dumps({"inputs": heavy})
    flags = ["--model_base_path", model_base, "--port", 0, "--rest_api_port", 0]
    with start_server(*flags) as server:
        connection = http.client.HTTPConnection(server.rest, timeout=60)
        connection.request("POST", "/v1/models/dare:predict", body)
        answered = []
        reader = threading.Thread(target=lambda: answered.append(connection.getresponse().status))
        reader.start()
        time.sleep(0.2)
        assert server.stop(signal.SIGTERM) == 0
        reader.join(30)
        assert answered == [200]
        connection.close()
        host, port = server.rest.split(":")
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), timeout=5).close()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--rest_api_port", "8500"], "cannot be the same as --port"),
        (["--rest_api_port", "70000"], "must be at most 65535"),
        (["--batching_parameters_file", "x"], "needs --enable_batching"),
        (["--monitoring_config_file", "x"], "needs --rest_api_port"),
        (["--grpc_channel_arguments", "nonsense"], "must be key=value"),
        (["--enable_batching", "perhaps"], "must be true or false"),
        (
            ["--tensorflow_session_parallelism", "1", "--tensorflow_intra_op_parallelism", "1"],
            "not both",
        ),
    ],
)
def test_conflicting_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--model_base_path", "x", *flags])
    assert caught.value.code == 2 and message in capsys.readouterr().err


# --- calls that wait ---


HELD_UP = """
import ctypes, sys
from serving.server.api import Api
from serving.server.manager import Manager
from serving.server.server import Listen, Server

server = Server(Api(Manager(load=None)), Listen())  # without models
server.start()
print(server.port, flush=True)
sys.stdin.readline()
print("held", flush=True)
ctypes.PyDLL(None).usleep(3_000_000)  # keeps Python's lock, as loading a version can
sys.stdin.readline()
server.stop()
"""


def test_calls_that_wait_while_the_server_is_held_up_are_answered():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HELD_UP], **pipes) as server:
        with grpc.insecure_channel(f"localhost:{int(server.stdout.readline())}") as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=60)  # connected
            server.stdin.write("hold\n")
            server.stdin.flush()
            assert server.stdout.readline() == "held\n"
            waiting = [call.future(b"", timeout=60) for _ in range(3500)]
            codes = {future.code() for future in waiting}
        server.communicate("stop\n", timeout=60)
    assert codes == {Code.INVALID_ARGUMENT}  # no model named; gRPC alone would cancel some
