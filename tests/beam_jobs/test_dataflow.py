"""The job as Dataflow gets it, built offline: its graph, its files, a table as its input."""

import json
import os
import pathlib
import re
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.build_sequences import BuildSequences, build
from beam_jobs.options import make_parser, parse
from beam_jobs.output.publish import Finish, Publish, Staging
from beam_jobs.reading.bigquery import RowsToEvents
from beam_jobs.reading.events import EVENTS, REJECTED
from beam_jobs.reading.formats import make_format
from beam_jobs.reading.inputs import Chunk
from beam_jobs.reading.records import as_text
from beam_jobs.reading.rows import to_events
from tests.beam_jobs.conftest import SMALL

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "beam_jobs" / "dataflow"
IMAGE = "europe-docker.pkg.dev/project/tfdare/worker:1"
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=test-project",
    "--region=us-central1",
    "--job_name=x",
    "--no_auth",
    "--dry_run=True",
    "--staging_location=gs://bucket/staging",
    "--temp_location=gs://bucket/temp",
    "--sdk_location=container",
    f"--sdk_container_image={IMAGE}",
    f"--setup_file={ROOT / 'setup.py'}",
]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def graph(*options, chunk=("gs://bucket/log.csv", "text")):
    """Returns the proto of the job's pipeline as the runner receives it, and the options."""
    parsed = parse(
        [*options, "--output", "gs://bucket/sequences", "--merge_ram", "16GB", *DATAFLOW], "prog"
    )
    chunk = Chunk(0, 0, *chunk, 0, 10, (("user", 0),), 5)
    pipeline = beam.Pipeline(options=PipelineOptions(list(parsed.beam)))
    staging = Staging("gs://bucket/sequences", False)
    built = (pipeline | "Chunks" >> beam.Create([chunk])) | "BuildSequences" >> BuildSequences(
        parsed, 64, [chunk], staging.folder
    )
    built | "Publish" >> Publish(Finish(parsed, (), 64, 1, staging, 0.0))
    pipeline.run()
    return pipeline.runner.proto_pipeline.components


def by_name(components):
    return {transform.unique_name: transform for transform in components.transforms.values()}


def test_the_graph_that_dataflow_gets():
    components = graph("--input", "gs://bucket/log.csv", "--format", "taobao")
    transforms = by_name(components)
    for name in (
        "ReadEvents/ReadChunk",
        "SortHistories/GatherByBucket",
        "LearnVocabularies/MergeCounts",
        "BuildRequests/BuildBucket",
        "LearnVectors/SumBlock",
        "LearnVectors/Factorize",
        "LearnVectors/WriteVectors",
        "WriteSequences/WriteShard",
        "WriteRejected/WriteRows",
        "WriteTally/WriteTally",
    ):
        assert f"BuildSequences/{name}" in transforms
    assert "Publish/Finish" in transforms
    environments = components.environments
    hints = {}
    for name, transform in transforms.items():
        if transform.environment_id:
            resources = environments[transform.environment_id].resource_hints
            hints[name] = resources.get("beam:resources:min_ram_bytes:v1", b"")
    merging = {name for name, size in hints.items() if size == b"16000000000"}
    assert {name.split("/")[2] for name in merging} == {"MergeCounts", "WriteCatalog"}
    for environment in environments.values():
        if environment.urn.startswith("beam:env:docker"):
            assert IMAGE.encode() in environment.payload
            staged = b" ".join(part.role_payload for part in environment.dependencies)
            assert b"workflow.tar.gz" in staged  # of --setup_file


def test_a_table_as_input():
    components = graph(
        "--input",
        "project-name:dataset.events",
        "--format",
        "bigquery",
        "--columns",
        "user=uid,item=iid,time=at",
        chunk=("project-name:dataset.events", "bigquery"),
    )
    transforms = by_name(components)
    assert any("ReadTable/Rows" in name for name in transforms)
    assert "BuildSequences/ReadTable/RowsToEvents/ReadRows" in transforms
    assert "BuildSequences/ReadEvents/ReadChunk" not in transforms


