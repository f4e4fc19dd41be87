"""Files written in one step, and numbers as JSON knows them."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np


def write_json(path: str, data: Any) -> None:
    """Writes JSON beside `path` and renames it into place."""
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, sort_keys=True)
        file.write("\n")
    os.replace(f"{path}.tmp", path)


def as_json(value: Any) -> Any:
    """Arrays as lists, dataclasses and mappings as dicts, and None for what is no finite number.

    Example:
        >>> as_json({"a": np.array([1.5, np.nan]), 2: np.int64(3)})
        {'a': [1.5, None], '2': 3}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
