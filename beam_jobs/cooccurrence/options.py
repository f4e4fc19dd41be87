"""Options of vectors: which features get them, and what counts as occurring together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.reading.formats import pairs
from beam_jobs.shared.errors import InputError

COLUMNS = 16
"""Length of vectors where none is asked for."""
MOST_COLUMNS = 4096
NO_VECTORS = "none"


@dataclass(frozen=True)
class VectorOptions:
    """Which features get vectors, and what counts as occurring together.

    Attributes:
        features: mapping of feature to the length of its vectors, or to the path of a file with
            given ones.
        coarse_clock: bool. Whether the order of the log decides among events of the same time.
        gap: int or None. A longer pause starts a new session.
        hashed: mapping of hashed feature to its number of buckets.
        text_ids: frozenset. Features whose ids are text.
    """

    features: Mapping[str, int | str]
    coarse_clock: bool = False
    gap: int | None = None
    hashed: Mapping[str, int] = field(default_factory=dict)
    text_ids: frozenset[str] = frozenset()

    def __post_init__(self):
        if self.gap is not None and not self.counted:
            raise InputError(f"--gap needs vectors learned from a log. Received: {self.gap}")

    @property
    def counted(self) -> dict[str, int]:
        """The features whose vectors are learned from pairs, and the vectors' length."""
        return {name: value for name, value in self.features.items() if isinstance(value, int)}

    @property
    def given(self) -> dict[str, str]:
        """The features whose vectors are given, and the path of the file."""
        return {name: value for name, value in self.features.items() if isinstance(value, str)}


def add_vector_options(add: Callable[..., Any]) -> None:
    """Adds the options of co-occurrence vectors to a parser, by its ``add_argument``."""
    add(
        "--vectors",
        nargs="+",
        metavar="FEATURE=COLUMNS",
        help="vectors of ids from what occurs together in histories of the training period, of "
        "COLUMNS numbers each, written as vectors/FEATURE.npz; a value that is no number is a "
        "Parquet file of given vectors (FEATURE=vectors.parquet: columns FEATURE or id, and "
        f"vector); default {COLUMNS} for every feature of one value; {NO_VECTORS}: no vectors",
    )
    add(
        "--gap",
        type=int,
        metavar="SECONDS",
        help="with --vectors: events before and after a longer pause, by the clock of the log, do "
        "not occur together; default: all events of a user that lie close in order do",
    )


def parse_vectors(parts: Sequence[str] | None, features: Sequence[str]) -> dict[str, int | str]:
    """Parses the values of ``--vectors``: the length of every feature's vectors, or a path.

    Args:
        parts: sequence of str or None. As given; None: the default.
        features: sequence of str. Features of one value.

    Raises:
        InputError: a feature has several values or does not exist, or a length does not fit.
    """
    if parts is None:
        return dict.fromkeys(features, COLUMNS)
    if list(parts) == [NO_VECTORS]:
        return {}
    vectors: dict[str, int | str] = {}
    for name, value in pairs("vectors", parts).items():
        if name not in features:
            raise InputError(
                f"--vectors: no feature of one value {name!r} among {', '.join(features)}"
            )
        if not re.fullmatch("[+-]?[0-9]+", value):
            vectors[name] = value
            continue
        if not 0 < int(value) <= MOST_COLUMNS:
            raise InputError(
                f"--vectors must be name=columns, 1 to {MOST_COLUMNS}, or name=path. "
                f"Received: {name}={value}"
            )
        vectors[name] = int(value)
    return {name: vectors[name] for name in features if name in vectors}
