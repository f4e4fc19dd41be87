"""Writes files atomically, under their name only once complete, and converts values for JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

TEMPORARY = ".unfinished-"
"""Start of a file's name until it is complete."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary path beside `path`, and renames the file there to `path` at the end.

    The temporary name is unique and ends like `path`. If the block fails, its file is removed and
    `path` stays as it was.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(6)}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Writes a JSON file atomically, keys sorted."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def as_json(value: Any) -> Any:
    """Converts arrays to lists, dataclasses and mappings to dicts, infinite numbers and NaN to
    None.

    Example:
        >>> as_json({"a": np.array([1.5, np.nan]), 2: np.int64(3)})
        {'a': [1.5, None], '2': 3}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): as_json(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
