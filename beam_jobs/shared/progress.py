"""Text for the user of a job: stages and seconds on stderr without Beam's log, and report lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from contextlib import contextmanager

_STAGES = (  # a transform of the stage, and what to say when it begins
    ("ReadChunk", "reading events"),
    ("SortBucket", "sorting histories"),
    ("MergeCounts", "learning vocabularies"),
    ("WriteCatalog", "writing vocabularies"),
    ("BuildBucket", "building and writing requests"),
    ("SumBlock", "learning vectors"),
)
_WORKER_OPTIONS = "PIPELINE_OPTIONS_FILE"  # what local worker processes read at their start
_BUNDLES = "apache_beam.runners.portability.fn_api_runner.fn_runner.run_bundle"


def labeled(label: str, text: str) -> str:
    """Returns a line of a report, its label padded to a fixed width."""
    return f"{label:<11} {text}"


class Progress:
    """Prints what a job is doing, with the seconds since its start."""

    def __init__(self):
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line on stderr."""
        print(f"[{time.monotonic() - self._started:7.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stages(self, runner: str | None):
        """Prints the stages of the local runner as they begin, and silences Beam's log."""
        beam_log, bundles = logging.getLogger("apache_beam"), logging.getLogger(_BUNDLES)
        before = beam_log.level, bundles.level, bundles.propagate
        handler = _StageHandler(self)
        beam_log.setLevel(logging.ERROR)
        bundles.addHandler(handler)
        bundles.setLevel(logging.DEBUG)
        bundles.propagate = False
        if runner and not runner.endswith("FnApiRunner"):
            self.say(f"running on {runner}")
        try:
            with _quiet_workers():
                yield
        finally:
            bundles.removeHandler(handler)
            beam_log.setLevel(before[0])
            bundles.setLevel(before[1])
            bundles.propagate = before[2]


@contextmanager
def _quiet_workers():
    """Silences worker processes of the local runner; their errors are raised in this process."""
    if _WORKER_OPTIONS in os.environ:
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"default_sdk_harness_log_level": "CRITICAL"}, file)
        file.flush()
        os.environ[_WORKER_OPTIONS] = file.name
        try:
            yield
        finally:
            os.environ.pop(_WORKER_OPTIONS, None)


class _StageHandler(logging.Handler):
    """Prints each stage once and in order; the runner also tries stages that are not ready yet."""

    def __init__(self, progress: Progress):
        super().__init__(logging.DEBUG)
        self._progress, self._next = progress, 0

    def emit(self, record: logging.LogRecord) -> None:
        name = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        if self._next < len(_STAGES) and _STAGES[self._next][0] in name:
            self._progress.say(_STAGES[self._next][1])
            self._next += 1
