"""The last step of a run: its counts are checked, schema and manifest written, all published."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_jobs import manifest
from beam_jobs.inputs import InputFile
from beam_jobs.keeping import KEPT
from beam_jobs.options import Options
from beam_jobs.publishing import Staging
from beam_jobs.storage import write_file
from beam_jobs.vocabulary import CATALOG_FILE
from beam_jobs.writing import TALLY_FILE

FOUND, REFUSED = "found", "refused"


@dataclass(frozen=True)
class Finish:
    """What the last step needs besides what the pipeline found.

    Attributes:
        asked: Options.
        files: tuple of InputFile.
        buckets: int.
        chunks: int. Chunks of the log, with those of earlier runs.
        staging: Staging.
        started: float. Seconds since the epoch.
    """

    asked: Options
    files: tuple[InputFile, ...]
    buckets: int
    chunks: int
    staging: Staging
    started: float

    def __call__(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Publishes the folder and returns its manifest.

        Args:
            found: mapping. ``tally`` and ``learned``, as :class:`beam_jobs.writing.WriteTally`
                gives them.

        Raises:
            InputError: the run could not read its input, or left nothing. Nothing is published.
        """
        tally, learned, folder = found["tally"], found["learned"], self.staging.folder
        manifest.check(tally, self.asked, folder)
        schema = manifest.make_schema(self.asked, learned, tally)
        seconds = time.time() - self.started
        made = manifest.make_manifest(
            self.asked, self.files, self.buckets, tally, learned, schema, seconds
        )
        if self.asked.keep_events:
            made[KEPT] = {
                "buckets": self.buckets,
                "chunks": self.chunks,
                "events": made["counts"]["rows"]["kept"],
            }
        write_file(f"{folder}/schema.json", schema.to_json().encode())
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
        write_file(f"{folder}/manifest.json", text.encode("utf-8", "backslashreplace"))
        self.staging.publish([TALLY_FILE, CATALOG_FILE])
        return made


class Publish(beam.PTransform):
    """What BuildSequences gives -> a published folder, by a worker.

    For template launches, where the process that makes the graph does not see the run end. A
    worker that is tried again goes on where the first try stopped.
    """

    def __init__(self, finish: Finish):
        super().__init__()
        self._finish = finish

    def expand(self, built):
        finish = self._finish

        def publish(found, _):
            if not finish.staging.is_published():
                finish(found)

        # all rejected rows are written, too, when their counts have come together
        refused = built[REFUSED] | "AllRefused" >> beam.CombineGlobally(sum)
        return (
            built[FOUND]
            | "Once" >> beam.Reshuffle()
            | "Finish" >> beam.Map(publish, beam.pvalue.AsSingleton(refused))
        )
