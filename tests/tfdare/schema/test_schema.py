"""The schema: JSON, digest, dimensions, buckets of positions and time gaps."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdare.schema import (
    MAX_GAP,
    CategoricalContext,
    Feature,
    NumericContext,
    Position,
    Schema,
    SchemaError,
    TimeGap,
)

SCHEMA = Schema(
    features=(
        Feature("item", 1000, vocabulary="vocabulary/item.tsv", digest="a" * 64),
        Feature("category", 50, vocabulary="vocabulary/category.tsv", digest="b" * 64),
    ),
    window=200,
    split={"protocol": "last_fraction", "test_fraction": 0.1},
)
FULL = dataclasses.replace(
    SCHEMA,
    features=(*SCHEMA.features, Feature("tags", 30, max_values=5)),
    time_gap=TimeGap(unit=60),
    context=(
        CategoricalContext("hour", 26, vocabulary="vocabulary/hour.tsv", digest="d" * 64),
        CategoricalContext("interests", 12, dim=4, max_values=3),
        NumericContext("price", 12.5, 3.25),
    ),
)


@st.composite
def schemas(draw):
    sizes = st.integers(1, 10**9)
    names = draw(
        st.lists(
            st.sampled_from(["item", "category", "shop", "brand_2", "x"]),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    maybe_text = st.none() | st.text(max_size=10)
    features = [
        Feature(
            name,
            draw(st.integers(2, 10**9)),
            draw(sizes),
            draw(sizes),
            draw(maybe_text),
            draw(maybe_text),
            draw(sizes) if index else 1,
        )
        for index, name in enumerate(names)
    ]
    dims = st.integers(0, 64)
    position = Position(draw(sizes), draw(sizes), draw(dims), draw(dims))
    values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    split = draw(st.dictionaries(st.text(), values | st.lists(values, max_size=3), max_size=4))
    time_gap = draw(st.none() | st.builds(TimeGap, sizes, sizes, sizes, dims, dims))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    categorical = st.builds(
        CategoricalContext,
        st.just("hour"),
        st.integers(2, 99),
        sizes,
        maybe_text,
        maybe_text,
        sizes,
    )
    numeric = st.builds(NumericContext, st.just("age"), numbers, numbers.filter(lambda x: x > 0))
    context = draw(
        st.permutations(
            draw(categorical.map(lambda part: [part]) | st.just([]))
            + draw(numeric.map(lambda part: [part]) | st.just([]))
        )
    )
    return Schema(
        tuple(features),
        draw(sizes),
        draw(sizes),
        position,
        split,
        "packed",
        time_gap,
        tuple(context),
        draw(st.booleans()),
    )


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
    schema = Schema(
        (Feature("item", np.int64(9)),),
        np.int32(5),
        time_gap=TimeGap(np.int64(3)),
        context=[NumericContext("age", np.float32(0.5), np.int64(2))],
    )
    assert Schema.from_json(schema.to_json()) == schema
    assert isinstance(schema.context, tuple)


def test_json_tells_the_kinds_of_context():
    data = json.loads(FULL.to_json())
    assert data["version"] == 2
    assert [part["kind"] for part in data["context"]] == ["categorical", "categorical", "numeric"]
    assert data["context"][2] == {
        "kind": "numeric",
        "name": "price",
        "mean": 12.5,
        "deviation": 3.25,
    }
    assert data["time_gap"]["unit"] == 60 and data["features"][2]["max_values"] == 5
    assert json.loads(SCHEMA.to_json())["time_gap"] is None
    assert Schema.from_json(FULL.to_json()) == FULL


def test_sample_weights_are_written_only_where_there_are_some():
    assert "sample_weights" not in json.loads(SCHEMA.to_json())  # digests stay
    weighted = dataclasses.replace(SCHEMA, sample_weights=True)
    assert json.loads(weighted.to_json())["sample_weights"] is True


def test_digest_ignores_dimensions():
    assert SCHEMA.with_dims(4, 8).digest == SCHEMA.digest
    position = dataclasses.replace(SCHEMA.position, attention_dim=0)
    assert dataclasses.replace(SCHEMA, position=position).digest == SCHEMA.digest
    assert FULL.with_dims(4, 8).digest == FULL.digest
    context = (dataclasses.replace(FULL.context[0], dim=3), *FULL.context[1:])
    assert dataclasses.replace(FULL, context=context).digest == FULL.digest


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
        {"sample_weights": True},
    ],
    ids=lambda change: ",".join(change),
)
def test_digest_covers_what_the_data_is(change):
    assert dataclasses.replace(SCHEMA, **change).digest != SCHEMA.digest


@pytest.mark.parametrize(
    "change",
    [
        {"time_gap": None},
        {"time_gap": TimeGap(unit=61)},
        {"time_gap": TimeGap(unit=60, per_octave=3)},
        {"time_gap": TimeGap(unit=60, octaves=23)},
        {"context": FULL.context[:2]},
        {"context": FULL.context[::-1]},
        {"context": (dataclasses.replace(FULL.context[0], digest="e" * 64), *FULL.context[1:])},
        {
            "context": (
                FULL.context[0],
                dataclasses.replace(FULL.context[1], max_values=4),
                FULL.context[2],
            )
        },
        {"context": (*FULL.context[:2], NumericContext("price", 12.5, 3.5))},
        {"features": (*SCHEMA.features, Feature("tags", 30, max_values=4))},
    ],
    ids=lambda change: ",".join(change),
)
def test_digest_covers_context_and_time_gap(change):
    assert dataclasses.replace(FULL, **change).digest != FULL.digest


def test_digest_is_stable():
    # Runs and folders on disk carry it: it must not change with the package.
    schema = Schema((Feature("item", 10),), 5)
    assert schema.digest == "06c3c2767b1e1429255ccffe15993cd3a7175226a98e90dbbebf9bac4cf2737c"


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


def test_with_dims_covers_the_time_gap_but_not_context():
    changed = FULL.with_dims(5, 6)
    assert (changed.time_gap.attention_dim, changed.time_gap.representation_dim) == (5, 6)
    assert [f.attention_dim for f in changed.features] == [5, 5, 5]
    assert changed.context == FULL.context
    without = dataclasses.replace(FULL, time_gap=TimeGap(attention_dim=3, representation_dim=0))
    changed = without.with_dims(5, 6).time_gap
    assert (changed.attention_dim, changed.representation_dim) == (5, 0)
    assert SCHEMA.with_dims(5).time_gap is None


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
        (lambda: Feature("time_gap", 5), "'time_gap'"),
        (lambda: Feature("item", 5, max_values=0), "max_values=0"),
        (lambda: Schema((Feature("item", 5, max_values=2),), 5), "max_values=2"),
        (lambda: TimeGap(unit=0), "unit=0"),
        (lambda: TimeGap(unit=2**31), "unit=2147483648"),
        (lambda: TimeGap(unit=0.5), "unit=0.5"),
        (lambda: TimeGap(per_octave=0), "per_octave=0"),
        (lambda: TimeGap(octaves="24"), "octaves='24'"),
        (lambda: TimeGap(attention_dim=-1), "attention_dim=-1"),
        (lambda: TimeGap(representation_dim=None), "representation_dim=None"),
        (lambda: CategoricalContext("Hour", 26), "'Hour'"),
        (lambda: CategoricalContext("position", 26), "'position'"),
        (lambda: CategoricalContext("hour", 1), "vocabulary_size=1"),
        (lambda: CategoricalContext("hour", 26, dim=0), "dim=0"),
        (lambda: CategoricalContext("hour", 26, max_values=0), "max_values=0"),
        (lambda: NumericContext(""), "name=''"),
        (lambda: NumericContext("age", mean="5"), "mean='5'"),
        (lambda: NumericContext("age", mean=float("nan")), "mean=nan"),
        (lambda: NumericContext("age", deviation=0), "deviation=0.0"),
        (lambda: NumericContext("age", deviation=-2.0), "deviation=-2.0"),
        (lambda: NumericContext("age", deviation=True), "deviation=True"),
        (lambda: Schema((Feature("item", 5),), 5, time_gap=60), "60"),
        (lambda: Schema((Feature("item", 5),), 5, position=None), "None"),
        (lambda: Schema((Feature("item", 5),), 5, context=("hour",)), "'hour'"),
        (lambda: Schema((Feature("item", 5),), 5, context=(Feature("hour", 5),)), "hour"),
        (
            lambda: Schema((Feature("item", 5),), 5, context=(NumericContext("item"),)),
            "['item', 'item']",
        ),
        (
            lambda: Schema(
                (Feature("item", 5),), 5, context=(NumericContext("x"), CategoricalContext("x", 5))
            ),
            "'x', 'x'",
        ),
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
        (_changed(version=1), "version=1"),
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
        (_changed(time_gap={"colour": 1}), "colour"),
        (_changed(time_gap=7), "time_gap"),
        (_changed(context=["hour"]), "'hour'"),
        (_changed(context=[{"name": "hour", "vocabulary_size": 5}]), "kind"),
        (_changed(context=[{"kind": "ordinal", "name": "hour"}]), "ordinal"),
        (_changed(context=[{"kind": "numeric", "name": "age", "colour": 1}]), "colour"),
        (_changed(context=[{"kind": "categorical", "name": "hour"}]), "vocabulary_size"),
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


@given(
    st.integers(1, MAX_GAP),
    st.integers(1, 8),
    st.integers(1, 40),
    st.integers(0, MAX_GAP) | st.integers(0, 200),
)
def test_time_gap_rows(unit, per_octave, octaves, gap):
    time_gap = TimeGap(unit, per_octave, octaves)
    boundaries = time_gap.boundaries()
    assert boundaries.dtype == np.int64 and boundaries[0] == unit
    assert (np.diff(boundaries) > 0).all() and boundaries[-1] <= MAX_GAP
    assert time_gap.size == len(boundaries) + 2
    row = 1 + np.searchsorted(boundaries, gap, side="right")
    assert 1 <= row < time_gap.size
    if gap < unit:
        assert row == 1
    else:  # the row by its definition, where rounding does not decide and no row is left out
        part = np.log2(gap / unit) * per_octave
        if unit > 2 * per_octave and abs(part - round(part)) > 1e-9:
            assert row == 2 + min(int(part), octaves * per_octave - 1)


def test_time_gap_rows_by_hand():
    time_gap = TimeGap(unit=10, per_octave=2, octaves=2)
    assert time_gap.boundaries().tolist() == [10, 15, 20, 29]
    assert time_gap.size == 6
    gaps = [0, 9, 10, 14, 15, 19, 20, 28, 29, 40, 10**9]
    rows = 1 + np.searchsorted(time_gap.boundaries(), gaps, side="right")
    assert rows.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    # Whole numbers: no gap lies between 1 and 2, so 1 and 1.41 are one row.
    assert TimeGap().boundaries()[:7].tolist() == [1, 2, 3, 4, 6, 8, 12]
    assert TimeGap().size == 49
