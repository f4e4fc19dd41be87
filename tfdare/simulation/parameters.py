"""Reads and writes fitted sets of simulator options, with statistics of the log, as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

from tfdare.simulation.fit import Fit
from tfdare.simulation.options import RANGES, SimulatorOptions
from tfdare.simulation.writing import atomic

_FOLDER = pathlib.Path(__file__).parent / "like"


@dataclass(frozen=True)
class Parameters:
    """Options, and the statistics of the log that they were fitted to.

    Attributes:
        options: SimulatorOptions.
        real: dict or None. Statistics of the fitted log (of a sample of its users, if it was
            large).
    """

    options: SimulatorOptions
    real: dict[str, Any] | None


def names() -> list[str]:
    """Returns the names of the sets that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read(name: str | os.PathLike) -> Parameters:
    """Reads a set that comes with the package, by its name, or a file.

    Raises:
        ValueError: there is no set of this name, or the file holds no such parameters.
    """
    known = os.fspath(name) in names()
    path = _FOLDER / f"{name}.json" if known else pathlib.Path(name)
    try:
        parameters = json.loads(path.read_text(encoding="utf-8"))
        options = parameters["options"]
        unknown = sorted(set(options) - set(RANGES))
    except OSError as error:
        raise ValueError(
            f"There are no parameters {os.fspath(name)!r}: neither one of {', '.join(names())} "
            f"nor a file that can be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no parameters of the simulator: JSON with `options` is needed"
        ) from error
    if unknown:
        raise ValueError(f"{path} has options that the simulator does not know: {unknown}")
    return Parameters(SimulatorOptions(**options), parameters.get("real"))


def write(path: str | os.PathLike, fitted: Fit) -> None:
    """Writes the result of :func:`tfdare.simulation.fit.fit`, atomically."""

    def short(value):
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return [short(inner) for inner in value] if isinstance(value, list) else value

    parameters = short(dataclasses.asdict(fitted))
    lines = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        + "\n }"
        for part, values in parameters.items()
    ]
    with atomic(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())
