"""What a file holds, by its first bytes: text, Parquet or Avro, compressed or not.

The name of a file decides nothing: tools add suffixes and forget them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError

from beam_jobs.shared.errors import InputError

COMPRESSED = ("gzip", "zstd", "xz", "bz2")
TYPED = ("parquet", "avro")
TEXT = "text"
UTF8_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 12
_UTF16 = "UTF-16 text, which iconv -f UTF-16 -t UTF-8 converts"
_PICKLE = "a Python pickle"
_MAGIC = (  # offset, bytes, what they begin
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (1, b"\x2a\x4d\x18", "zstd"),  # a frame of no data
    (0, b"\xfd7zXZ\x00", "xz"),
    (4, b"1AY&SY", "bz2"),
    (4, b"\x17rE8P\x90", "bz2"),  # of no data
    (0, b"PAR1", "parquet"),
    (0, b"Obj\x01", "avro"),
    (0, b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (0, b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (257, b"ustar", "a tar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a", "a rar archive"),
    (0, b"\x04\x22\x4d\x18", "lz4 data"),
    (0, b"\xff\x06\x00\x00sNaPpY", "snappy data"),
    (0, b"\x89LZO\x00", "lzo data"),
    (0, b"\x1f\x9d", "data of Unix compress"),
    (0, b"ORC", "an ORC file"),
    (0, b"ARROW1\x00", "an Arrow or Feather file"),
    (0, b"SEQ\x06", "a Hadoop sequence file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x80\x04\x95", _PICKLE),
    (0, b"\x80\x05\x95", _PICKLE),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\xff\xfe", _UTF16),
    (0, b"\xfe\xff", _UTF16),
)


def kind_of(raw: Any, path: str, format_kind: str, option: str) -> str:
    """Tells what a file holds: one of ``TYPED``, one of ``COMPRESSED``, or ``TEXT``.

    Args:
        raw: binary file, at its start.
        path: str. Of the file, for messages.
        format_kind: str. The format that is expected, one of ``formats.FORMATS``.
        option: str. The option that gave it, for messages.

    Raises:
        InputError: the file holds something else than the format needs.
    """
    head = raw.read(_HEAD_BYTES)
    kind, needed = _content(head), format_kind if format_kind in TYPED else TEXT
    if kind == needed:
        return kind
    what = kind
    if kind in COMPRESSED:
        raw.seek(0)
        with reading(path, kind), decompressed(raw, kind) as file:
            head = file.read(_HEAD_BYTES)
        if (inner := _content(head)) == needed == TEXT:
            return kind
        what = f"{inner}, compressed with {kind}; decompress it first"
    elif kind in TYPED:
        what = f"{'an' if kind == 'avro' else 'a'} {kind} file"
    wanted = "text, plain or compressed with " + ", ".join(COMPRESSED)
    raise InputError(
        f"{path} cannot be read: it is {what}. Received: --{option} {format_kind}, which reads "
        f"{wanted if needed == TEXT else f'{needed} files'}. It starts with {head[:6].hex(' ')}"
    )


def head_of(raw: Any, path: str, size: int = 1 << 16) -> tuple[str, bytes]:
    """Tells what a file holds once it is decompressed, and reads its first bytes.

    Args:
        raw: binary file, at its start.
        path: str. Of the file, for messages.
        size: int. Bytes to read.

    Returns:
        One of ``TYPED``, ``TEXT``, or the name of something else; and the bytes.

    Raises:
        InputError: the file is damaged.
    """
    head = raw.read(size)
    if (kind := _content(head)) in COMPRESSED:
        raw.seek(0)
        with reading(path, kind), decompressed(raw, kind) as file:
            head = file.read(size)
        kind = _content(head)
    return kind, head


def _content(head: bytes) -> str:
    """Names what begins with these bytes."""
    for offset, magic, what in _MAGIC:
        # a magic number of letters alone may be a column's name
        if head[offset:].startswith(magic) and (not magic.isalnum() or b"\0" in head):
            return what
    return "binary data" if b"\0" in head else TEXT


def decompressed(raw: Any, kind: str) -> AbstractContextManager[Any]:
    """Opens the bytes of a file that :func:`kind_of` calls ``kind``, decompressed."""
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if kind == "bz2":
        return bz2.BZ2File(raw)
    if kind == "xz":
        return lzma.LZMAFile(raw)
    if kind == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return nullcontext(raw)


@contextmanager
def reading(path: str, kind: str = TEXT):
    """Turns the errors that libraries raise for a damaged or unreadable file into InputError."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        # an error of the file system has a number
        damaged = not isinstance(error, BeamIOError) and not getattr(error, "errno", None)
        if kind in COMPRESSED and (isinstance(error, EOFError) or "Truncated" in str(error)):
            text = f"{path} is cut short: the {kind} data ends too early"
        elif kind in COMPRESSED and damaged:
            text = f"{path} is damaged {kind} data: {error}"
        else:
            text = f"{path} cannot be read: {error}"
        raise InputError(text) from error
