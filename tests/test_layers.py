import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import run_doctests, run_layer_test, shared_schema, tiny_schema
from tfdare.compat import raw
from tfdare.layers import (
    DecoupledEmbedding,
    Head,
    ScaledDotAttention,
    SharedEmbedding,
    TargetAwarePooling,
    TopKSearch,
    gather_behaviors,
    masked_softmax,
    newest_first,
)
from tfdare.schema import Feature, Position, Schema, SchemaError

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


IDS = {
    "item": np.array([[2, 3, 29], [0, 1, 5]], np.int32),
    "category": np.array([[2, 6, 1], [0, 1, 5]], np.int32),
    "position": np.array([[3, 2, 1], [0, 12, 11]], np.int32),
}


def embed(layer, given):
    given = dict(given)
    position = given.pop("position")
    return layer(given, position)


LAYERS = {
    "DecoupledEmbedding": (DecoupledEmbedding, {"schema": tiny_schema()}, IDS, embed),
    "SharedEmbedding": (
        SharedEmbedding, {"schema": shared_schema(), "initializer_stddev": 0.2}, IDS, embed
    ),
    "ScaledDotAttention": (
        ScaledDotAttention,
        {},
        {"query": floats(2, 3, 4), "key": floats(2, 5, 4), "position_score": floats(2, 1, 5)},
        None,
    ),
    "TopKSearch": (
        TopKSearch,
        {"top_k": 3},
        {"scores": floats(2, 3, 5), "history_length": np.array([5, 2], np.int32)},
        None,
    ),
    "TargetAwarePooling": (
        TargetAwarePooling,
        {},
        {"target": floats(2, 3, 4), "weights": floats(2, 3, 5), "behaviors": floats(2, 3, 5, 4)},
        None,
    ),
    "Head": (
        Head, {"units": (6, 4)},
        {"inputs": floats(2, 3, 5), "real": np.array([[True, True, True], [True, False, False]])},
        None,
    ),
    "Head without batch_norm": (
        Head, {"units": (6,), "batch_norm": False}, {"inputs": floats(2, 3, 5)}, None
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_lives_through_config_trace_fit_and_files(name, tmp_path):
    layer_class, config, inputs, call = LAYERS[name]
    run_layer_test(layer_class, config, inputs, tmp_path, call)


@pytest.mark.parametrize("module", ["attention", "embedding", "head", "pooling", "search"])
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.layers.{module}") > 0


# Embeddings


def test_tables_have_the_sizes_of_the_schema(schema):
    embedding = DecoupledEmbedding(schema)
    embedding.build()
    # window 12, exact 4, two rows an octave: positions 5..12 fold into 4 rows.
    assert {raw(w).name.split(":")[0].split("/")[-1]: tuple(w.shape) for w in embedding.weights} == {
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
        0, 1, 8, 8, 8, 0,
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
    found = embedding.representation({"item": tf.constant([[2]])}, tf.constant([[1]]))
    table = raw(embedding.representation_tables["item"])
    assert found.numpy().tolist() == [[table.numpy()[2].tolist()]]


def test_embedding_side_by_side_in_the_order_of_the_schema():
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    # A mapping in another order than the schema's.
    ids = {"category": tf.constant([[6]]), "item": tf.constant([[29]])}
    attention, representation = embedding(ids, tf.constant([[7]]))
    np.testing.assert_array_equal(attention[0, 0], np.concatenate([
        raw(embedding.attention_tables["item"])[29], raw(embedding.attention_tables["category"])[6],
    ]))
    np.testing.assert_array_equal(representation[0, 0], np.concatenate([
        raw(embedding.representation_tables["item"])[29],
        raw(embedding.representation_tables["category"])[6],
        raw(embedding.representation_position_table)[6],
    ]))


def test_tables_start_small():
    embedding = DecoupledEmbedding(Schema((Feature("item", 4000),), 10), initializer_stddev=0.02)
    embedding.build()
    assert np.std(raw(embedding.attention_tables["item"])) == pytest.approx(0.02, rel=0.05)
    assert np.std(raw(embedding.representation_tables["item"])) == pytest.approx(0.02, rel=0.05)


def test_gradients_of_tables_are_sparse():
    embedding = DecoupledEmbedding(tiny_schema())
    embedding.build()
    ids = {name: tf.constant(IDS[name]) for name in ("item", "category")}
    with tf.GradientTape() as tape:
        attention, representation = embedding(ids, tf.constant(IDS["position"]))
        total = tf.reduce_sum(attention) + tf.reduce_sum(representation)
    tables = [*embedding.attention_tables.values(), *embedding.representation_tables.values()]
    for gradient in tape.gradient(total, [raw(table) for table in tables]):
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.values.shape[0] == 6


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


# Attention


def test_attention_by_hand():
    query = tf.constant([[[1.0, 2, 3, 4], [0, 0, 0, 2]]])
    key = tf.constant([[[1.0, 1, 1, 1], [0, 1, 0, -1], [2, 0, 0, 0]]])
    # Inner products over sqrt(4).
    assert ScaledDotAttention()(query, key).numpy().tolist() == [[[5, -1, 1], [1, -1, 0]]]
    position = tf.constant([[10.0, 20.0, 30.0]])
    assert ScaledDotAttention()(query, key, position).numpy().tolist() == [
        [[15, 19, 31], [11, 19, 30]]
    ]


def test_masked_softmax_by_hand():
    scores = tf.math.log(tf.constant([[1.0, 3.0, 100.0], [2.0, 2.0, 4.0]]))
    mask = tf.constant([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(
        masked_softmax(scores, mask), [[0.25, 0.75, 0], [0.25, 0.25, 0.5]], rtol=1e-6
    )


def test_masked_softmax_of_nothing_is_zero():
    weights = masked_softmax(tf.constant([[1.0, 2.0]]), tf.constant([[False, False]]))
    assert weights.numpy().tolist() == [[0.0, 0.0]]
    assert masked_softmax(tf.zeros([2, 0]), tf.zeros([2, 0], tf.bool)).shape.as_list() == [2, 0]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("kept", [[True, True, False], [True, False, False], [False] * 3])
def test_masked_softmax_is_finite_at_the_ends_of_every_dtype(dtype, kept):
    largest = float(dtype.max)
    scores = tf.constant([[largest, -largest, largest]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        weights = masked_softmax(scores, tf.constant([kept]))
        first = weights[0, 0]
    assert np.isfinite(tf.cast(weights, tf.float64)).all()
    assert np.isfinite(tf.cast(tape.gradient(first, scores), tf.float64)).all()
    assert float(tf.reduce_sum(tf.cast(weights, tf.float32))) == float(any(kept))


def test_masked_softmax_ignores_what_lies_under_the_mask():
    mask = tf.constant([[True, False, True, False]])
    clean = masked_softmax(tf.constant([[0.5, 0.0, 1.5, 0.0]]), mask)
    dirty = masked_softmax(tf.constant([[0.5, np.inf, 1.5, np.nan]]), mask)
    np.testing.assert_array_equal(clean, dirty)


# Search


def test_search_by_hand():
    scores = tf.constant([
        [[5.0, 1, 4, 2, 9], [1, 1, 1, 1, 9]],
        [[-3.0, -1, 9, 9, 9], [-1, -3, 9, 9, 9]],
        [[9.0, 9, 9, 9, 9], [9, 9, 9, 9, 9]],
    ])
    place, score = TopKSearch(3)(scores, tf.constant([4, 2, 0]))
    assert place.dtype == tf.int32 and score.dtype == tf.float32
    assert place.numpy().tolist() == [
        [[0, 2, 3], [0, 1, 2]],
        [[1, 0, -1], [0, 1, -1]],
        [[-1, -1, -1], [-1, -1, -1]],
    ]
    assert score.numpy().tolist() == [
        [[5, 4, 2], [1, 1, 1]],
        [[-1, -3, 0], [-1, -3, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@pytest.mark.parametrize("behaviors", [0, 1, 2])
def test_search_is_as_wide_as_k_over_short_histories(behaviors):
    place, score = TopKSearch(4)(tf.ones([2, 3, behaviors]), tf.constant([behaviors, 0]))
    assert place.shape == score.shape == (2, 3, 4)
    assert place[0, 0].numpy().tolist() == list(range(behaviors)) + [-1] * (4 - behaviors)
    assert place[1, 2].numpy().tolist() == [-1] * 4
    assert score[0, 0].numpy().tolist() == [1.0] * behaviors + [0.0] * (4 - behaviors)


def test_search_ends_with_no_behavior_where_scores_are_the_lowest_number():
    scores = tf.fill([1, 1, 3], tf.float32.min)
    place, _ = TopKSearch(3)(scores, tf.constant([2]))
    assert place.numpy().tolist() == [[[0, 1, -1]]]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    top_k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_search_equals_sorting(lengths, top_k, seed):
    # Few distinct scores, so that ties are common.
    scores = np.random.default_rng(seed).integers(-2, 3, (len(lengths), 2, 9)).astype(np.float32)
    place, score = TopKSearch(top_k)(tf.constant(scores), tf.constant(lengths, tf.int64))
    for u, length in enumerate(lengths):
        for c in range(2):
            row = scores[u, c]
            wanted = sorted(range(length), key=lambda i: (-row[i], i))[:top_k]
            missing = top_k - len(wanted)
            assert place[u, c].numpy().tolist() == wanted + [-1] * missing
            assert score[u, c].numpy().tolist() == [row[i] for i in wanted] + [0.0] * missing


@pytest.mark.parametrize("top_k", [0, -1])
def test_search_refuses_top_k(top_k):
    with pytest.raises(ValueError, match=rf"`top_k` must be positive. Received: top_k={top_k}"):
        TopKSearch(top_k)


def test_newest_first_by_hand():
    history = tf.constant([[11, 12, 13, 99], [21, 99, 98, 97], [96, 95, 94, 93]])
    turned = newest_first(history, tf.constant([3, 1, 0]))
    assert turned.numpy().tolist() == [[13, 12, 11, 99], [21, 99, 98, 97], [96, 95, 94, 93]]
    assert newest_first(history, tf.constant([9, -1, 4])).numpy()[0].tolist() == [99, 13, 12, 11]
    assert newest_first(tf.zeros([2, 0], tf.int32), tf.constant([0, 0])).shape == (2, 0)


def test_gather_behaviors_by_hand():
    history = {"item": tf.constant([[13, 12, 11, 99], [21, 99, 99, 99]])}
    found = gather_behaviors(history, tf.constant([[[0, 2]], [[0, -1]]]))
    assert found["behavior_item"].numpy().tolist() == [[[13, 11]], [[21, 0]]]
    assert found["behavior_position"].numpy().tolist() == [[[1, 3]], [[1, 0]]]


# Pooling


def test_pooling_by_hand():
    target = tf.constant([[[1.0, 2.0], [-1.0, 0.0]]])
    weights = tf.constant([[[0.25, 0.75], [1.0, 0.0]]])
    behaviors = tf.constant([[[4.0, 8.0], [0.0, 4.0]]])
    wanted = [[[1, 2, 1, 5, 1, 10], [-1, 0, 4, 8, -4, 0]]]
    assert TargetAwarePooling()(target, weights, behaviors).numpy().tolist() == wanted
    each = tf.repeat(behaviors[:, tf.newaxis], 2, axis=1)
    assert TargetAwarePooling()(target, weights, each).numpy().tolist() == wanted


# Head


def test_head_by_hand():
    head = Head(units=(2,), batch_norm=False)
    head.build((None, None, 2))
    head.set_weights([
        np.array([[1.0, 0.0], [0.0, -1.0]]),  # kernel
        np.array([0.5, 0.0]),  # bias
        np.array([[0.1, 0.25]]),  # slopes of PReLU
        np.array([[2.0], [4.0]]),
        np.array([1.0]),
    ])
    # [3, 2] -> [3.5, -2] -> [3.5, -0.5] -> 7 - 2 + 1
    assert head(tf.constant([[[3.0, 2.0]]])).numpy().tolist() == [[6.0]]


def test_head_normalizes_over_real_candidates_only():
    inputs = floats(3, 4, 5)
    lengths = np.array([4, 2, 3])
    real = np.arange(4) < lengths[:, None]
    heads = [Head(units=(6,)) for _ in range(2)]
    for head in heads:
        head.build((None, None, 5))
    heads[1].set_weights(heads[0].get_weights())
    garbage = np.where(real[:, :, None], inputs, 1e6).astype(np.float32)
    logits = heads[0](tf.constant(garbage), real=tf.constant(real), training=True)
    kept = heads[1](tf.constant(inputs[real][:, None, :]), training=True)
    np.testing.assert_allclose(logits.numpy()[real], kept[:, 0], rtol=1e-4, atol=1e-5)
    moving = [head.norm.moving_mean for head in heads]
    np.testing.assert_allclose(moving[0], moving[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moving[0], 0.1 * inputs[real].mean(0), rtol=1e-4, atol=1e-6)
    moving = [head.norm.moving_variance for head in heads]
    np.testing.assert_allclose(moving[0], 0.9 + 0.1 * inputs[real].var(0), rtol=1e-4)


def test_head_refuses_units():
    with pytest.raises(ValueError, match=r"Received: units=\(8, 0\)"):
        Head(units=(8, 0))
