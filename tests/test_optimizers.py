import math

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import randomize, requests, run_doctests, tensors
from tfdare.compat import deserialize, raw, serialize
from tfdare.layers import Head
from tfdare.losses import CandidateCrossentropy
from tfdare.models import DARE
from tfdare.optimizers import SparseAdam, sum_duplicates
from tfdare.schema import Feature, Schema

ROWS, COLUMNS = 7, 3


def slices(rows, values, table_rows=ROWS):
    values = np.asarray(values, np.float32)
    return tf.IndexedSlices(
        tf.constant(values), tf.constant(rows, tf.int32),
        tf.constant([table_rows, values.shape[1]]),
    )


def random_slices(rng, rows):
    return slices(rows, rng.normal(size=(len(rows), COLUMNS)))


def start(rng=None):
    rng = rng or np.random.default_rng(0)
    return rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)


def slots(optimizer):
    """First and second moments of the first variable, whatever they are called."""
    made = [
        raw(v).numpy() for v in optimizer.variables
        if tuple(v.shape) == (ROWS, COLUMNS)
    ]
    assert len(made) == 2
    return made


class NumpyAdam:
    """The formulas, row by row, float64."""

    def __init__(self, table, rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0):
        self.table = np.array(table, np.float64)
        self.m, self.v = np.zeros_like(self.table), np.zeros_like(self.table)
        self.rate, self.beta_1, self.beta_2 = rate, beta_1, beta_2
        self.epsilon, self.decay, self.step = epsilon, decay, 0

    def apply(self, rows, values):
        self.step += 1
        rate = self.rate(self.step - 1) if callable(self.rate) else self.rate
        summed = {}
        for row, value in zip(rows, np.asarray(values, np.float64)):
            summed[row] = summed.get(row, 0) + value
        correction = math.sqrt(1 - self.beta_2**self.step) / (1 - self.beta_1**self.step)
        for row, g in summed.items():
            self.m[row] = self.beta_1 * self.m[row] + (1 - self.beta_1) * g
            self.v[row] = self.beta_2 * self.v[row] + (1 - self.beta_2) * g * g
            change = rate * correction * self.m[row] / (np.sqrt(self.v[row]) + self.epsilon)
            self.table[row] -= change + rate * self.decay * self.table[row]


BATCHES = [[2, 5, 2], [0], [5, 5, 5, 1], [2, 0, 6], [6, 6]]


