"""Publishing: a run writes to a staging folder, which becomes the output in one step."""

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

from beam_jobs.config_file import CONFIG_FILE
from beam_jobs.histories.earlier_run import KEPT, TEXTS_FILE
from beam_jobs.options import Options
from beam_jobs.output import manifest
from beam_jobs.output.write import REJECTED_FOLDER, TALLY_FILE
from beam_jobs.reading.inputs import InputFile
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import UNFINISHED, is_local, read_file, write_file
from beam_jobs.vocabulary.learn import CATALOG_FILE
from tfdare.sequences import SUCCESS

RESULTS, REJECTED_COUNTS = "results", "rejected_counts"
"""Outputs of BuildSequences: tally and vocabularies; the number of rows of every rejected file."""
_MOVING = "_MOVING"


class Staging:
    """A new folder next to the output; call ``publish`` when it is complete, ``remove`` always."""

    def __init__(self, output: str, overwrite: bool):
        self.output = output
        self._overwrite = overwrite
        self._run = uuid.uuid4().hex[:8]
        self.folder = f"{output}.tmp-{self._run}"

    def check(self) -> None:
        """Checks that the output may be written.

        Raises:
            InputError: it exists and may not be replaced, or nothing can be written next to it.
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
        elif not self._overwrite and _files(self.output):
            raise InputError(f"--output {self.output!r} exists. Give --overwrite to replace it.")
        try:
            FileSystems.mkdirs(self.folder)
        except Exception as error:  # each file system raises its own kind
            raise InputError(f"--output {self.output!r} cannot be written: {error}") from error

    def publish(self, working_files: list[str]) -> None:
        """Deletes ``working_files`` and moves the folder to the output."""
        working = [f"{self.folder}/{name}" for name in working_files]
        FileSystems.delete([path for path in working if FileSystems.exists(path)])
        if is_local(self.output):
            self._publish_local()
        else:
            self._publish_remote()

    def _publish_local(self) -> None:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if UNFINISHED in name:  # left by a bundle that was retried
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
        """Moves files one by one: the old ``_SUCCESS`` is deleted first, the new one written last.

        Remote file systems cannot rename a folder.
        """
        marker, moving = f"{self.output}/{SUCCESS}", f"{self.folder}/{_MOVING}"
        if FileSystems.exists(marker):
            FileSystems.delete([marker])
        new = [path for path in _files(self.folder) if UNFINISHED not in path]
        if not FileSystems.exists(moving):
            # once this mark exists, a retried worker moves the remaining files and deletes none
            if old := _files(self.output):
                FileSystems.delete(old)
            _write_text(moving, self._run)
        new = [path for path in new if path != moving]
        moved = [self.output + path[len(self.folder) :] for path in new]
        for start in range(0, len(new), 100):
            FileSystems.rename(new[start : start + 100], moved[start : start + 100])
        _write_text(marker, self._run)
        FileSystems.delete([moving])

    def keep_rejected(self) -> str | None:
        """Moves the rejected rows beside the output, so that they outlive a run that failed.

        Returns:
            The folder, ``<output>.rejected``, whose earlier files are replaced; None where no row
            was rejected.
        """
        kept = f"{self.output}.{REJECTED_FOLDER}"
        rejected = f"{self.folder}/{REJECTED_FOLDER}"
        new = [path for path in _files(rejected) if UNFINISHED not in path]
        if not new:
            return None
        if old := _files(kept):
            FileSystems.delete(old)
        if is_local(kept):
            os.makedirs(kept, exist_ok=True)
        FileSystems.rename(new, [kept + path[len(rejected) :] for path in new])
        return kept

    def is_published(self) -> bool:
        """Returns whether this run was published already, to a remote file system."""
        marker = f"{self.output}/{SUCCESS}"
        return FileSystems.exists(marker) and read_file(marker) == self._run.encode()

    def remove(self) -> None:
        """Removes the staging folder, where it still exists."""
        if is_local(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif left := _files(self.folder):
            FileSystems.delete(left)


@contextmanager
def staged(output: str, overwrite: bool, working_files: Sequence[str] = ()) -> Iterator[str]:
    """Opens a staging folder, which becomes the output when the block ends without an error.

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


@dataclass(frozen=True)
class Finish:
    """The last step of a run: checks the results, writes schema and manifest, and publishes.

    Attributes:
        options: Options.
        files: tuple of InputFile.
        buckets: int.
        chunks: int. Chunks of the log, with those of earlier runs.
        staging: Staging.
        started: float. Seconds since the epoch.
    """

    options: Options
    files: tuple[InputFile, ...]
    buckets: int
    chunks: int
    staging: Staging
    started: float

    def __call__(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Publishes the folder and returns its manifest.

        Args:
            results: mapping. ``tally``, ``learned`` and ``vectors``, as
                :class:`beam_jobs.output.write.WriteTally` gives them.

        Raises:
            InputError: the run could not read its input, or left nothing. Nothing is published.
        """
        options, folder = self.options, self.staging.folder
        tally, learned = results["tally"], results["learned"]
        try:
            manifest.check(tally, options, folder)
        except InputError as error:
            if kept := self.staging.keep_rejected():
                raise InputError(f"{error.message}\n  All rejected rows: {kept}/*.jsonl") from error
            raise
        schema = manifest.make_schema(options, learned, tally)
        seconds = time.time() - self.started
        content = manifest.make_manifest(
            options, self.files, self.buckets, tally, learned, schema, seconds, results["vectors"]
        )
        if options.keep_events:
            content[KEPT] = {
                "buckets": self.buckets,
                "chunks": self.chunks,
                "events": content["counts"]["rows"]["kept"],
            }
        write_file(f"{folder}/{CONFIG_FILE}", options.config.encode())
        write_file(f"{folder}/schema.json", schema.to_json().encode())
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_file(f"{folder}/manifest.json", text.encode("utf-8", "backslashreplace"))
        self.staging.publish([TALLY_FILE, CATALOG_FILE, TEXTS_FILE])
        return content


class Publish(beam.PTransform):
    """Outputs of BuildSequences -> a published folder, by a worker.

    For templates, whose launcher does not wait for the end of the run. A worker that is retried
    continues where the first try stopped.
    """

    def __init__(self, finish: Finish):
        super().__init__()
        self._finish = finish

    def expand(self, built):
        finish = self._finish

        def publish(results, _):
            if not finish.staging.is_published():
                finish(results)

        # waiting for the sum ensures that all rejected rows are written
        rejected = built[REJECTED_COUNTS] | "AllRejected" >> beam.CombineGlobally(sum)
        return (
            built[RESULTS]
            | "Once" >> beam.Reshuffle()
            | "Finish" >> beam.Map(publish, beam.pvalue.AsSingleton(rejected))
        )


def _write_text(path: str, text: str) -> None:
    with FileSystems.create(path) as file:
        file.write(text.encode())


def _is_sequences(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for name in (SUCCESS, "schema.json"))


def _files(folder: str) -> list[str]:
    """Returns the paths of all files below a folder, which need not exist."""
    if is_local(folder):
        return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    (match,) = FileSystems.match([f"{folder}/**"])
    return [entry.path for entry in match.metadata_list]
