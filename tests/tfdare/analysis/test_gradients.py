"""Gradients by side: they sum to the whole, and measuring them does not change training."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.harness import (
    learned_dare,
    randomize,
    requests,
    rich_shared_schema,
    shared_schema,
    tensors,
)
from tfdare.analysis.gradients import (
    GradientProbe,
    GradientSplit,
    SideGradients,
    gradient_numbers,
    gradients_of,
    plot_gradients,
    row_numbers,
)
from tfdare.compat import raw
from tfdare.losses import CandidateCrossentropy
from tfdare.models import TWIN, build_model
from tfdare.training import compile_model

pytestmark = pytest.mark.keras


def batch_for(schema, users=6, seed=1):
    arrays = requests(
        schema,
        users=users,
        behaviors=8,
        candidates=3,
        lengths=[8, 5, 2, 8, 1, 0][:users],
        seed=seed,
    )
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, (users, 3)).astype(np.float32)
    weight = (random.random((users, 3)) < 0.9).astype(np.float32)
    return tensors(arrays), tf.constant(label), tf.constant(weight)


def whole_gradient(model, batch, table):
    requests_, label, weight = batch
    state = [raw(w) for w in model.non_trainable_weights]
    before = [w.numpy() for w in state]
    with tf.GradientTape() as tape:
        outputs = model.forward(requests_, training=True)
        loss = CandidateCrossentropy()(label, outputs.probability, weight)
        if outputs.auxiliary_probability is not None:
            loss += model.auxiliary_weight * CandidateCrossentropy()(
                label, outputs.auxiliary_probability, weight
            )
    gradient = tf.convert_to_tensor(tape.gradient(loss, raw(table))).numpy()
    for weight_, value in zip(state, before):
        weight_.assign(value)
    return gradient


def dense(gradients: SideGradients, rows):
    sides = np.zeros((2, rows, gradients.attention.shape[1]))
    sides[0, gradients.ids], sides[1, gradients.ids] = gradients.attention, gradients.representation
    return sides


@pytest.mark.parametrize(
    "name, schema",
    [
        ("TWIN", rich_shared_schema()),
        ("TWIN-proj", shared_schema()),
        ("DIN", shared_schema()),
        ("SIM-soft", shared_schema()),
    ],
)
def test_the_two_sides_add_up_to_the_gradient(name, schema):
    model = randomize(build_model(name, schema, top_k=3))
    batch = batch_for(schema)
    gradients = GradientSplit(model, *batch)()
    assert set(schema.names) <= set(gradients)
    for feature, sides in gradients.items():
        assert model.embedding.shares(feature)
        table = (
            model.embedding.attention_tables[feature]
            if feature in schema.names
            else getattr(model.embedding, f"attention_{feature}_table")
        )
        attention, representation = dense(sides, table.shape[0])
        assert np.abs(attention).max() > 0 and np.abs(representation).max() > 0
        whole = whole_gradient(model, batch, table)
        if feature != "position":
            whole[0] = 0  # padding is nobody's row
        np.testing.assert_allclose(attention + representation, whole, rtol=2e-3, atol=2e-6)


def test_each_table_of_dare_gets_gradients_of_its_own_side(schema):
    model, batch = randomize(learned_dare(schema, top_k=3)), batch_for(schema)
    for name, sides in GradientSplit(model, *batch)().items():
        assert not model.embedding.shares(name)
        for side in ("attention", "representation"):
            tables = getattr(model.embedding, f"{side}_tables")
            table = tables.get(name, getattr(model.embedding, f"{side}_position_table"))
            gradient = np.zeros(table.shape)
            gradient[sides.ids] = getattr(sides, side)
            whole = whole_gradient(model, batch, table)
            whole[0] = whole[0] if name == "position" else 0
            np.testing.assert_allclose(gradient, whole, rtol=2e-3, atol=2e-6)


def test_the_split_of_a_shared_table_equals_gradients_of_two_tables():
    """Copies a TWIN's one table into both tables of a DARE: the two gradients are the same."""
    schema = shared_schema()
    twin = randomize(TWIN(schema, top_k=3))
    decoupled = build_model("DARE-paper", schema, top_k=3)
    for side in ("attention", "representation"):
        for name, table in twin.embedding.attention_tables.items():
            getattr(decoupled.embedding, f"{side}_tables")[name].assign(raw(table))
        position = getattr(decoupled.embedding, f"{side}_position_table")
        position.assign(raw(twin.embedding.attention_position_table))
    for part in ("head", "auxiliary_head"):
        getattr(decoupled, part).set_weights(getattr(twin, part).get_weights())
    batch = batch_for(schema)
    shared, separate = GradientSplit(twin, *batch)(), GradientSplit(decoupled, *batch)()
    for name in shared:
        for ours, theirs in zip(shared[name], separate[name]):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-6)