@pytest.mark.parametrize(
    "given,reference",
    [
        ({"learning_rate": 0.1}, {"rate": 0.1}),
        ({}, {}),
        (
            {"learning_rate": 0.05, "beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-3},
            {"rate": 0.05, "beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-3},
        ),
        ({"learning_rate": 0.1, "weight_decay": 0.3}, {"rate": 0.1, "decay": 0.3}),
        (
            {"learning_rate": lambda: tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
            {"rate": lambda step: 0.1 * 0.5 ** (step / 2)},
        ),
    ],
    ids=["rate", "defaults", "betas", "weight decay", "schedule"],
)
def test_steps_equal_plain_numpy(given, reference):
    given = {k: v() if callable(v) else v for k, v in given.items()}
    rng = np.random.default_rng(1)
    table = tf.Variable(start(rng))
    optimizer = SparseAdam(**given)
    optimizer.build([table])
    wanted = NumpyAdam(table.numpy(), **reference)
    for rows in BATCHES:
        gradient = random_slices(rng, rows)
        optimizer.apply_gradients([(gradient, table)])
        wanted.apply(rows, gradient.values.numpy())
    np.testing.assert_allclose(table.numpy(), wanted.table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slots(optimizer)[0], wanted.m, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slots(optimizer)[1], wanted.v, rtol=1e-4, atol=1e-8)
    assert int(raw(optimizer.iterations)) == len(BATCHES)


@pytest.mark.parametrize("given", [
    {}, {"weight_decay": 0.1}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1},
])
def test_untouched_rows_and_their_moments_keep_every_bit(given):
    rng = np.random.default_rng(2)
    table = tf.Variable(start(rng))
    optimizer = SparseAdam(0.1, **given)
    optimizer.build([table])
    optimizer.apply_gradients([(random_slices(rng, list(range(ROWS))), table)])
    before = [table.numpy(), *slots(optimizer)]
    optimizer.apply_gradients([(random_slices(rng, [1, 4, 1]), table)])
    after = [table.numpy(), *slots(optimizer)]
    untouched = [0, 2, 3, 5, 6]
    for old, new in zip(before, after):
        assert old[untouched].tobytes() == new[untouched].tobytes()
        assert (old[[1, 4]] != new[[1, 4]]).all()


def test_duplicates_are_summed():
    summed = sum_duplicates(slices([4, 1, 4, 4], [[1, 10], [2, 20], [3, 30], [5, 50]]))
    assert summed.indices.numpy().tolist() == [4, 1]
    assert summed.values.numpy().tolist() == [[9, 90], [2, 20]]
    tables = [tf.Variable(start()) for _ in range(2)]
    for table, gradient in zip(tables, [
        slices([1, 1, 3], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        slices([1, 3], [[5, 7, 9], [7, 8, 9]]),
    ]):
        optimizer = SparseAdam(0.1)
        optimizer.build([table])
        for _ in range(3):
            optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_array_equal(tables[0], tables[1])


@pytest.mark.parametrize("given", [
    {}, {"weight_decay": 0.1}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1},
])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "all rows"])
def test_equals_the_adam_of_keras(given, dense):
    rng = np.random.default_rng(3)
    values = start(rng)
    tables = [tf.Variable(values), tf.Variable(values)]
    biases = [tf.Variable([1.0, -1.0]), tf.Variable([1.0, -1.0])]
    optimizers = [SparseAdam(0.1, **given), tf.keras.optimizers.Adam(0.1, **given)]
    for optimizer, table, bias in zip(optimizers, tables, biases):
        optimizer.build([table, bias])
    for _ in range(5):
        # Every row, some twice.
        gradient = random_slices(rng, [6, 5, 4, 3, 2, 1, 0, 3, 3])
        whole = tf.convert_to_tensor(gradient)
        other = tf.constant(rng.normal(size=2).astype(np.float32))
        for optimizer, table, bias in zip(optimizers, tables, biases):
            sparse = isinstance(optimizer, SparseAdam) and not dense
            optimizer.apply_gradients([(gradient if sparse else whole, table), (other, bias)])
    assert not np.allclose(tables[0], values, atol=0.1)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6, atol=1e-6)
    if "global_clipnorm" in given:
        np.testing.assert_allclose(biases[0], biases[1], rtol=1e-6)
    else:
        np.testing.assert_array_equal(biases[0], biases[1])


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm"])
def test_norms_are_of_summed_rows(kind):
    # In pieces the norm would be 5; summed it is sqrt((3 + 4)^2) = 7.
    table = tf.Variable(np.zeros((ROWS, COLUMNS), np.float32))
    optimizer = SparseAdam(0.1, **{kind: 1.0})
    optimizer.build([table])
    optimizer.apply_gradients([(slices([2, 2], [[3, 0, 0], [4, 0, 0]]), table)])
    first, second = slots(optimizer)
    np.testing.assert_allclose(first[2], [0.1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(second[2], [0.001, 0, 0], rtol=1e-4)


def test_weight_decay_leaves_out_what_it_is_told_to():
    tables = [tf.Variable(start(), name="kept"), tf.Variable(start(), name="decayed")]
    optimizer = SparseAdam(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[tables[0]])
    optimizer.build(tables)
    gradient = slices([3], [[0, 0, 0]])
    optimizer.apply_gradients([(gradient, table) for table in tables])
    np.testing.assert_array_equal(tables[0], start())
    wanted = start()
    wanted[3] *= 1 - 0.1 * 0.5
    np.testing.assert_allclose(tables[1], wanted, rtol=1e-6)


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="Received: amsgrad=True"):
        SparseAdam(amsgrad=True)
    assert SparseAdam(amsgrad=False)


def test_config_round_trip():
    optimizer = SparseAdam(
        0.02, beta_1=0.8, beta_2=0.9, epsilon=1e-5, weight_decay=0.1, clipnorm=2.0, name="mine"
    )
    config = optimizer.get_config()
    again = SparseAdam.from_config(config)
    assert again.get_config() == config
    through = deserialize(serialize(optimizer))
    assert type(through) is SparseAdam
    assert through.get_config() == config
    assert (config["name"], config["clipnorm"]) == ("mine", 2.0)
    assert config["weight_decay"] == 0.1
    schedule = SparseAdam(tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5))
    packed = SparseAdam.from_config(schedule.get_config())
    assert packed.get_config() == schedule.get_config()


