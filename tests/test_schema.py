"""The contract that every part shares."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdare.schema import Feature, Position, Schema, SchemaError

SCHEMA = Schema(
    features=(
        Feature("item", 1000, vocabulary="vocabulary/item.tsv", digest="a" * 64),
        Feature("category", 50, vocabulary="vocabulary/category.tsv", digest="b" * 64),
    ),
    window=200,
    split={"protocol": "last_fraction", "test_fraction": 0.1},
)


@st.composite
def schemas(draw):
    sizes = st.integers(1, 10**9)
    names = draw(
        st.lists(
            st.sampled_from(["item", "category", "shop", "brand_2", "x"]),
            min_size=1, max_size=4, unique=True,
        )
    )
    maybe_text = st.none() | st.text(max_size=10)
    features = [
        Feature(name, draw(st.integers(2, 10**9)), draw(sizes), draw(sizes), draw(maybe_text),
                draw(maybe_text))
        for name in names
    ]
    position = Position(draw(sizes), draw(sizes), draw(st.integers(0, 64)), draw(st.integers(0, 64)))
    values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    split = draw(st.dictionaries(st.text(), values | st.lists(values, max_size=3), max_size=4))
    return Schema(tuple(features), draw(sizes), draw(sizes), position, split)


@given(schemas())
def test_json_round_trip(schema):
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.digest == schema.digest
    assert again.to_json() == schema.to_json()


def test_load_reads_the_file(tmp_path):
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    assert Schema.load(str(tmp_path / "schema.json")) == SCHEMA


def test_sizes_from_numpy_become_json():
    schema = Schema((Feature("item", np.int64(9)),), np.int32(5))
    assert Schema.from_json(schema.to_json()) == schema


def test_digest_ignores_dimensions():
    assert SCHEMA.with_dims(4, 8).digest == SCHEMA.digest
    position = dataclasses.replace(SCHEMA.position, attention_dim=0)
    assert dataclasses.replace(SCHEMA, position=position).digest == SCHEMA.digest


def _item(**change):
    return {"features": (dataclasses.replace(SCHEMA.item, **change), SCHEMA.features[1])}


@pytest.mark.parametrize(
    "change",
    [
        _item(name="product"),
        _item(vocabulary_size=1001),
        _item(vocabulary="vocabulary/other.tsv"),
        _item(digest="c" * 64),
        {"features": SCHEMA.features[::-1]},
        {"features": SCHEMA.features[:1]},
        {"window": 201},
        {"max_candidates": 4},
        {"position": Position(exact=255)},
        {"position": Position(per_octave=7)},
        {"split": {"protocol": "last_fraction", "test_fraction": 0.2}},
    ],
    ids=lambda change: ",".join(change),
)
def test_digest_covers_what_the_data_is(change):
    assert dataclasses.replace(SCHEMA, **change).digest != SCHEMA.digest


def test_digest_is_stable():
    # Runs and folders on disk carry it: it must not change with the package.
    schema = Schema((Feature("item", 10),), 5)
    assert schema.digest == "30fe558fefe625f54def1ef6c173fee79ca21f0a6416da9792d47afc727e51e2"


def test_with_dims():
    changed = SCHEMA.with_dims(attention_dim=4)
    assert [f.attention_dim for f in changed.features] == [4, 4]
    assert [f.representation_dim for f in changed.features] == [16, 16]
    assert (changed.position.attention_dim, changed.position.representation_dim) == (4, 16)
    assert SCHEMA.with_dims() == SCHEMA


def test_with_dims_keeps_position_out():
    schema = dataclasses.replace(SCHEMA, position=Position(attention_dim=0, representation_dim=3))
    changed = schema.with_dims(5, 6)
    assert (changed.position.attention_dim, changed.position.representation_dim) == (0, 6)


@pytest.mark.parametrize(
    "make, quoted",
    [
        (lambda: Feature("Item", 5), "'Item'"),
        (lambda: Feature("", 5), "name=''"),
        (lambda: Feature(7, 5), "name=7"),
        (lambda: Feature("length", 5), "'length'"),
        (lambda: Feature("item\n", 5), r"'item\n'"),
        (lambda: Feature("item", 1), "vocabulary_size=1"),
        (lambda: Feature("item", 5.0), "vocabulary_size=5.0"),
        (lambda: Feature("item", True), "vocabulary_size=True"),
        (lambda: Feature("item", "5"), "vocabulary_size='5'"),
        (lambda: Feature("item", 5, attention_dim=0), "attention_dim=0"),
        (lambda: Feature("item", 5, representation_dim=-1), "representation_dim=-1"),
        (lambda: Position(exact=0), "exact=0"),
        (lambda: Position(per_octave=None), "per_octave=None"),
        (lambda: Position(attention_dim=-1), "attention_dim=-1"),
        (lambda: Position(representation_dim=0.5), "representation_dim=0.5"),
        (lambda: Schema((), 5), "features=()"),
        (lambda: Schema(("item",), 5), "'item'"),
        (lambda: Schema((Feature("item", 5), Feature("item", 6)), 5), "['item', 'item']"),
        (lambda: Schema((Feature("item", 5),), 0), "window=0"),
        (lambda: Schema((Feature("item", 5),), 5, max_candidates=0), "max_candidates=0"),
        (lambda: Schema((Feature("item", 5),), 5, split="last"), "split='last'"),
        (lambda: Schema((Feature("item", 5),), 5, encoding="xml"), "'xml'"),
    ],
)
def test_errors_quote_what_was_received(make, quoted):
    with pytest.raises(SchemaError) as error:
        make()
    assert quoted in str(error.value)
    assert "Received:" in str(error.value)


def _changed(**change):
    data = {**SCHEMA.to_dict(), **change}
    return json.dumps({key: value for key, value in data.items() if value is not ...})


@pytest.mark.parametrize(
    "text, quoted",
    [
        ("{nonsense", "{nonsense"),
        ("[1, 2]", "[1, 2]"),
        (_changed(version=2), "version=2"),
        (_changed(version=...), "version=None"),
        (_changed(colour="red"), "colour"),
        (_changed(window=...), "window"),
        (_changed(features=...), "features"),
        (_changed(position=...), "position"),
        (_changed(features=["item"]), "features"),
        (_changed(features=5), "features"),
        (_changed(features=[{"name": "item", "vocabulary_size": 5, "colour": 1}]), "colour"),
        (_changed(features=[{"name": "item"}]), "vocabulary_size"),
        (_changed(position={"colour": 1}), "colour"),
        (_changed(position=[]), "position"),
        (_changed(split="ab"), "split='ab'"),
        (_changed(window="200"), "window='200'"),
    ],
)
def test_files_that_are_no_schema(text, quoted):
    with pytest.raises(SchemaError) as error:
        Schema.from_json(text)
    assert quoted in str(error.value)
    assert "Received:" in str(error.value)


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 5000))
def test_position_buckets(exact, per_octave, window):
    position = Position(exact, per_octave)
    rows = position.buckets(window)
    assert rows.dtype == np.int32 and rows.shape == (window + 1,)
    near = min(exact, window) + 1
    assert rows[:near].tolist() == list(range(near))
    steps = np.diff(rows)
    assert (steps >= 0).all() and (steps[: near - 1] == 1).all()
    assert position.size(window) == rows.max() + 1
    # A wider window does not move the rows of a narrower one.
    assert (position.buckets(window + 7)[: window + 1] == rows).all()


def test_every_doubling_beyond_adds_the_same_number_of_rows():
    rows = Position(exact=256, per_octave=8).buckets(20_000)
    assert rows[[256, 512, 1024, 2048, 4096]].tolist() == [256, 264, 272, 280, 288]
    assert rows[257] == 257  # the first position beyond shares no row with the last exact one
    assert Position().size(20_000) == 308
    assert Position(exact=300).size(200) == 201
