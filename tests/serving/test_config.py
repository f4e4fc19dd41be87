"""The config files for the stock server: read by the development server, and consistent."""

import json
import pathlib
import re
import shutil

import pytest
import yaml
from google.protobuf import text_format

import serving
from serving.client.protos import model_pb2, model_server_config_pb2
from serving.server.batching import read_batching_options
from serving.server.config import models_of, read_config
from serving.server.metrics import Metrics
from serving.server.options import metrics_path, parser

CONFIG = pathlib.Path(serving.__file__).parent / "config"
COMPOSE = ["compose.yaml", "compose-split.yaml"]
MANIFESTS = {"combined": "dare", "search": "dare_search", "score": "dare_score"}


@pytest.fixture(scope="module")
def flags():
    """Lists the flags of the development server, which are named as the stock server's."""
    return {flag for action in parser()._actions for flag in action.option_strings}


def require_flags(arguments, flags):
    """Checks that every flag is known, and that every file under /config is shipped."""
    assert arguments
    for argument in arguments:
        flag, _, value = argument.partition("=")
        assert flag in flags, argument
        if value.startswith("/config/"):
            assert (CONFIG / value.removeprefix("/config/")).is_file(), argument
    parsed = parser().parse_args(arguments)
    assert parsed.enable_batching is True and parsed.model_config_file.startswith("/config/")


def config_of(arguments):
    (name,) = [
        argument.partition("=")[2]
        for argument in arguments
        if argument.startswith("--model_config_file=")
    ]
    return read_config(str(CONFIG / pathlib.Path(name).name))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files(name, flags):
    document = yaml.safe_load((CONFIG / name).read_text())
    ports = []
    for service in document["services"].values():
        assert service["image"].startswith("tensorflow/serving:")
        require_flags(service["command"], flags)
        assert ".:/config:ro" in service["volumes"]
        assert any(volume.endswith(":/models:ro") for volume in service["volumes"])
        assert service["healthcheck"]["test"][0] == "CMD" and service["stop_grace_period"]
        ports += [port.rsplit(":", 1)[0] for port in service["ports"]]
        assert [port.rsplit(":", 1)[1] for port in service["ports"]] == ["8500", "8501"]
    assert len(set(ports)) == len(ports) == 2 * len(document["services"])
    models = [m.name for s in document["services"].values() for m in config_of(s["command"])]
    assert models == (["dare"] if name == "compose.yaml" else ["dare_search", "dare_score"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name, flags):
    text = (CONFIG / "kubernetes" / f"{name}.yaml").read_text()
    kinds = {document["kind"]: document for document in yaml.safe_load_all(text)}
    assert set(kinds) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }
    called = f"tfdare-{name}"
    assert all(document["metadata"]["name"] == called for document in kinds.values())
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for selector in (
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    (container,) = pod["spec"]["containers"]
    require_flags(container["args"], flags)
    (model,) = config_of(container["args"])
    assert model.name == MANIFESTS[name] and model.base_path == f"/models/{model.name}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for port in kinds["Service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    assert container["readinessProbe"]["httpGet"] == {
        "path": f"/v1/models/{model.name}",
        "port": "rest",
    }
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["tcpSocket"] == {"port": "grpc"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    cpu = container["resources"]["requests"]["cpu"]
    assert f"--tensorflow_intra_op_parallelism={cpu}" in container["args"]
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == called
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pause < pod["spec"]["terminationGracePeriodSeconds"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == metrics_path(str(CONFIG / "monitoring.config"))
    for file in re.findall(r"--from-file=(\S+)", text):
        assert (CONFIG.parents[1] / file).is_file()


def test_the_dashboard_asks_for_metrics_that_are_there():
    document = json.loads((CONFIG / "grafana" / "serving.json").read_text())
    families = re.findall(r"^# TYPE (\S+) (\S+)$", Metrics().page(), re.M)
    there = {name for name, kind in families if kind == "counter"} | {
        f"{name}_{part}"
        for name, kind in families
        if kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    queries = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in document["templating"]["list"]]
    used = {name for text in queries for name in re.findall(r":tensorflow:[\w:]+", text)}
    assert used <= there and len(used) >= 8, used - there
    assert len(document["panels"]) == 8
    places = [tuple(panel["gridPos"].values()) for panel in document["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["description"] for panel in document["panels"])


def test_a_server_reads_the_split_files(models, tmp_path, start_server):
    file = tmp_path / "score.config"
    file.write_text((CONFIG / "score.config").read_text().replace("/models/", f"{tmp_path}/"))
    shutil.copytree(models / "two", tmp_path / "dare_score")
    flags = [
        "--model_config_file",
        file,
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={CONFIG / 'monitoring.config'}",
        "--enable_batching=true",
        f"--batching_parameters_file={CONFIG / 'batching.config'}",
        "--tensorflow_intra_op_parallelism=2",
        "--tensorflow_inter_op_parallelism=2",
    ]
    with start_server(*flags, "--port", 0, "--rest_api_port", 0) as server:
        assert server.said[-1].startswith("dare_score versions 1, 2 are served at ")
        assert server.complained == ""
    assert read_batching_options(str(CONFIG / "batching.config")).pad_variable_length_inputs


# --- the pages ---


def blocks(name, kind=""):
    """Extracts the blocks of a page that begin with ```kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (CONFIG / name).read_text(), re.M | re.S)


@pytest.mark.parametrize("name", ["README.md", "RUNBOOK.md"])
def test_commands_use_what_is_there(name, flags):
    commands = "\n".join(blocks(name)).replace("\\\n", " ")
    assert commands
    for path in re.findall(r"(?:serving|tests)/[\w./-]+", commands):
        assert (CONFIG.parents[1] / path).exists(), path
    for line in commands.splitlines():
        if line.startswith("tfdare serve"):
            parser().parse_args(line.split()[2:])
    text = (CONFIG / name).read_text()
    for flag in re.findall(r"`(--\w+)", text):
        assert flag in flags, flag
    for link in re.findall(r"\]\((\w[\w./]*)\)", text):
        assert (CONFIG / link).exists(), link


def test_the_readmes_table_names_every_file():
    page = (CONFIG / "README.md").read_text()
    listed = set(re.findall(r"`([\w./-]+\.(?:config|yaml|json))`", page))
    there = {
        str(path.relative_to(CONFIG))
        for path in CONFIG.rglob("*")
        if path.is_file() and path.suffix != ".md"
    }
    assert listed == there


def test_the_runbooks_roll_out_can_be_followed(models):
    """Applies each step of the page to a server, and the step back."""
    from serving.server.loading import Loader
    from serving.server.manager import Manager

    steps = []
    for text in blocks("RUNBOOK.md", "textproto"):
        proto = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        proto.model_config_list.config[0].base_path = str(models / "two")
        steps.append(models_of(proto))
    assert len(steps) == 4
    manager = Manager(Loader(Metrics()), unavailable_labels=True)

    def version(label):
        with manager.borrow(model_pb2.ModelSpec(name="dare", version_label=label)) as servable:
            return servable.version

    try:
        for step, stable in zip([*steps, steps[2]], (1, 1, 1, 2, 1)):
            manager.configure(step)
            manager.refresh()
            assert version("stable") == stable
        assert version("canary") == 2 and manager.available("dare") == [1, 2]
    finally:
        manager.close()