def test_row_numbers_by_hand():
    gradients = SideGradients(
        np.array([2, 3, 4]),
        np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]),
        np.array([[-3.0, -4.0], [1.0, 0.0], [1.0, 1.0]]),
    )
    numbers = row_numbers(gradients, shared=True)
    assert numbers["attention"].tolist() == [5, 0, 1]
    assert numbers["cosine"][[0, 2]] == pytest.approx([-1, math.sqrt(0.5)])
    assert np.isnan(numbers["cosine"][1])
    assert np.isnan(row_numbers(gradients, shared=False)["cosine"]).all()


def fit(model, batch, probe=None):
    compile_model(model)
    requests_, label, weight = batch
    data = tf.data.Dataset.from_tensors((requests_, label, weight)).repeat(5)
    model.fit(data, epochs=1, verbose=0, callbacks=[] if probe is None else [probe])
    return model.get_weights()


def test_training_is_the_same_with_and_without_a_probe():
    weights = []
    for watched in (False, True):
        model, batch = randomize(TWIN(shared_schema(), top_k=3)), batch_for(shared_schema())
        tf.keras.utils.set_random_seed(3)
        probe = GradientProbe(batch, every=2) if watched else None
        weights.append(fit(model, batch, probe))
    assert all(np.array_equal(plain, probed) for plain, probed in zip(*weights))
    assert probe.steps == [0, 2, 4]
    assert probe.values("item", "cosine").shape == (3, probe.rows["item"].size)


def test_numbers_against_plain_loops():
    model, batch = randomize(TWIN(shared_schema(), top_k=3)), batch_for(shared_schema())
    probe = GradientProbe(batch, every=2)
    fit(model, batch, probe)
    numbers = gradient_numbers(probe, resamples=50)
    assert numbers["steps"] == [0, 2, 4]
    for name, feature in numbers["features"].items():
        against = cases = 0
        sums = [0.0, 0.0]
        by_step = []
        for look in range(3):
            here = [0, 0]
            for row in range(probe.rows[name].size):
                norms = [
                    probe.values(name, side)[look, row] for side in ("attention", "representation")
                ]
                if min(norms) > 0:
                    here[0] += probe.values(name, "cosine")[look, row] < 0
                    here[1] += 1
                    sums = [total + norm for total, norm in zip(sums, norms)]
            by_step.append(here[0] / here[1])
            against, cases = against + here[0], cases + here[1]
        assert feature["conflict"]["estimate"] == pytest.approx(against / cases)
        assert feature["conflict_by_step"] == pytest.approx(by_step)
        assert feature["ratio"]["estimate"] == pytest.approx(sums[1] / sums[0])
        assert sum(feature["cosine_histogram"]) == cases
        assert (
            feature["conflict"]["low"]
            <= feature["conflict"]["estimate"]
            <= feature["conflict"]["high"]
        )
        assert len(feature["by_row"]["id"]) == feature["rows"] == len(feature["by_row"]["conflict"])
    assert (
        "conflict"
        not in gradient_numbers(
            gradients_of(randomize(learned_dare(shared_schema(), top_k=3)), batch)
        )["features"]["item"]
    )


def test_plot_draws_what_the_numbers_say():
    batch = batch_for(shared_schema())
    numbers = {
        name: gradient_numbers(
            gradients_of(randomize(build_model(name, shared_schema(), top_k=3)), batch), 20
        )
        for name in ("TWIN", "DARE-paper")
    }
    figure = plot_gradients(numbers, "category")
    share = figure.axes[1].lines[0].get_ydata()
    assert share.tolist() == numbers["TWIN"]["features"]["category"]["conflict_by_step"]
    assert "no conflict is possible" in figure.axes[4].texts[0].get_text()


def test_a_probe_needs_a_step():
    with pytest.raises(ValueError, match="positive. Received: every=0"):
        GradientProbe(batch_for(shared_schema()), every=0)
