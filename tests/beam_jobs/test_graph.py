"""The job's graph for a cloud runner: readable names, built without reading a file."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.build_sequences import BuildSequences, default_buckets
from beam_jobs.options import parse
from beam_jobs.reading.inputs import Chunk

COMMAND = ["--input", "gs://b/log.csv", "--format", "taobao", "--output", "gs://b/sequences"]


def test_stages_of_the_graph_have_readable_names():
    options = parse(COMMAND, "prog")
    chunk = Chunk(0, 0, "gs://b/log.csv", "text", 0, 10, (("user", 0),), 5)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    chunks = pipeline | "Chunks" >> beam.Create([chunk])
    chunks | "BuildSequences" >> BuildSequences(options, 64, [chunk], "gs://b/sequences.tmp-1")
    proto = pipeline.to_runner_api()
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    for stage in (
        "ReadEvents",
        "SortHistories",
        "LearnVocabularies",
        "BuildRequests",
        "LearnVectors",
        "WriteSequences",
        "WriteRejected",
        "WriteTally",
    ):
        assert f"BuildSequences/{stage}" in names


def test_beams_own_options_pass_through():
    options = parse([*COMMAND, "--runner", "DataflowRunner", "--project=p", "--region=r"], "prog")
    assert options.beam == ("--runner", "DataflowRunner", "--project=p", "--region=r")
    assert parse(COMMAND, "prog").beam == ("--runner=FnApiRunner",)


def test_buckets_grow_with_the_log():
    assert default_buckets(10) == 4
    assert default_buckets(3_500_000_000) == 105
    assert default_buckets(10**15) == 4096
