"""What a person sees while the job runs: stages and seconds on stderr, and no chatter."""

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
)
_WORKER_OPTIONS = "PIPELINE_OPTIONS_FILE"  # what local worker processes read at their start
_BUNDLES = "apache_beam.runners.portability.fn_api_runner.fn_runner.run_bundle"


class Progress:
    """Says what happens, with the seconds since the start."""

    def __init__(self):
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(f"[{time.monotonic() - self._started:7.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stages(self, runner: str | None):
        """Names the stages of the local runner as they begin, and quietens Beam's log."""
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
    """Worker processes of the local runner log nothing: what fails there is raised here too."""
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
    """Says each stage once and in order; the runner also visits stages that must still wait."""

    def __init__(self, progress: Progress):
        super().__init__(logging.DEBUG)
        self._progress, self._next = progress, 0

    def emit(self, record: logging.LogRecord) -> None:
        name = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        if self._next < len(_STAGES) and _STAGES[self._next][0] in name:
            self._progress.say(_STAGES[self._next][1])
            self._next += 1
