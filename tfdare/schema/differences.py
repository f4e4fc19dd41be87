"""In what two schemas differ, said so that a person sees what to do about it."""

from __future__ import annotations

import dataclasses

from tfdare.schema.schema import Schema

_DIMS = ("attention_dim", "representation_dim", "dim")


def differences(trained: Schema, found: Schema) -> list[str]:
    """What :attr:`Schema.digest` sees differ, one phrase each; dimensions are left out.

    Args:
        trained: Schema. The older one, a model's.
        found: Schema. Of the data at hand.
    """
    before, after = _parts(trained), _parts(found)
    phrases = []
    missing, added = [n for n in before if n not in after], [n for n in after if n not in before]
    if missing:
        phrases.append(f"features {missing} are missing")
    if added:
        phrases.append(f"features {added} are new")
    for name in before:
        if name in after and (phrase := _of_feature(before[name], after[name])):
            phrases.append(phrase)
    if not (missing or added) and list(before) != list(after):
        phrases.append(f"features come in another order ({list(before)}, now {list(after)})")
    for name in ("window", "max_candidates", "encoding", "position", "time_gap"):
        one, other = _plain(getattr(trained, name)), _plain(getattr(found, name))
        if one != other:
            phrases.append(f"`{name}` is {other}, was {one}")
    for name in sorted({*trained.split, *found.split}):
        one, other = trained.split.get(name), found.split.get(name)
        if one != other:
            phrases.append(f"split option `{name}` is {other!r}, was {one!r}")
    return phrases


def _parts(schema):
    return {part.name: part for part in (*schema.features, *schema.context)}


def _plain(part):
    if not dataclasses.is_dataclass(part):
        return part
    return {k: v for k, v in dataclasses.asdict(part).items() if k not in _DIMS}


def _of_feature(before, after) -> str | None:
    one, other = _plain(before), _plain(after)
    if type(before) is not type(after):
        return f"feature {before.name!r} is a {type(after).__name__}, was a {type(before).__name__}"
    if one == other:
        return None
    changed = {name for name in one if one[name] != other[name]}
    if "vocabulary_size" in changed:
        old, new = before.vocabulary_size, after.vocabulary_size
        verb = "grew" if new > old else "shrank"
        return f"the vocabulary of {before.name!r} {verb} from {old:,} to {new:,} rows"
    if "digest" in changed:
        return (
            f"the vocabulary of {before.name!r} has as many rows "
            f"({before.vocabulary_size:,}) but other ids"
        )
    return "; ".join(
        f"`{name}` of {before.name!r} is {other[name]!r}, was {one[name]!r}"
        for name in sorted(changed)
    )
