"""Runs a pipeline that reads many elements and makes one value of them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

from beam_jobs.shared.beam import quiet

with quiet():  # Beam warns of Google libraries that a local run does not need
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.shared.progress import Progress
from beam_jobs.shared.storage import read_file, write_file


def run_pipeline(
    elements: Iterable[Any],
    transform: beam.PTransform,
    path: str,
    beam_args: Sequence[str],
    progress: Progress,
) -> Any:
    """Runs a pipeline to its end and returns its value, which it leaves in a file.

    Args:
        elements: iterable. What is read, such as paths.
        transform: PTransform. Elements -> one value.
        path: str. The file for the value, which a worker writes and this process reads.
        beam_args: sequence of str. Options of Beam.
        progress: Progress. Names the stages.
    """
    options = PipelineOptions(list(beam_args))
    with progress.stages(options.view_as(StandardOptions).runner):
        pipeline = beam.Pipeline(options=options)
        (
            pipeline
            | "Elements" >> beam.Create(elements)
            | transform
            | "Write" >> beam.Map(lambda value: write_file(path, pickle.dumps(value)))
        )
        pipeline.run().wait_until_finish()
    return pickle.loads(read_file(path))  # written by the pipeline above
