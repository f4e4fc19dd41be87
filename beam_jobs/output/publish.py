"""The staging folder of a run, and the one step by which it becomes the output."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam_jobs.histories.earlier_run import KEPT
from beam_jobs.options import Options
from beam_jobs.output import manifest
from beam_jobs.output.write import TALLY_FILE
from beam_jobs.reading.inputs import InputFile
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import UNFINISHED, is_local, read_file, write_file
from beam_jobs.vocabulary.learn import CATALOG_FILE
from tfdare.sequences import SUCCESS

_MOVING = "_MOVING"


class Staging:
    """A fresh folder beside the output; call ``publish`` when all is in it, ``remove`` always."""

    def __init__(self, output: str, overwrite: bool):
        self.output = output
        self._overwrite = overwrite
        self._run = uuid.uuid4().hex[:8]
        self.folder = f"{output}.tmp-{self._run}"

    def check(self) -> None:
        """Refuses an output that is there already.

        Raises:
            InputError: it exists and may not be replaced, or nothing can be written beside it.
        """
        if is_local(self.output):
            if os.path.lexists(self.output):
                if not self._overwrite:
                    raise InputError(
                        f"--output {self.output!r} exists. Give --overwrite to replace it."
                    )
                if not os.path.isdir(self.output) or os.path.islink(self.output):
                    raise InputError(f"--output {self.output!r} exists and is no folder")
                if os.listdir(self.output) and not _is_sequences(self.output):
                    raise InputError(
                        f"--output {self.output!r} exists and is no folder of sequences; "
                        "--overwrite does not replace it"
                    )
        elif not self._overwrite and _remote_files(self.output):
            raise InputError(f"--output {self.output!r} exists. Give --overwrite to replace it.")
        try:
            FileSystems.mkdirs(self.folder)
        except Exception as error:  # every file system has its own
            raise InputError(f"--output {self.output!r} cannot be written: {error}") from error

    def publish(self, working_files: list[str]) -> None:
        """Drops ``working_files`` and makes the folder the output."""
        working = [f"{self.folder}/{name}" for name in working_files]
        FileSystems.delete([path for path in working if FileSystems.exists(path)])
        if is_local(self.output):
            self._publish_local()
        else:
            self._publish_remote()

    def _publish_local(self) -> None:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if UNFINISHED in name:  # of a bundle that was tried twice
                    os.remove(os.path.join(folder, name))
        with open(os.path.join(self.folder, SUCCESS), "w", encoding="utf-8") as file:
            os.fsync(file.fileno())
        old = f"{self.output}.old-{self._run}"
        replaced = os.path.lexists(self.output)
        if replaced:
            if not self._overwrite:
                raise InputError(f"--output {self.output!r} was made by another run meanwhile")
            os.rename(self.output, old)
        try:
            os.rename(self.folder, self.output)
        except BaseException:
            if replaced:
                os.rename(old, self.output)
            raise
        if replaced:
            shutil.rmtree(old, ignore_errors=True)

    def _publish_remote(self) -> None:
        """No rename of folders there: the old ``_SUCCESS`` goes first, the new one comes last."""
        marker, moving = f"{self.output}/{SUCCESS}", f"{self.folder}/{_MOVING}"
        if FileSystems.exists(marker):
            FileSystems.delete([marker])
        new = [path for path in _remote_files(self.folder) if UNFINISHED not in path]
        if not FileSystems.exists(moving):
            # from here on a worker that takes over moves what is left, and deletes nothing
            if old := _remote_files(self.output):
                FileSystems.delete(old)
            _put(moving, self._run)
        new = [path for path in new if path != moving]
        moved = [self.output + path[len(self.folder) :] for path in new]
        for start in range(0, len(new), 100):
            FileSystems.rename(new[start : start + 100], moved[start : start + 100])
        _put(marker, self._run)
        FileSystems.delete([moving])

    def is_published(self) -> bool:
        """Whether this very run has been published to a file system without folders."""
        marker = f"{self.output}/{SUCCESS}"
        return FileSystems.exists(marker) and read_file(marker) == self._run.encode()

    def remove(self) -> None:
        """Removes what is left of the staging folder."""
        if is_local(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif left := _remote_files(self.folder):
            FileSystems.delete(left)


@contextmanager
def staged(output: str, overwrite: bool, working_files: Sequence[str] = ()) -> Iterator[str]:
    """The staging folder of a job; it becomes the output when the block ends without an error.

    Raises:
        InputError: the output exists, or cannot be written.
    """
    staging = Staging(output.rstrip("/") or output, overwrite)
    try:
        staging.check()
        yield staging.folder
        staging.publish(list(working_files))
    finally:
        staging.remove()


def _put(path: str, text: str) -> None:
    with FileSystems.create(path) as file:
        file.write(text.encode())


def _is_sequences(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for name in (SUCCESS, "schema.json"))


def _remote_files(folder: str) -> list[str]:
    (match,) = FileSystems.match([f"{folder}/**"])
    return [entry.path for entry in match.metadata_list]


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
            found: mapping. ``tally`` and ``learned``, as :class:`beam_jobs.output.write.WriteTally`
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
