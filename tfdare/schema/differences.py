"""Describes how two schemas differ, for messages to users."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfdare.schema.features import CategoricalContext, Feature, NumericContext
from tfdare.schema.schema import Schema

_DIMS = ("attention_dim", "representation_dim", "dim")
_Part = Feature | CategoricalContext | NumericContext


def differences(trained: Schema, current: Schema) -> list[str]:
    """Lists the differences that change :attr:`Schema.digest`, one phrase each.

    Args:
        trained: Schema. The older one, that of a model.
        current: Schema. The one of the current data.
    """
    before, after = _parts(trained), _parts(current)
    phrases = []
    missing, added = [n for n in before if n not in after], [n for n in after if n not in before]
    if missing:
        phrases.append(f"features {missing} are missing")
    if added:
        phrases.append(f"features {added} are new")
    for name in before:
        if name in after and (phrase := _feature_difference(before[name], after[name])):
            phrases.append(phrase)
    if not (missing or added) and list(before) != list(after):
        phrases.append(f"features come in another order ({list(before)}, now {list(after)})")
    for name in ("window", "max_candidates", "encoding", "position", "time_gap", "sample_weights"):
        old, new = _without_dims(getattr(trained, name)), _without_dims(getattr(current, name))
        if old != new:
            phrases.append(f"`{name}` is {new}, was {old}")
    for name in sorted({*trained.split, *current.split}):
        old, new = trained.split.get(name), current.split.get(name)
        if old != new:
            phrases.append(f"split option `{name}` is {new!r}, was {old!r}")
    return phrases


def _parts(schema: Schema) -> dict[str, _Part]:
    return {part.name: part for part in (*schema.features, *schema.context)}


def _without_dims(part: Any) -> Any:
    if not dataclasses.is_dataclass(part):
        return part
    return {k: v for k, v in vars(part).items() if k not in _DIMS}


def _feature_difference(before: Any, after: Any) -> str | None:
    if type(before) is not type(after):
        return f"feature {before.name!r} is a {type(after).__name__}, was a {type(before).__name__}"
    old, new = _without_dims(before), _without_dims(after)
    changed = {name for name in old if old[name] != new[name]}
    if not changed:
        return None
    if "dtype" in changed:
        changed = {"dtype"}
    elif "vocabulary_size" in changed:
        old_size, new_size = before.vocabulary_size, after.vocabulary_size
        verb = "grew" if new_size > old_size else "shrank"
        return f"the vocabulary of {before.name!r} {verb} from {old_size:,} to {new_size:,} rows"
    elif "digest" in changed:
        return (
            f"the vocabulary of {before.name!r} has as many rows "
            f"({before.vocabulary_size:,}) but other ids"
        )
    return "; ".join(
        f"`{name}` of {before.name!r} is {new[name]!r}, was {old[name]!r}"
        for name in sorted(changed)
    )
