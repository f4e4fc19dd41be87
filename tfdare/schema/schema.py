"""The single description of the data that Beam jobs, reader, model, export and client share.

A :class:`Schema` lists the features that history and target have in common, how long a window of
history a request carries, how positions and time gaps fold into rows, what context comes with a
request, and by which protocol the sequences were split. It is stored as ``schema.json``. This
module does not import TensorFlow. The parts of a schema are in :mod:`tfdare.schema.features`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfdare.schema.features import (
    INT64,
    CategoricalContext,
    Feature,
    NumericContext,
    Position,
    SchemaError,
    TimeGap,
    set_int,
)

SCHEMA_VERSION = 2
PACKED = "packed"
LISTS = "lists"
ENCODINGS = (PACKED, LISTS)
_CONTEXT_KINDS = {"categorical": CategoricalContext, "numeric": NumericContext}
_DIMS = ("attention_dim", "representation_dim", "dim")


@dataclass(frozen=True)
class Schema:
    """Describes the data in a folder of sequences, as needed to build a model for it.

    Args:
        features: tuple of Feature. The first one is the item, which has one value.
        window: int. N, the behaviors of history that a request carries at most.
        max_candidates: int. C, the candidates that a request carries at most.
        position: Position. Bucketing and dimensions of the position feature.
        split: mapping. The protocol that cut the log into train, validation and test, with its
            options, as the Beam job wrote them.
        encoding: str. How records hold their arrays: ``"packed"`` is little-endian bytes,
            ``"lists"`` int64 (and float) lists that any reader of ``tf.train.Example`` can read.
        time_gap: TimeGap or None. Rows and dimensions of the time between behavior and request;
            None if requests carry no ``history_time_gap``.
        context: tuple of CategoricalContext and NumericContext. What requests carry in addition
            to history and candidates, one tensor ``context_<name>`` each.
        sample_weights: bool. Whether records hold a weight for every candidate. Defaults to False:
            all weigh 1.

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
    time_gap: TimeGap | None = None
    context: tuple[CategoricalContext | NumericContext, ...] = ()
    sample_weights: bool = False

    def __post_init__(self):
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "context", tuple(self.context))
        if not isinstance(self.split, Mapping):
            raise SchemaError(f"`split` must be a mapping. Received: split={self.split!r}")
        object.__setattr__(self, "split", dict(self.split))
        if not self.features:
            raise SchemaError("A schema needs at least one feature. Received: features=()")
        for feature in self.features:
            if not isinstance(feature, Feature):
                raise SchemaError(f"`features` must be Feature objects. Received: {feature!r}")
        if self.item.max_values != 1:
            raise SchemaError(
                f"The first feature is the item and has one value. Received: feature "
                f"{self.item.name!r} with max_values={self.item.max_values}"
            )
        for part in self.context:
            if not isinstance(part, tuple(_CONTEXT_KINDS.values())):
                raise SchemaError(
                    "`context` must be CategoricalContext and NumericContext objects. "
                    f"Received: {part!r}"
                )
        if not isinstance(self.position, Position):
            raise SchemaError(f"`position` must be a Position. Received: {self.position!r}")
        if self.time_gap is not None and not isinstance(self.time_gap, TimeGap):
            raise SchemaError(f"`time_gap` must be a TimeGap. Received: {self.time_gap!r}")
        names = [part.name for part in (*self.features, *self.context)]
        if len(set(names)) != len(names):
            raise SchemaError(f"Feature names must differ. Received: {names}")
        set_int(self, "schema", "window", 1)
        set_int(self, "schema", "max_candidates", 1)
        if self.encoding not in ENCODINGS:
            raise SchemaError(f"`encoding` must be one of {ENCODINGS}. Received: {self.encoding!r}")
        if not isinstance(self.sample_weights, bool):
            raise SchemaError(
                f"`sample_weights` must be true or false. Received: {self.sample_weights!r}"
            )

    @property
    def item(self) -> Feature:
        """The feature that identifies a behavior's item: the first one."""
        return self.features[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def categorical(self) -> tuple[Feature | CategoricalContext, ...]:
        """All that has ids and an embedding table: features, then categorical context."""
        context = [part for part in self.context if isinstance(part, CategoricalContext)]
        return (*self.features, *context)

    def with_dims(
        self, attention_dim: int | None = None, representation_dim: int | None = None
    ) -> Schema:
        """Replaces the dimensions of features, position and time gap; returns a new schema.

        A dimension of 0 (left out) of position or time gap stays 0; context keeps its own.
        """
        dims = {"attention_dim": attention_dim, "representation_dim": representation_dim}
        change: dict[str, Any] = {name: dim for name, dim in dims.items() if dim is not None}

        def small_table(part):
            kept = {name: value for name, value in change.items() if getattr(part, name) != 0}
            return dataclasses.replace(part, **kept)

        return dataclasses.replace(
            self,
            features=tuple(dataclasses.replace(f, **change) for f in self.features),
            position=small_table(self.position),
            time_gap=None if self.time_gap is None else small_table(self.time_gap),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the description of the data (features, vocabularies, context, window,
        split), without dimensions, which each model chooses."""
        data = self.to_dict()
        small_tables = [data["position"], data["time_gap"] or {}]
        for part in [*data["features"], *small_tables, *data["context"]]:
            for name in _DIMS:
                part.pop(name, None)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, dicts and numbers, ready for JSON."""
        kinds = {part_class: kind for kind, part_class in _CONTEXT_KINDS.items()}
        data = {
            "version": SCHEMA_VERSION,
            **dataclasses.asdict(self),
            "features": [_fields(feature) for feature in self.features],
            "context": [{"kind": kinds[type(part)], **_fields(part)} for part in self.context],
        }
        if not self.sample_weights:
            del data["sample_weights"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Builds a schema from what :meth:`to_dict` returned.

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
            time_gap = data.pop("time_gap", None)
            return cls(
                features=features,
                position=position,
                time_gap=None if time_gap is None else TimeGap(**time_gap),
                context=tuple(_context_feature(part) for part in data.pop("context", ())),
                **data,
            )
        except KeyError as error:
            raise SchemaError(f"Not a schema: no {error}. Received: {received}") from error
        except TypeError as error:
            raise SchemaError(f"Not a schema: {error}. Received: {received}") from error

    def to_json(self) -> str:
        """Returns the text of ``schema.json``."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Builds a schema from the text of ``schema.json``.

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


def _fields(part: Feature | CategoricalContext | NumericContext) -> dict[str, Any]:
    """Returns the fields as a dict; ``hash_buckets`` and ``dtype`` only where not the default."""
    data = dataclasses.asdict(part)
    if not data.get("hash_buckets"):
        data.pop("hash_buckets", None)
    if data.get("dtype") == INT64:
        data.pop("dtype")
    return data


def _context_feature(data: Any) -> CategoricalContext | NumericContext:
    """Builds a context feature from an entry of ``context`` in ``schema.json``."""
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind not in _CONTEXT_KINDS:
        raise SchemaError(
            "A context feature's `kind` must be one of "
            f"{sorted(_CONTEXT_KINDS)}. Received: {data!r}"
        )
    return _CONTEXT_KINDS[kind](**{name: value for name, value in data.items() if name != "kind"})
