"""The row-sparse optimizers in models: resumed, in mixed precision, averaged, on two devices."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import learned_dare, randomize, requests, tensors
from tests.optimizer_steps import BATCHES, OPTIMIZERS, built, decay_rate, slices, start
from tfdare.compat import raw
from tfdare.layers import Head
from tfdare.losses import CandidateCrossentropy
from tfdare.optimizers import RowwiseAdagrad, SparseAdagrad, SparseAdam, rowwise_adagrad
from tfdare.schema import Feature, Schema

pytestmark = pytest.mark.keras

each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)

GOLDEN = {  # of the formulas in float64; the same under both generations of Keras
    SparseAdam: (
        [0.9351188, 1.0628813, 0.8180772, 1.1779250, 1.0, 1.0, 0.7981390, 1.1978634],
        [0.0751996, -0.9203776],
    ),
    SparseAdagrad: (
        [0.9008996, 1.0985148, 0.8559608, 1.1419638, 1.0, 1.0, 0.8292784, 1.1735167],
        [0.3076465, -0.5769957],
    ),
    RowwiseAdagrad: (
        [0.9362433, 1.1245134, 0.9071981, 1.1796068, 1.0, 1.0, 0.8879027, 1.2181977],
        [0.3076465, -0.5769957],
    ),
}


@each_optimizer
def test_golden_numbers(kind):
    table, bias = tf.Variable(tf.ones([4, 2])), tf.Variable([0.5, -0.5])
    schedule, _ = decay_rate(0.2)
    optimizer = built(
        kind(schedule, table_learning_rate=0.1, weight_decay=0.01, global_clipnorm=4.0), table, bias
    )
    for rows in ([1, 3, 1], [3], [0, 1, 0]):
        values = np.outer(np.arange(1, len(rows) + 1), [1.0, -2.0])
        pairs = [(slices(rows, values, 4), table), (tf.constant([0.3, 0.1]), bias)]
        optimizer.apply_gradients(pairs)
    wanted_table, wanted_bias = GOLDEN[kind]
    np.testing.assert_allclose(table.numpy().ravel(), wanted_table, rtol=5e-6)
    np.testing.assert_allclose(bias.numpy(), wanted_bias, atol=5e-6)


@each_optimizer
@pytest.mark.parametrize(
    "options",
    [
        dict,
        lambda: {"learning_rate": decay_rate()[0], "table_learning_rate": decay_rate(1.0)[0]},
        lambda: {"table_learning_rate": 0.3},
    ],
    ids=["plain", "schedules", "table rate"],
)
def test_checkpoints_hold_slots_and_rates(kind, options, tmp_path, monkeypatch):
    monkeypatch.setattr(rowwise_adagrad, "MAX_KERNEL_ROWS", 6)  # the table has no element slots

    def build():
        table, bias = tf.Variable(start()), tf.Variable([1.0, -1.0])
        optimizer = built(kind(**{"learning_rate": 0.1, **options()}), table, bias)
        return table, bias, optimizer

    def step(table, bias, optimizer, rows):
        gradient = slices(rows, np.random.default_rng(len(rows)).normal(size=(len(rows), 3)))
        optimizer.apply_gradients([(gradient, table), (tf.constant([0.1, 0.2]), bias)])

    def checkpoint(table, bias, optimizer):
        return tf.train.Checkpoint(table=table, bias=bias, optimizer=optimizer)

    first, second = build(), build()
    for rows in BATCHES:
        step(*first, rows)
    if options().get("table_learning_rate") == 0.3:
        first[2].table_learning_rate = 0.7
    path = checkpoint(*first).save(str(tmp_path / "saved"))
    checkpoint(*second).restore(path).assert_consumed()
    for rows in BATCHES[::-1]:
        step(*first, rows)
        step(*second, rows)
    for left, right in zip(first[:2], second[:2]):
        np.testing.assert_array_equal(left, right)
        assert np.isfinite(left.numpy()).all()


def small_model(kind, **options):
    """Builds a model that looks up 3 of 50 rows; logits of one dense layer."""
    ids = tf.keras.Input((3,), dtype="int32")
    rows = tf.keras.layers.Embedding(50, 4, name="table")(ids)
    logit = tf.keras.layers.Dense(1, dtype="float32")(tf.keras.layers.Flatten()(rows))
    model = tf.keras.Model(ids, logit)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    model.compile(kind(**{"learning_rate": 0.05, **options}), "mse", jit_compile=False)
    return model


IDS = np.array([[1, 2, 1], [7, 2, 9], [9, 9, 9], [30, 1, 7]], np.int32)
LABELS = np.array([[1.0], [0.0], [2.0], [-1.0]], np.float32)


@each_optimizer
def test_a_model_of_keras_resumes_as_if_never_stopped(kind, tmp_path):
    model = small_model(kind, table_learning_rate=0.2, weight_decay=0.01)
    for _ in range(3):
        model.train_on_batch(IDS, LABELS)
    model.optimizer.table_learning_rate = 0.125
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.optimizer) is kind
    assert int(raw(loaded.optimizer.iterations)) == 3
    assert float(raw(loaded.optimizer.table_learning_rate)) == 0.125
    for each in (model, loaded):
        for _ in range(2):
            each.train_on_batch(IDS, LABELS)
    for left, right in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(left, right)


def test_dare_resumes_as_if_never_stopped(schema, tmp_path):
    model = _compiled_dare(schema)
    label = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(np.float32)
    model.train_on_batch(requests(schema, seed=0), label)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for each in (model, loaded):
        each.train_on_batch(requests(schema, seed=1), label)
    for left, right in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(left, right)


def _compiled_dare(schema):
    model = randomize(
        learned_dare(schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False))
    )
    model.compile(SparseAdam(0.05), loss=CandidateCrossentropy(), run_eagerly=True)
    return model


def test_a_fit_moves_only_the_rows_of_the_batch(schema):
    model = _compiled_dare(schema)
    inputs = requests(schema, seed=0, lengths=[8, 8, 8])
    label = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(np.float32)
    for kind in ("history", "target"):
        inputs[f"{kind}_item"] = inputs[f"{kind}_item"] % 9 + 1  # rows 1 to 9 of 30
    embedding = model.embedding
    tables = [raw(embedding.attention_tables["item"]), raw(embedding.representation_tables["item"])]
    before = [table.numpy() for table in tables]
    model.fit(inputs, label, batch_size=3, epochs=2, verbose=0)
    seen = sorted({*inputs["history_item"].ravel(), *inputs["target_item"].ravel()})
    for old, table in zip(before, tables):
        moved = np.flatnonzero((old != table.numpy()).any(axis=1))
        assert moved.tolist() == seen


def test_no_operation_of_a_step_of_dare_is_as_large_as_a_table():
    rows = 20011  # a prime that no other dimension has; counting is for smaller tables
    schema = Schema((Feature("item", rows, 3, 4),), window=8)
    model = learned_dare(
        schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False)
    )
    weights = [raw(weight) for weight in model.trainable_weights]
    optimizer = built(SparseAdam(0.1), *model.trainable_weights)

    def step(inputs, label):
        with tf.GradientTape() as tape:
            outputs = model.forward(inputs, training=True)
            loss = tf.reduce_mean(CandidateCrossentropy()(label, outputs.probability))
            loss += tf.reduce_mean(CandidateCrossentropy()(label, outputs.auxiliary_probability))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), model.trainable_weights))

    inputs = tensors(requests(schema))
    traced = tf.function(step, autograph=False).get_concrete_function(inputs, tf.zeros([3, 4]))
    graphs = [traced.graph, *traced.graph._functions.values()]  # cond and while hold their own
    assert not [
        operation.type
        for graph in graphs
        for operation in getattr(graph, "graph", graph).get_operations()
        for output in operation.outputs
        if output.shape.rank and rows in output.shape.as_list()
    ]


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy(before)


@each_optimizer
def test_mixed_precision_trains_rows_of_float32_tables(kind, policy):
    model = small_model(kind, weight_decay=1e-3, learning_rate=0.2)
    assert ("LossScale" in type(model.optimizer).__name__) == (policy == "mixed_float16")
    table = raw(model.get_layer("table").embeddings)
    assert table.dtype == tf.float32
    before = table.numpy()
    loss = model.fit(IDS, LABELS, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert np.isfinite(loss).all() and loss[-1] < 0.5 * loss[0]
    moved = np.flatnonzero((table.numpy() != before).any(axis=1))
    assert moved.tolist() == sorted(set(IDS.ravel()))


@each_optimizer
def test_a_step_that_overflows_is_skipped(kind):
    table = tf.Variable(start())
    inner = kind(0.1)
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=4.0)
    scaled.build([table])
    for values, moves in ([[[np.inf, 1, 1]], False], [[[1, 1, 1]], True]):
        before = table.numpy()
        gradient = slices([2], values)
        if hasattr(scaled, "get_unscaled_gradients"):  # Keras 2 does not unscale on its own
            (gradient,) = scaled.get_unscaled_gradients([gradient])
        scaled.apply_gradients([(gradient, table)])
        assert (table.numpy() != before).any(axis=1).tolist() == [False, False, moves, *[False] * 4]


@each_optimizer
def test_moving_averages_are_of_the_steps_taken(kind):
    table = tf.Variable(start())
    optimizer = built(kind(0.1, use_ema=True, ema_momentum=0.5), table)
    seen = [table.numpy()]
    for _ in range(3):
        optimizer.apply_gradients([(slices([2, 4], np.ones((2, 3))), table)])
        seen.append(table.numpy())
    optimizer.finalize_variable_values([table])
    # Keras 2 starts from the initial value, Keras 3 from the first step's.
    averages = []
    for first, rest in ((seen[0], seen[1:]), (seen[1], seen[2:])):
        for each in rest:
            first = 0.5 * first + 0.5 * each
        averages.append(first)
    assert any(np.allclose(table.numpy(), average, rtol=1e-6) for average in averages)
    assert not np.allclose(table.numpy(), seen[-1])


_TWO_DEVICES = """
import json, sys
from tfdare.compat import tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfdare import optimizers
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
answers = {}
for name in sys.argv[1:]:
    with strategy.scope():
        table, bias = tf.Variable(tf.ones([5, 2])), tf.Variable(tf.ones([2]))
        optimizer = getattr(optimizers, name)(0.1, weight_decay=0.01, table_learning_rate=0.2)
        optimizer.build([table, bias])

    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, [1, 1, 3 - number]) * bias)
        gradients = tape.gradient(loss, [table, bias])
        optimizer.apply_gradients(zip(gradients, [table, bias]))

    step = tf.function(lambda: strategy.run(replica), autograph=False)
    for _ in range(2):
        step()
    answers[name] = [[copy.numpy().tolist() for copy in held.values] for held in (table, bias)]
print(json.dumps(answers))
"""


def test_two_devices_step_as_one():
    names = [kind.__name__ for kind in OPTIMIZERS]
    done = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES, *names],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for kind in OPTIMIZERS:
        table, bias = tf.Variable(tf.ones([5, 2])), tf.Variable(tf.ones([2]))
        optimizer = built(kind(0.1, weight_decay=0.01, table_learning_rate=0.2), table, bias)
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(table, [1, 1, 3, 1, 1, 2]) * bias)
            gradients = tape.gradient(loss, [table, bias])
            optimizer.apply_gradients(zip(gradients, [table, bias]))
        for copies, wanted in zip(answers[kind.__name__], (table, bias)):
            assert len(copies) == 2
            for copy in copies:
                np.testing.assert_allclose(copy, wanted.numpy(), rtol=1e-6)