def _trained(schema, seed=0):
    model = randomize(
        DARE(schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False)), seed
    )
    model.compile(SparseAdam(0.05), loss=CandidateCrossentropy(), run_eagerly=True)
    return model


def _batch(schema, seed):
    label = np.random.default_rng(seed).integers(0, 2, (3, 4)).astype(np.float32)
    return requests(schema, seed=seed), label


def test_moments_are_saved_and_training_goes_on_as_if_never_stopped(schema, tmp_path):
    model = _trained(schema)
    for seed in range(3):
        model.train_on_batch(*_batch(schema, seed))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.optimizer) is SparseAdam
    assert int(raw(loaded.optimizer.iterations)) == 3
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for seed in range(3, 5):
        for each in (model, loaded):
            each.train_on_batch(*_batch(schema, seed))
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_fit_moves_only_the_rows_of_the_batch(schema):
    model = _trained(schema)
    made, label = _batch(schema, 0)
    for kind in ("history", "target"):
        made[f"{kind}_item"] = made[f"{kind}_item"] % 9 + 1  # rows 1 to 9 of 30
    made["history_length"][:] = 8
    embedding = model.embedding
    tables = [raw(embedding.attention_tables["item"]), raw(embedding.representation_tables["item"])]
    before = [table.numpy() for table in tables]
    model.fit(made, label, batch_size=3, epochs=2, verbose=0)
    seen = sorted({*made["history_item"].ravel(), *made["target_item"].ravel()})
    for old, table in zip(before, tables):
        moved = np.flatnonzero((old != table.numpy()).any(axis=1))
        assert moved.tolist() == seen


@pytest.mark.parametrize("make", [
    lambda: SparseAdam(0.1, weight_decay=0.1), lambda: SparseAdam(0.1, clipnorm=1.0),
    lambda: SparseAdam(0.1, global_clipnorm=1.0), lambda: tf.keras.optimizers.Adam(0.1),
], ids=["SparseAdam", "clipnorm", "global_clipnorm", "Adam of Keras"])
def test_no_operation_of_a_training_step_is_as_large_as_a_table(make):
    rows = 9973  # a prime that no other dimension has
    schema = Schema((Feature("item", rows, 3, 4),), window=8)
    model = DARE(schema, top_k=3, head=Head((6,)), auxiliary_head=Head((5,), batch_norm=False))
    optimizer = make()
    weights = [raw(weight) for weight in model.trainable_weights]
    optimizer.build(model.trainable_weights)

    def step(made, label):
        with tf.GradientTape() as tape:
            outputs = model.forward(made, training=True)
            loss = tf.reduce_mean(CandidateCrossentropy()(label, outputs.probability))
            loss += tf.reduce_mean(CandidateCrossentropy()(label, outputs.auxiliary_probability))
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights))
        return loss

    made = tensors(requests(schema))
    traced = tf.function(step, autograph=False).get_concrete_function(made, tf.zeros([3, 4]))
    graphs = [traced.graph, *traced.graph._functions.values()]  # cond and while hold their own
    large = sorted({
        operation.type
        for graph in graphs
        for operation in getattr(graph, "graph", graph).get_operations()
        for output in operation.outputs
        if output.shape.rank and rows in output.shape.as_list()
    })
    if isinstance(optimizer, SparseAdam):
        assert large == []
    else:
        assert large  # the search for large operations finds them where they are


def test_docstring_examples():
    assert run_doctests("tfdare.optimizers") > 0
