"""Earlier runs: their events are kept, so that a later run can add to them without their log.

Every bucket of users has one file with all its events, sorted, without bad and repeated rows. The
events of users that have too few for a request are kept, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from beam_jobs.histories.histories import Histories
from beam_jobs.reading.rows import Events
from beam_jobs.shared.errors import InputError
from beam_jobs.shared.storage import open_file, read_file, to_arrow, to_numpy, write_file
from beam_jobs.shared.vocabulary_file import Vocabulary, texts_of
from tfdare.sequences import SUCCESS

EVENTS_FOLDER, TEXTS_FILE = "events", "texts.arrow"
KEPT = "events_kept"
"""Key of the manifest for the number of buckets, of chunks, and of kept events."""


@dataclass(frozen=True)
class Earlier:
    """A finished folder of sequences that a run builds on.

    Attributes:
        folder: str.
        manifest: mapping. Its ``manifest.json``.
    """

    folder: str
    manifest: Mapping[str, Any]

    @property
    def buckets(self) -> int:
        """Number of buckets of users; a run that adds to the folder has the same number."""
        return self.manifest[KEPT]["buckets"]

    @property
    def chunks(self) -> int:
        """Number of chunks read so far; the chunks of a later run are numbered after them."""
        return self.manifest[KEPT]["chunks"]

    def vocabulary(self, name: str) -> Vocabulary:
        """Reads the vocabulary of a feature, or of a categorical context feature."""
        return Vocabulary.load(self._vocabulary_file(name), name in self.text_ids)

    @property
    def text_ids(self) -> frozenset[str]:
        """Features, and context features, whose ids are text."""
        return frozenset(self.manifest["options"].get("text_ids") or ())

    def texts(self, name: str) -> pa.Array:
        """Reads the text ids in the vocabulary of a feature."""
        return texts_of(self._vocabulary_file(name))

    @property
    def texts_file(self) -> str:
        """The file with the texts of all text ids of the kept events."""
        return f"{self.folder}/{EVENTS_FOLDER}/{TEXTS_FILE}"

    def _vocabulary_file(self, name: str) -> bytes:
        return read_file(f"{self.folder}/vocabulary/{name}.tsv")

    def events(self, bucket: int) -> Events:
        """Reads all events of a bucket; the line of an event is its order in the log."""
        with open_file(_path(self.folder, bucket, self.buckets)) as file:
            table = pa.ipc.open_stream(file.read()).read_all()
        columns = {name: to_numpy(table[name]) for name in table.column_names if name != "user"}
        user = pa.chunked_array(table["user"].chunks, table["user"].type).cast(pa.string())
        return Events(user.combine_chunks(), columns, columns.pop("order"))


def save_events(histories: Histories, folder: str, buckets: int) -> None:
    """Writes the events of a bucket."""
    index = np.repeat(np.arange(len(histories.users), dtype=np.int32), histories.length)
    user = pa.DictionaryArray.from_arrays(index, pa.array(histories.users, pa.string()))
    arrays = {name: to_arrow(column) for name, column in histories.columns.items()}
    table = pa.table({"user": user, **arrays})

    def write(file):
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)

    write_file(_path(folder, histories.bucket, buckets), write)


def open_earlier(
    folder: str, option: str, settings: Mapping[str, Any], names: Sequence[str], events: bool
) -> Earlier:
    """Opens a finished folder that a run may build on.

    Args:
        folder: str.
        option: str. The option that names it, for messages.
        settings: mapping. Options of this run that must equal those of the folder; None matches an
            option that the folder does not have.
        names: sequence of str. Features and context whose vocabularies are needed.
        events: bool. Whether its events are needed.

    Raises:
        InputError: the folder is not finished, kept no events, lacks a vocabulary, or was made
            with other options.
    """
    try:
        if not FileSystems.exists(f"{folder}/{SUCCESS}"):
            raise InputError(f"--{option} {folder!r} is no finished folder of sequences")
        manifest = json.loads(read_file(f"{folder}/manifest.json"))
    except (OSError, ValueError) as error:
        raise InputError(f"--{option} {folder!r} cannot be read: {error}") from error
    if events and KEPT not in manifest:
        raise InputError(f"--{option} {folder!r} kept no events: it was made without --keep_events")
    if missing := [name for name in names if name not in manifest["vocabularies"]]:
        raise InputError(f"--{option} {folder!r} has no vocabulary of {', '.join(missing)}")
    before = manifest["options"]
    differ = [
        f"{name} {before.get(name)!r}, now {value!r}"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if differ:
        raise InputError(f"--{option} {folder!r} was made with other options: {'; '.join(differ)}")
    return Earlier(folder, manifest)


def _path(folder: str, bucket: int, buckets: int) -> str:
    return f"{folder}/{EVENTS_FOLDER}/part-{bucket:05d}-of-{buckets:05d}.arrow"
