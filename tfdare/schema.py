"""The single description that the Beam job, the reader, the model, the export and the client share.

A :class:`Schema` lists the features that history and target have in common, how long a window of
history a request carries, how positions fold into buckets, and by which protocol the sequences
were split. It goes to ``schema.json`` and back. This module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

import numpy as np

PADDING_ID = 0
"""Row that stands for "no behavior here"; never trained, never looked up by a real id."""
OOV_ID = 1
"""Row that stands for every id the vocabulary does not hold."""
FIRST_ID = 2
"""Row of the most frequent id of a vocabulary."""

SCHEMA_VERSION = 1
ENCODINGS = ("packed",)
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RESERVED = {"length", "time", "index", "position", "score"}


class SchemaError(ValueError):
    """A schema, or a folder described by one, that cannot be used as it is."""


@dataclass(frozen=True)
class Feature:
    """One feature that every behavior and every target carries, such as item or category.

    Args:
        name: str. Lower-case identifier; tensors are called ``history_<name>``, ``target_<name>``.
        vocabulary_size: int. Rows of the embedding table, padding and out-of-vocabulary included.
        attention_dim: int. Columns of the attention table. Defaults to 16.
        representation_dim: int. Columns of the representation table. Defaults to 16.
        vocabulary: str or None. Vocabulary file, relative to the folder of ``schema.json``: one
            ``raw_id<TAB>count`` a line; line ``i`` (from 0) is row ``i + 2``.
        digest: str or None. SHA-256 of that file.

    Raises:
        SchemaError: the name, a size or a dimension is not usable.
    """

    name: str
    vocabulary_size: int
    attention_dim: int = 16
    representation_dim: int = 16
    vocabulary: str | None = None
    digest: str | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.match(self.name) or self.name in _RESERVED:
            raise SchemaError(
                "A feature's `name` must be a lower-case identifier and none of "
                f"{sorted(_RESERVED)}. Received: name={self.name!r}"
            )
        _set_int(self, f"feature {self.name!r}", "vocabulary_size", FIRST_ID)
        _set_int(self, f"feature {self.name!r}", "attention_dim", 1)
        _set_int(self, f"feature {self.name!r}", "representation_dim", 1)


@dataclass(frozen=True)
class Position:
    """How a behavior's distance to the target folds into rows of a small table.

    Position 0 is the target itself, 1 the newest behavior. Positions up to ``exact`` have a row
    each; beyond, every doubling of the distance is cut into ``per_octave`` rows. A history of
    20,000 behaviors needs 308 rows with the defaults.

    Args:
        exact: int. Positions that keep a row of their own. Defaults to 256.
        per_octave: int. Rows for each doubling beyond. Defaults to 8.
        attention_dim: int. Columns in the attention table; 0 leaves position out of it.
            Defaults to 16.
        representation_dim: int. Columns in the representation table; 0 leaves it out.
            Defaults to 16.
    """

    exact: int = 256
    per_octave: int = 8
    attention_dim: int = 16
    representation_dim: int = 16

    def __post_init__(self):
        _set_int(self, "position", "exact", 1)
        _set_int(self, "position", "per_octave", 1)
        _set_int(self, "position", "attention_dim", 0)
        _set_int(self, "position", "representation_dim", 0)

    def buckets(self, window: int) -> np.ndarray:
        """Row of every position ``0 .. window``, as int32 ``[window + 1]``, never falling."""
        position = np.arange(window + 1, dtype=np.float64)
        beyond = np.log2(np.maximum(position, self.exact) / self.exact) * self.per_octave
        return np.where(
            position <= self.exact, position, self.exact + np.ceil(beyond - 1e-9)
        ).astype(np.int32)

    def size(self, window: int) -> int:
        """Rows of the position table for histories of ``window`` behaviors."""
        return int(self.buckets(window)[-1]) + 1


@dataclass(frozen=True)
class Schema:
    """What a folder of sequences holds, and all that a model must know to be built for it.

    Args:
        features: tuple of Feature. The first one is the item.
        window: int. N, the behaviors of history that a request carries at most.
        max_candidates: int. C, the candidates that a request carries at most.
        position: Position. Bucketing and dimensions of the position feature.
        split: mapping. The protocol that cut the log into train, validation and test, with its
            options, as the Beam job wrote them.
        encoding: str. How records hold their arrays; ``"packed"`` is little-endian bytes.

    Raises:
        SchemaError: features repeat or are missing, or a size is not usable.

    Example:
        >>> schema = Schema(features=(Feature("item", 1000), Feature("category", 50)), window=200)
        >>> Schema.from_json(schema.to_json()) == schema
        True
        >>> schema.with_dims(attention_dim=4).features[0].attention_dim
        4
    """

    features: tuple[Feature, ...]
    window: int
    max_candidates: int = 3
    position: Position = field(default_factory=Position)
    split: Mapping[str, Any] = field(default_factory=dict)
    encoding: str = "packed"

    def __post_init__(self):
        object.__setattr__(self, "features", tuple(self.features))
        if not isinstance(self.split, Mapping):
            raise SchemaError(f"`split` must be a mapping. Received: split={self.split!r}")
        object.__setattr__(self, "split", dict(self.split))
        if not self.features:
            raise SchemaError("A schema needs at least one feature. Received: features=()")
        for feature in self.features:
            if not isinstance(feature, Feature):
                raise SchemaError(f"`features` must be Feature objects. Received: {feature!r}")
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise SchemaError(f"Feature names must differ. Received: {names}")
        _set_int(self, "schema", "window", 1)
        _set_int(self, "schema", "max_candidates", 1)
        if self.encoding not in ENCODINGS:
            raise SchemaError(f"`encoding` must be one of {ENCODINGS}. Received: {self.encoding!r}")

    @property
    def item(self) -> Feature:
        """The feature that identifies a behavior's item: the first one."""
        return self.features[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def with_dims(
        self, attention_dim: int | None = None, representation_dim: int | None = None
    ) -> Schema:
        """The same schema with every feature's (and the position's) dimensions replaced.

        A position dimension of 0 (left out) stays 0.
        """
        given = {"attention_dim": attention_dim, "representation_dim": representation_dim}
        change = {name: value for name, value in given.items() if value is not None}
        position = {n: v for n, v in change.items() if getattr(self.position, n) != 0}
        return dataclasses.replace(
            self,
            features=tuple(dataclasses.replace(f, **change) for f in self.features),
            position=dataclasses.replace(self.position, **position),
        )

    @property
    def digest(self) -> str:
        """SHA-256 over what the data is (features, vocabularies, window, split), not over
        dimensions, which are a model's choice."""
        data = self.to_dict()
        for part in [*data["features"], data["position"]]:
            part.pop("attention_dim")
            part.pop("representation_dim")
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, ready for JSON."""
        return {"version": SCHEMA_VERSION, **dataclasses.asdict(self), "features": [
            dataclasses.asdict(feature) for feature in self.features
        ]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Inverse of :meth:`to_dict`.

        Raises:
            SchemaError: a key is missing or unknown, or the version is not this package's.
        """
        if not isinstance(data, Mapping):
            raise SchemaError(f"A schema must be a JSON object. Received: {data!r}")
        received = sorted(map(str, data))
        data = dict(data)
        version = data.pop("version", None)
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"This package reads schema version {SCHEMA_VERSION}. Received: version={version!r}"
            )
        try:
            features = tuple(Feature(**feature) for feature in data.pop("features"))
            position = Position(**data.pop("position"))
            return cls(features=features, position=position, **data)
        except KeyError as error:
            raise SchemaError(f"Not a schema: no {error}. Received: {received}") from error
        except TypeError as error:
            raise SchemaError(f"Not a schema: {error}. Received: {received}") from error

    def to_json(self) -> str:
        """``schema.json`` as text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Inverse of :meth:`to_json`.

        Raises:
            SchemaError: the text is not JSON, or not a schema.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise SchemaError(f"Not JSON: {error}. Received: {text[:80]!r}") from error
        return cls.from_dict(data)

    @classmethod
    def load(cls, path: str, opener: Callable = open) -> Schema:
        """Reads ``path`` (a ``schema.json``)."""
        with opener(path, "r") as file:
            return cls.from_json(file.read())


def _set_int(part: Any, owner: str, name: str, minimum: int) -> None:
    """Checks a field, and makes a Python integer of it: NumPy's are not written as JSON."""
    value = getattr(part, name)
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or value < minimum:
        raise SchemaError(
            f"`{name}` of {owner} must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    object.__setattr__(part, name, int(value))
