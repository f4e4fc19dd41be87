"""Steps of the row-sparse optimizers on variables; for models see test_in_training.py."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import run_doctests
from tests.optimizer_steps import (
    BATCHES,
    CLIPS,
    COLUMNS,
    OPTIMIZERS,
    REFERENCES,
    ROWS,
    built,
    decay_rate,
    random_slices,
    slices,
    slots,
    start,
)
from tfdare.compat import deserialize, raw, serialize
from tfdare.optimizers import RowwiseAdagrad, SparseAdagrad, SparseAdam, rowwise_adagrad

pytestmark = pytest.mark.keras

each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
KERAS = {SparseAdam: tf.keras.optimizers.Adam, SparseAdagrad: tf.keras.optimizers.Adagrad}


def schedule_case(name):
    schedule, reference = decay_rate()
    return {name: schedule}, {"rate": reference}


@each_optimizer
@pytest.mark.parametrize(
    "case",
    [
        lambda: ({"learning_rate": 0.1}, {"rate": 0.1}),
        lambda: ({}, {}),
        lambda: ({"learning_rate": 0.1, "weight_decay": 0.3}, {"rate": 0.1, "decay": 0.3}),
        lambda: ({"learning_rate": 0.1, "epsilon": 1e-2}, {"rate": 0.1, "epsilon": 1e-2}),
        lambda: schedule_case("learning_rate"),
        lambda: schedule_case("table_learning_rate"),
        lambda: (
            {"learning_rate": 9.0, "table_learning_rate": 0.1, "weight_decay": 0.3},
            {"rate": 0.1, "decay": 0.3},
        ),
    ],
    ids=["rate", "defaults", "decay", "epsilon", "schedule", "table schedule", "table rate"],
)
def test_steps_equal_plain_numpy(kind, case):
    options, reference = case()
    _check_steps(kind, options, reference)


@pytest.mark.parametrize(
    "kind,options",
    [
        (SparseAdam, {"beta_1": 0.5, "beta_2": 0.8}),
        (SparseAdagrad, {"initial_accumulator_value": 0.0}),
        (RowwiseAdagrad, {"initial_accumulator_value": 2.0}),
    ],
)
def test_arguments_of_one_optimizer_equal_plain_numpy(kind, options):
    _check_steps(kind, {"learning_rate": 0.05, **options}, {"rate": 0.05, **options})


def _check_steps(kind, options, reference):
    rng = np.random.default_rng(1)
    table = tf.Variable(start(rng))
    optimizer = built(kind(**options), table)
    wanted = REFERENCES[kind](table.numpy(), **reference)
    for rows in BATCHES:
        gradient = random_slices(rng, rows)
        optimizer.apply_gradients([(gradient, table)])
        wanted.apply(rows, gradient.values.numpy())
    np.testing.assert_allclose(table.numpy(), wanted.table, rtol=1e-5, atol=1e-6)
    for got, slot in zip(slots(optimizer), wanted.slots, strict=True):
        assert got.shape == slot.shape
        np.testing.assert_allclose(got, slot, rtol=1e-4, atol=1e-8)
    assert int(raw(optimizer.iterations)) == len(BATCHES)


@each_optimizer
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"table_learning_rate": 0.2, "weight_decay": 0.1},
        *CLIPS,
    ],
)
def test_untouched_rows_and_their_slots_keep_every_bit(kind, options):
    rng = np.random.default_rng(2)
    table = tf.Variable(start(rng))
    optimizer = built(kind(0.1, **options), table)
    optimizer.apply_gradients([(random_slices(rng, list(range(ROWS))), table)])
    before = [table.numpy(), *slots(optimizer)]
    optimizer.apply_gradients([(random_slices(rng, [1, 4, 1]), table)])
    untouched = [0, 2, 3, 5, 6]
    for old, new in zip(before, [table.numpy(), *slots(optimizer)], strict=True):
        assert old[untouched].tobytes() == new[untouched].tobytes()
        assert (old[[1, 4]] != new[[1, 4]]).all()


@each_optimizer
def test_duplicates_count_once_with_their_sum(kind):
    tables = [tf.Variable(start()) for _ in range(2)]
    for table, gradient in zip(
        tables,
        [
            slices([1, 1, 3], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
            slices([1, 3], [[5, 7, 9], [7, 8, 9]]),
        ],
    ):
        optimizer = built(kind(0.1), table)
        for _ in range(3):
            optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_array_equal(tables[0], tables[1])


@pytest.mark.parametrize("kind", KERAS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, *CLIPS])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "all rows"])
def test_equals_the_optimizer_of_keras(kind, options, dense):
    rng = np.random.default_rng(3)
    values = start(rng)
    tables = [tf.Variable(values), tf.Variable(values)]
    biases = [tf.Variable([1.0, -1.0]), tf.Variable([1.0, -1.0])]
    optimizers = [kind(0.1, **options), KERAS[kind](0.1, **options)]
    for optimizer, table, bias in zip(optimizers, tables, biases):
        built(optimizer, table, bias)
    for _ in range(5):
        # Every row, some twice.
        gradient = random_slices(rng, [6, 5, 4, 3, 2, 1, 0, 3, 3])
        whole = tf.convert_to_tensor(gradient)
        other = tf.constant(rng.normal(size=2).astype(np.float32))
        for optimizer, table, bias in zip(optimizers, tables, biases):
            sparse = isinstance(optimizer, kind) and not dense
            optimizer.apply_gradients([(gradient if sparse else whole, table), (other, bias)])
    assert not np.allclose(tables[0], values, atol=0.01)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6, atol=1e-6)
    if "global_clipnorm" in options:
        np.testing.assert_allclose(biases[0], biases[1], rtol=1e-6)
    else:
        np.testing.assert_array_equal(biases[0], biases[1])


@each_optimizer
def test_tables_and_dense_weights_have_their_own_rates(kind):
    rng = np.random.default_rng(4)
    table, kernel = tf.Variable(start(rng)), tf.Variable(start(rng))
    first, second = table.numpy(), kernel.numpy()
    optimizer = built(kind(0.01, table_learning_rate=0.3), table, kernel)
    table_optimizer = built(kind(0.3), other_table := tf.Variable(first))
    kernel_optimizer = built(kind(0.01), other_kernel := tf.Variable(second))
    gradient, whole = random_slices(rng, [2, 3, 2]), tf.constant(start(rng))
    for _ in range(2):
        optimizer.apply_gradients([(gradient, table), (whole, kernel)])
        table_optimizer.apply_gradients([(gradient, other_table)])
        kernel_optimizer.apply_gradients([(whole, other_kernel)])
    np.testing.assert_array_equal(table, other_table)
    np.testing.assert_array_equal(kernel, other_kernel)
    optimizer.table_learning_rate = 0.0
    before = table.numpy(), kernel.numpy()
    optimizer.apply_gradients([(gradient, table), (whole, kernel)])
    np.testing.assert_array_equal(table, before[0])
    assert (kernel.numpy() != before[1]).any()


def test_the_rate_of_tables_is_set_only_if_it_is_a_number():
    assert float(raw(SparseAdam(0.25).table_learning_rate)) == 0.25
    assert float(raw(SparseAdam(0.25, table_learning_rate=2).table_learning_rate)) == 2.0
    scheduled = SparseAdam(0.25, table_learning_rate=decay_rate(0.5)[0])
    assert float(scheduled.table_learning_rate) == 0.5
    for optimizer in (SparseAdam(0.25), scheduled):
        with pytest.raises(TypeError, match="Received: table_learning_rate=0.1"):
            optimizer.table_learning_rate = 0.1
    with pytest.raises(ValueError, match="Received: table_learning_rate='fast'"):
        SparseAdam(table_learning_rate="fast")


def test_rowwise_dense_gradients_follow_adagrad_per_element():
    values, gradient = start(), tf.constant(start(np.random.default_rng(5)))
    kernels = [tf.Variable(values), tf.Variable(values)]
    biases = [tf.Variable(values[0]), tf.Variable(values[0])]
    for optimizer, kernel, bias in zip(
        [RowwiseAdagrad(0.1), tf.keras.optimizers.Adagrad(0.1)], kernels, biases
    ):
        built(optimizer, kernel, bias)
        for _ in range(3):
            optimizer.apply_gradients([(gradient, kernel), (gradient[0], bias)])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    np.testing.assert_array_equal(biases[0], biases[1])


def test_rowwise_large_tables_keep_one_number_per_row(monkeypatch):
    monkeypatch.setattr(rowwise_adagrad, "MAX_KERNEL_ROWS", ROWS - 1)
    table, vector = tf.Variable(start()), tf.Variable(np.zeros(ROWS, np.float32))
    optimizer = built(RowwiseAdagrad(0.1), table, vector)
    shapes = [tuple(v.shape) for v in optimizer.variables]
    assert (ROWS, COLUMNS) not in shapes and shapes.count((ROWS,)) == 2
    whole = start(np.random.default_rng(6))
    wanted = REFERENCES[RowwiseAdagrad](table.numpy(), rate=0.1)
    for _ in range(2):  # dense, it is updated by rows all the same
        optimizer.apply_gradients([(tf.constant(whole), table)])
        wanted.apply(range(ROWS), whole)
    np.testing.assert_allclose(table.numpy(), wanted.table, rtol=1e-5)
    optimizer.apply_gradients([(slices([1, 1], [3.0, 1.0]), vector)])
    np.testing.assert_allclose(vector.numpy()[:3], [0, -0.4 / np.sqrt(16.1), 0], rtol=1e-6)


@each_optimizer
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_norms_are_of_summed_rows(kind, clip):
    # In pieces the norm would be 5; summed it is sqrt((3 + 4)^2) = 7.
    table = tf.Variable(np.zeros((ROWS, COLUMNS), np.float32))
    optimizer = built(kind(0.1, **{clip: 1.0}), table)
    optimizer.apply_gradients([(slices([2, 2], [[3, 0, 0], [4, 0, 0]]), table)])
    wanted = {
        SparseAdam: [[0.1, 0, 0], [0.001, 0, 0]],
        SparseAdagrad: [[1.1, 0.1, 0.1]],
        RowwiseAdagrad: [0.1 + 1 / 3],
    }[kind]
    for slot, value in zip(slots(optimizer), wanted, strict=True):
        np.testing.assert_allclose(slot[2], value, rtol=1e-4)


@each_optimizer
def test_weight_decay_leaves_out_excluded_tables(kind):
    tables = [tf.Variable(start(), name="kept"), tf.Variable(start(), name="decayed")]
    optimizer = kind(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[tables[0]])
    built(optimizer, *tables)
    gradient = slices([3], [[0, 0, 0]])
    optimizer.apply_gradients([(gradient, table) for table in tables])
    np.testing.assert_array_equal(tables[0], start())
    wanted = start()
    wanted[3] *= 1 - 0.1 * 0.5
    np.testing.assert_allclose(tables[1], wanted, rtol=1e-6)


@each_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_step_like_float32(kind, dtype):
    changes = []
    for each in (dtype, "float32"):
        table = tf.Variable(tf.ones([ROWS, 2], each))
        gradient = tf.IndexedSlices(tf.cast([[1, 2], [3, 4], [5, 6]], each), [1, 3, 1])
        built(kind(0.1), table).apply_gradients([(gradient, table)])
        changes.append(1 - table.numpy().astype(np.float64))
    np.testing.assert_allclose(changes[0], changes[1], atol=0.004)
    assert (changes[0][[1, 3]] > 0.05).all()


@each_optimizer
def test_tables_of_any_rank_and_gradients_without_rows(kind):
    tables = [tf.Variable(tf.ones([ROWS, *shape])) for shape in ((), (2, 3))]
    optimizer = built(kind(0.1), *tables)
    nothing = [slices([], np.zeros((0, *table.shape[1:]))) for table in tables]
    some = [slices([1, 2, 1], np.ones((3, *table.shape[1:]))) for table in tables]
    optimizer.apply_gradients(zip(nothing, tables))
    assert all((table.numpy() == 1).all() for table in tables)
    optimizer.apply_gradients(zip(some, tables))
    for table in tables:
        moved = (table.numpy() != 1).reshape(ROWS, -1)
        assert moved.all(axis=1).tolist() == [False, True, True, *[False] * (ROWS - 3)]
        assert moved.any(axis=1).sum() == 2


@each_optimizer
def test_what_needs_dense_tables_is_refused(kind):
    for name, value in {"gradient_accumulation_steps": 2, "loss_scale_factor": 8.0}.items():
        with pytest.raises(ValueError, match=f"Received: {name}={value}"):
            kind(**{name: value})
        assert kind(**{name: None})


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="Received: amsgrad=True"):
        SparseAdam(amsgrad=True)
    assert SparseAdam(amsgrad=False)


@each_optimizer
def test_config_round_trip(kind):
    optimizer = kind(
        0.02,
        epsilon=1e-5,
        weight_decay=0.1,
        clipnorm=2.0,
        name="mine",
        table_learning_rate=0.5,
        use_ema=True,
        ema_momentum=0.9,
    )
    config = json.loads(json.dumps(optimizer.get_config()))
    assert kind.from_config(config).get_config() == config
    through = deserialize(serialize(optimizer))
    assert type(through) is kind
    assert through.get_config() == config
    wanted = {
        "name": "mine",
        "clipnorm": 2.0,
        "weight_decay": 0.1,
        "epsilon": 1e-5,
        "table_learning_rate": 0.5,
        "use_ema": True,
        "ema_momentum": 0.9,
    }
    assert {name: config[name] for name in wanted} == wanted
    assert config["learning_rate"] == pytest.approx(0.02)


@each_optimizer
def test_config_of_schedules_round_trip(kind):
    optimizer = kind(decay_rate(0.1)[0], table_learning_rate=decay_rate(0.4)[0])
    config = json.loads(json.dumps(optimizer.get_config()))
    before = json.dumps(config)
    again = kind.from_config(config)
    assert json.dumps(config) == before  # the caller's stays as it was
    assert json.loads(json.dumps(again.get_config())) == config
    assert float(again.table_learning_rate) == pytest.approx(0.4)
    assert kind.from_config(kind(0.5).get_config()).get_config()["table_learning_rate"] is None


def _large_operations(traced, rows):
    graphs = [traced.graph, *traced.graph._functions.values()]  # cond and while hold their own
    return sorted(
        {
            operation.type
            for graph in graphs
            for operation in getattr(graph, "graph", graph).get_operations()
            for output in operation.outputs
            if output.shape.rank and rows in output.shape.as_list()
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "table_learning_rate": 0.1},
        *CLIPS,
    ],
    ids=lambda options: "+".join(options) or "plain",
)
@pytest.mark.parametrize(
    "kind", [*OPTIMIZERS, tf.keras.optimizers.Adam], ids=lambda kind: kind.__name__
)
def test_no_operation_of_a_step_is_as_large_as_a_table(kind, options):
    if kind not in OPTIMIZERS:
        options = {}
    rows = 20011  # a prime that no other dimension has; counting is for smaller tables
    table, kernel = tf.Variable(tf.zeros([rows, 4])), tf.Variable(tf.ones([4, 1]))
    optimizer = built(kind(0.1, **options), table, kernel)

    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, ids) @ kernel)
        gradients = tape.gradient(loss, [table, kernel])
        optimizer.apply_gradients(zip(gradients, [table, kernel]))

    specs = tf.TensorSpec([None], tf.int32)
    traced = tf.function(step, autograph=False).get_concrete_function(specs)
    large = _large_operations(traced, rows)
    if kind in OPTIMIZERS:
        assert large == []
    else:
        assert large  # the search for large operations finds them where they are


@pytest.mark.parametrize(
    "module",
    [
        "duplicates",
        "sparse_adam",
        "sparse_adagrad",
        "rowwise_adagrad",
    ],
)
def test_docstring_examples(module):
    assert run_doctests(f"tfdare.optimizers.{module}") > 0