def test_rows_of_a_table_are_events():
    form = make_format("bigquery", "user=uid,item=iid,category=,time=at", None)
    rows = [{"uid": f"u{n % 3}", "iid": n, "at": 100 - n, "more": n / 2} for n in range(20)]
    rows += [{"uid": "u1", "iid": None, "at": 5, "more": 0.0}]
    with beam.Pipeline("FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create(rows) | RowsToEvents("p:d.t", form, 2)
        events = outputs[EVENTS] | beam.FlatMap(
            lambda pair: list(
                zip(
                    pair[1].user.to_pylist(),
                    pair[1].columns["item"].tolist(),
                    pair[1].columns["time"].tolist(),
                )
            )
        )
        assert_that(events, equal_to([(f"u{n % 3}", n, 100 - n) for n in range(20)]), "events")
        reasons = outputs[REJECTED] | beam.FlatMap(
            lambda some: [(row.reason, json.loads(row.row)["uid"]) for row in some.rows]
        )
        assert_that(reasons, equal_to([("item is empty", "u1")]), "rejected")
    # the same as rows of a file
    columns = as_text(rows[:20], {"user": "uid", "item": "iid", "time": "at"})
    plain, odd, _ = to_events(columns, np.arange(20), str, form)
    assert plain.columns["item"].tolist() == list(range(20)) and not odd


def test_a_table_needs_packages_that_beam_may_lack(tmp_path):
    code = (
        "import sys; sys.modules['google.cloud.bigquery'] = None\n"
        "from beam_jobs.build_sequences import main\n"
        f"sys.exit(main(['--input', 'p:d.t', '--format', 'bigquery', '--output', "
        f"{str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs Beam's Google Cloud packages: pip install 'apache-beam[gcp]'" in done.stderr


def test_workers_can_publish(prepare, log, tmp_path):
    """Publishes inside the pipeline, as a job launched from a template does."""
    whole = prepare(log, *SMALL)
    options = parse(
        [
            "--input",
            str(log),
            "--format",
            "csv",
            "--output",
            str(tmp_path / "other"),
            "--buckets",
            "2",
            *SMALL,
        ],
        "prog",
    )
    from beam_jobs.reading import inputs

    files = inputs.find_files(options.input, options.form)
    chunks = inputs.plan(files, options.form, options.chunk_bytes)
    staging = Staging(options.output, False)
    staging.check()
    finish = Finish(options, tuple(files), 2, len(chunks), staging, 0.0)
    with beam.Pipeline(options=PipelineOptions(list(options.beam))) as pipeline:
        built = (pipeline | beam.Create(chunks)) | BuildSequences(
            options, 2, chunks, staging.folder
        )
        built | Publish(finish)
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    assert manifest["digests"] == whole.manifest["digests"]
    assert manifest["counts"] == whole.manifest["counts"]
    assert (tmp_path / "other" / "_SUCCESS").exists()


def test_a_template_is_written_and_no_output(log, tmp_path, capsys):
    template = "gs://bucket/template.json"
    options = parse(
        [
            "--input",
            str(log),
            "--format",
            "csv",
            "--output",
            str(tmp_path / "out"),
            *SMALL,
            *DATAFLOW,
            f"--template_location={template}",
        ],
        "prog",
    )
    assert build(options) == {}
    assert f"template written to {template}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.tmp-*"))


def test_parameters_of_the_template_are_options():
    data = json.loads((FOLDER / "metadata.json").read_text())
    actions = {
        option[2:]: action
        for action in make_parser("prog")._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    for parameter in data["parameters"]:
        action = actions[parameter["name"]]
        assert action.required == (not parameter["isOptional"]), parameter["name"]
        assert parameter["label"] and parameter["helpText"]
        for regex in parameter.get("regexes", ()):
            re.compile(regex)
    required = {name for name, action in actions.items() if action.required}
    assert required <= {parameter["name"] for parameter in data["parameters"]}


def test_the_images_copy_files_that_exist():
    for name in ("launcher.Dockerfile", "worker.Dockerfile"):
        text = (FOLDER / name).read_text()
        for line in text.splitlines():
            if line.startswith("COPY"):
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), f"{name}: {line}"
    launcher = (FOLDER / "launcher.Dockerfile").read_text()
    assert "COPY beam_jobs/dataflow/main.py main.py" in launcher
    assert "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py" in launcher
    version = re.search(r"^apache-beam==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    for name in ("launcher.Dockerfile", "worker.Dockerfile"):
        assert version in (FOLDER / name).read_text()


def test_the_entry_of_the_template_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "main.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "--impressions" in done.stdout, done.stderr
