"""Embeddings: which rows of which table answer for a behavior, a target, a position, a gap."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    rich_schema,
    rich_shared_schema,
    run_doctests,
    run_layer_test,
    shared_schema,
    tiny_schema,
)
from tfdare.compat import raw
from tfdare.layers import (
    DecoupledEmbedding,
    PerRoleEmbedding,
    ProjectedEmbedding,
    SharedEmbedding,
)
from tfdare.layers.embedding import HISTORY, TARGET, mean_of_values
from tfdare.schema import Feature, Position, Schema, SchemaError, TimeGap

pytestmark = pytest.mark.keras

IDS = {
    "item": np.array([[2, 3, 29], [0, 1, 5]], np.int32),
    "category": np.array([[2, 6, 1], [0, 1, 5]], np.int32),
}
POSITION = np.array([[3, 2, 1], [0, 12, 11]], np.int32)
RICH = {
    **IDS,
    "tag": np.array([[[2, 0, 0], [3, 4, 8], [0, 0, 0]], [[1, 5, 0]] * 3], np.int32),
    "time_gap": np.array([[0, 1, 2**31 - 1], [3, 7, 8]], np.int32),
}


def embed(layer, inputs):
    inputs = dict(inputs)
    position = inputs.pop("position")
    return layer(inputs, position)


LIVES = {
    "DecoupledEmbedding": (DecoupledEmbedding, tiny_schema(), IDS),
    "SharedEmbedding": (SharedEmbedding, rich_shared_schema(), RICH),
    "PerRoleEmbedding": (PerRoleEmbedding, rich_schema(), RICH),
    "ProjectedEmbedding": (ProjectedEmbedding, shared_schema(), IDS),
}


@pytest.mark.parametrize("name", LIVES)
def test_embedding_lives_through_config_trace_fit_and_files(name, tmp_path):
    layer_class, schema, ids = LIVES[name]
    config = {"schema": schema, "initializer_stddev": 0.2}
    run_layer_test(layer_class, config, {**ids, "position": POSITION}, tmp_path, embed)


def test_docstring_examples():
    assert run_doctests("tfdare.layers.decoupled") > 0
    assert run_doctests("tfdare.layers.embedding") > 0


def constants(ids):
    return {name: tf.constant(values) for name, values in ids.items()}


def built(layer_class, schema):
    layer = layer_class(schema, initializer_stddev=0.5)
    layer.build()
    return layer


def sizes(layer):
    return {raw(w).name.split(":")[0].split("/")[-1]: tuple(w.shape) for w in layer.weights}


def test_tables_have_the_sizes_of_the_schema(schema):
    embedding = DecoupledEmbedding(schema)
    embedding.build()
    # window 12, exact 4, two rows an octave: positions 5..12 fold into 4 rows.
    assert sizes(embedding) == {
        "attention_item": (30, 3),
        "attention_category": (7, 2),
        "representation_item": (30, 4),
        "representation_category": (7, 3),
        "attention_position": (9, 5),
        "representation_position": (9, 2),
    }
    assert embedding.attention_dim == 5
    assert embedding.representation_dim == 9
    embedding.build()
    assert len(embedding.weights) == 6


def test_positions_fold_and_beyond_the_window_share_the_last_row():
    position = Position(exact=4, per_octave=2)
    assert position.buckets(12).tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 7, 8]
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    assert embedding.bucket(tf.constant([0, 1, 12, 13, 10**6, -1])).numpy().tolist() == [
        0,
        1,
        8,
        8,
        8,
        0,
    ]


def test_position_score_by_hand():
    schema = Schema(
        (Feature("item", 5),), window=2, position=Position(attention_dim=4, representation_dim=0)
    )
    embedding = DecoupledEmbedding(schema)
    embedding.build()
    table = np.array([[1, 2, 0, 0], [3, 1, 9, 9], [0, -1, 9, 9]], np.float32)
    raw(embedding.attention_position_table).assign(table)
    # <p_1, p_0> / sqrt(4) = (3 + 2) / 2, <p_2, p_0> / sqrt(4) = -2 / 2
    scores = embedding.position_score(tf.constant([[2, 1]]))
    assert scores.numpy().tolist() == [[-1.0, 2.5]]


def test_position_left_out_of_either_side():
    schema = Schema(
        (Feature("item", 5, 2, 3),), 4, position=Position(attention_dim=0, representation_dim=0)
    )
    embedding = DecoupledEmbedding(schema)
    embedding.build()
    assert embedding.position_score(tf.constant([[1]])) is None
    assert embedding.representation_dim == 3
    representation = embedding.representation({"item": tf.constant([[2]])}, tf.constant([[1]]))
    table = raw(embedding.representation_tables["item"])
    assert representation.numpy().tolist() == [[table.numpy()[2].tolist()]]


def test_embedding_side_by_side_in_the_order_of_the_schema():
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    # A mapping in another order than the schema's.
    ids = {"category": tf.constant([[6]]), "item": tf.constant([[29]])}
    attention, representation = embedding(ids, tf.constant([[7]]))
    np.testing.assert_array_equal(
        attention[0, 0],
        np.concatenate(
            [
                raw(embedding.attention_tables["item"])[29],
                raw(embedding.attention_tables["category"])[6],
            ]
        ),
    )
    np.testing.assert_array_equal(
        representation[0, 0],
        np.concatenate(
            [
                raw(embedding.representation_tables["item"])[29],
                raw(embedding.representation_tables["category"])[6],
                raw(embedding.representation_position_table)[6],
            ]
        ),
    )


def test_tables_start_small():
    embedding = DecoupledEmbedding(Schema((Feature("item", 4000),), 10), initializer_stddev=0.02)
    embedding.build()
    assert np.std(raw(embedding.attention_tables["item"])) == pytest.approx(0.02, rel=0.05)
    assert np.std(raw(embedding.representation_tables["item"])) == pytest.approx(0.02, rel=0.05)


def test_gradients_of_tables_are_sparse():
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    ids = constants(IDS)
    with tf.GradientTape() as tape:
        attention, representation = embedding(ids, tf.constant(POSITION))
        total = tf.reduce_sum(attention) + tf.reduce_sum(representation)
    tables = [*embedding.attention_tables.values(), *embedding.representation_tables.values()]
    for gradient in tape.gradient(total, [raw(table) for table in tables]):
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.values.shape[0] == 6


def looked_up(embedding, behaviors, targets):
    """Looks up all embeddings of a step."""
    position = tf.range(1, 4)
    return [
        *embedding.attention_parts(behaviors),
        *embedding.attention_parts(targets, TARGET),
        *embedding.representation_parts(behaviors, position),
        *embedding.representation_parts(targets, tf.zeros([2, 2], tf.int32), TARGET),
    ]


@pytest.mark.parametrize(
    "kind, tables, apart",
    [
        (SharedEmbedding, 3, 12),
        (DecoupledEmbedding, 6, 12),
        (PerRoleEmbedding, 12, 12),
    ],
)
def test_a_table_is_read_once_for_a_whole_step(kind, tables, apart):
    embedding = kind(rich_shared_schema())
    embedding.build()
    behaviors = {name: tf.constant(ids) for name, ids in RICH.items()}
    targets = {name: tf.constant(ids[:, :2], tf.int64) for name, ids in RICH.items()}
    of_features = {
        id(raw(embedding.table_of(side, name, role))): raw(embedding.table_of(side, name, role))
        for side in ("attention", "representation")
        for role in (HISTORY, TARGET)
        for name in embedding.schema.names
    }

    def traced(context):
        def step():
            with tf.GradientTape() as tape, context():
                parts = looked_up(embedding, behaviors, targets)
                total = sum(tf.reduce_sum(tf.square(p + i)) for i, p in enumerate(parts))
            gradients = tape.gradient(total, list(of_features.values()))
            return parts, [tf.convert_to_tensor(gradient) for gradient in gradients]

        graph = tf.function(step, autograph=False).get_concrete_function()
        handles = {id(graph.graph.capture(table.handle)) for table in of_features.values()}
        reads = [
            op
            for op in graph.graph.get_operations()
            if op.type == "ResourceGather" and id(op.inputs[0]) in handles
        ]
        return len(reads), graph()

    reads, (parts, gradients) = traced(lambda: embedding.looked_up_once(behaviors, targets))
    reads_apart, (wanted, wanted_gradients) = traced(contextlib.nullcontext)
    assert (reads, reads_apart) == (tables, apart) and len(of_features) == tables
    for actual, expected in zip(parts, wanted):
        np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(gradients, wanted_gradients):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_shared_embedding_is_one_variable():
    embedding = SharedEmbedding(shared_schema())
    embedding.build()
    assert len(embedding.weights) == 3
    for name in ("item", "category"):
        assert embedding.attention_tables[name] is embedding.representation_tables[name]
    assert embedding.attention_position_table is embedding.representation_position_table


@pytest.mark.parametrize(
    "schema",
    [
        Schema((Feature("item", 9, attention_dim=2, representation_dim=4),), 5),
        Schema((Feature("item", 9),), 5, position=Position(attention_dim=0)),
    ],
)
def test_shared_embedding_refuses_two_dimensions(schema):
    with pytest.raises(SchemaError, match=r"Received: .*attention_dim=[02].*representation_dim"):
        SharedEmbedding(schema)


def test_missing_feature_is_named():
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    with pytest.raises(ValueError, match=r"\['category'\]. Received: \['item'\]"):
        embedding.attention({"item": tf.constant([[1]])})


# Several values


def test_mean_of_values_by_hand():
    rows = tf.constant([[[9.0, 9], [1, 2], [3, 6]], [[9, 9], [9, 9], [9, 9]]])
    ids = tf.constant([[0, 5, 7], [0, 0, 0]])
    assert mean_of_values(rows, ids).numpy().tolist() == [[2, 4], [0, 0]]


def test_values_of_a_feature_are_averaged_and_padding_is_not():
    embedding = built(DecoupledEmbedding, rich_schema())
    ids = constants({**RICH, "tag": RICH["tag"] * 0})
    tables = raw(embedding.attention_tables["tag"]), raw(embedding.representation_tables["tag"])
    for values in ([], [4], [4, 6], [6, 4, 2]):
        tags = np.zeros((2, 3, 3), np.int32)
        tags[0, 1, : len(values)] = values
        attention, representation = embedding(
            {**ids, "tag": tf.constant(tags)}, tf.constant(POSITION)
        )
        for table, vectors, start in zip(tables, (attention, representation), (5, 7)):
            width = table.shape[1]
            mean = table.numpy()[values].mean(0) if values else np.zeros(width)
            np.testing.assert_allclose(vectors[0, 1, start : start + width], mean, rtol=1e-6)
            np.testing.assert_array_equal(vectors[1, 2, start : start + width], np.zeros(width))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(embedding.attention({**ids, "tag": tf.constant(RICH["tag"])}))
    gradient = tf.convert_to_tensor(tape.gradient(total, tables[0])).numpy()
    assert set(np.flatnonzero(np.abs(gradient).sum(1))) == {1, 2, 3, 4, 5, 8}  # not row 0


# Time gap


def test_gaps_fold_by_doubling_and_far_ones_share_the_last_row():
    embedding = built(DecoupledEmbedding, rich_schema())
    assert embedding.schema.time_gap.boundaries().tolist() == [1, 2, 4, 8, 16, 32]
    gaps = [[0, 1, 2, 3, 4], [31, 32, 33, 2**31 - 1, -5]]
    rows = embedding.gap_bucket(tf.constant(gaps))
    assert rows.numpy().tolist() == [[1, 2, 3, 3, 4], [6, 7, 7, 7, 1]]
    assert embedding.gap_bucket(tf.zeros([2, 0], tf.int32)).shape == (2, 0)


def test_gap_score_by_hand():
    schema = Schema(
        (Feature("item", 5),),
        4,
        time_gap=TimeGap(octaves=1, per_octave=1, attention_dim=4, representation_dim=0),
    )
    embedding = built(DecoupledEmbedding, schema)
    table = np.array([[1, 2, 0, 0], [3, 1, 9, 9], [0, -1, 9, 9]], np.float32)
    raw(embedding.attention_time_gap_table).assign(table)
    assert embedding.representation_time_gap_table is None
    # <g_1, g_0> / sqrt(4), a gap below the unit; <g_2, g_0> / sqrt(4), one from it on.
    assert embedding.time_gap_score(tf.constant([[0, 1, 99]])).numpy().tolist() == [[2.5, -1, -1]]
    without = built(DecoupledEmbedding, tiny_schema())
    assert without.time_gap_score(tf.constant([[1]])) is None


def test_a_target_has_the_first_row_of_the_gap():
    embedding = built(DecoupledEmbedding, rich_schema())
    ids = constants({name: RICH[name] for name in embedding.schema.names})
    table = raw(embedding.representation_time_gap_table).numpy()
    target = embedding.representation(ids, tf.zeros_like(ids["item"]), TARGET)
    np.testing.assert_array_equal(target[..., -2:], np.broadcast_to(table[0], (2, 3, 2)))
    behavior = embedding.representation(constants(RICH), tf.constant(POSITION))
    np.testing.assert_array_equal(behavior[0, :, -2:], table[[1, 2, 7]])


# The other tables


def test_four_tables_a_feature_answer_by_side_and_role():
    embedding = built(PerRoleEmbedding, tiny_schema())
    assert sizes(embedding) == {
        "attention_history_item": (30, 3),
        "attention_history_category": (7, 2),
        "attention_target_item": (30, 3),
        "attention_target_category": (7, 2),
        "representation_history_item": (30, 4),
        "representation_history_category": (7, 3),
        "representation_target_item": (30, 4),
        "representation_target_category": (7, 3),
        "attention_position": (9, 5),
        "representation_position": (9, 2),
    }
    ids = {"item": tf.constant([[29]]), "category": tf.constant([[6]])}
    position = tf.constant([[0]])
    vectors = {
        ("attention", role): embedding.attention(ids, role) for role in ("history", "target")
    } | {
        ("representation", role): embedding.representation(ids, position, role)
        for role in ("history", "target")
    }
    for (side, role), values in vectors.items():
        tables = embedding.tables[side][role]
        wanted = np.concatenate([raw(tables["item"])[29], raw(tables["category"])[6]])
        np.testing.assert_array_equal(values[0, 0, : len(wanted)], wanted)


def test_projections_are_query_key_and_value():
    embedding = built(ProjectedEmbedding, shared_schema())
    ids, position = constants(IDS), tf.constant(POSITION)
    plain = np.concatenate(
        [raw(embedding.attention_tables[name]).numpy()[IDS[name]] for name in IDS], -1
    )
    places = raw(embedding.attention_position_table).numpy()[embedding.bucket(position)]
    maps = {name: raw(weight).numpy() for name, weight in embedding.projections.items()}
    assert {name: kernel.shape for name, kernel in maps.items()} == {
        "query": (8, 8),
        "key": (8, 8),
        "value": (12, 12),
    }
    np.testing.assert_allclose(
        embedding.attention(ids, TARGET), plain @ maps["query"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(embedding.attention(ids), plain @ maps["key"], rtol=1e-5, atol=1e-6)
    for role in ("history", TARGET):
        np.testing.assert_allclose(
            embedding.representation(ids, position, role),
            np.concatenate([plain, places], -1) @ maps["value"],
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_position_of_fewer_axes_means_the_same_for_every_history():
    for layer_class in (DecoupledEmbedding, ProjectedEmbedding):
        embedding = built(layer_class, shared_schema())
        shared = embedding.representation(constants(IDS), tf.constant([3, 2, 1]))
        each = embedding.representation(constants(IDS), tf.constant([[3, 2, 1]] * 2))
        np.testing.assert_allclose(shared, each, rtol=1e-6, atol=1e-7)
