"""DARE's training step in plain TensorFlow, to measure the gain of the layers and optimizers here.

The same model (`DARE-paper`): two tables a feature, positions, the 20 best behaviors of 200 for one
head and all of them for the other. Laid out by request and updated by rows, as here, in
TensorFlow's own terms: a look-up wherever one is needed, ``tf.unique`` and
``tf.math.unsorted_segment_sum`` for duplicates, Adam's formula op by op, rows written back by
``scatter_update`` (``scatter_sub`` takes longer).
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.bench_optimizers import summed_by_segments, write
from tfdare.compat import raw, tf

TOP_K, RATE, BETA_1, BETA_2, EPSILON = 20, 0.01, 0.9, 0.999, 1e-7


class PlainStep(tf.Module):
    """The model, its moments, and one step: ``step(inputs, label)`` gives the loss.

    Args:
        vocabulary: mapping of feature name to rows.
        window: int. Behaviors of every history.
        columns: int. Of each table.
    """

    def __init__(self, vocabulary: Mapping[str, int], window: int, columns: int):
        super().__init__()

        def table(rows):
            return tf.Variable(tf.random.normal([rows, columns], stddev=0.02))

        self.features, self.columns = list(vocabulary), columns
        self.attention = {name: table(rows) for name, rows in vocabulary.items()}
        self.representation = {name: table(rows) for name, rows in vocabulary.items()}
        self.position = table(window + 1)
        width = 3 * columns * len(vocabulary)
        layers = tf.keras.layers
        self.heads = [
            _built(
                [layers.BatchNormalization(), *_dense(200), *_dense(80), layers.Dense(1)], width
            ),
            _built([*_dense(200), layers.Dense(1)], width),
        ]
        tables = [*self.attention.values(), *self.representation.values(), self.position]
        dense = [raw(weight) for head in self.heads for weight in head.trainable_weights]
        self.weights = [*tables, *dense]
        self.moments = [[tf.Variable(tf.zeros_like(w)) for _ in "mv"] for w in self.weights]
        self.steps = tf.Variable(0.0)

    @tf.function(autograph=False)
    def step(self, inputs: Mapping[str, tf.Tensor], label: tf.Tensor) -> tf.Tensor:
        """Runs forward pass, backward pass and update."""
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, label)
        gradients = tape.gradient(loss, self.weights)
        self.steps.assign_add(1.0)
        rate = RATE * tf.sqrt(1 - BETA_2**self.steps) / (1 - BETA_1**self.steps)
        for weight, moments, gradient in zip(self.weights, self.moments, gradients):
            update = _update_rows if isinstance(gradient, tf.IndexedSlices) else _update
            update(weight, *moments, gradient, rate)
        return loss

    def _loss(self, inputs, label):
        query, target = (self._look_up(t, inputs, "target") for t in self._tables)
        key, history = (self._look_up(t, inputs, "history") for t in self._tables)
        distance = inputs["history_length"][:, None] - tf.range(tf.shape(key)[1])
        near = tf.linalg.matvec(self.position, self.position[0]) / self.columns**0.5
        scores = tf.einsum("ucd,und->ucn", query, key) / query.shape[-1] ** 0.5
        scores += tf.gather(near, tf.maximum(distance, 0))[:, None]
        scores = tf.where((distance > 0)[:, None], scores, -1e9)
        best, index = tf.math.top_k(scores, TOP_K)
        selected = tf.gather(history, index, batch_dims=1)
        sums = [
            tf.einsum("uck,uckd->ucd", tf.nn.softmax(best), selected),
            tf.einsum("ucn,und->ucd", tf.nn.softmax(scores), history),
        ]
        loss = 0.0
        for head, pooled in zip(self.heads, sums):
            known = tf.concat([target, pooled, target * pooled], axis=-1)
            logit = head(tf.reshape(known, [-1, known.shape[-1]]), training=True)
            loss += tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(
                    labels=tf.reshape(label, [-1, 1]), logits=logit
                )
            )
        return loss

    @property
    def _tables(self):
        return self.attention, self.representation

    def _look_up(self, tables, inputs, who):
        rows = [tf.gather(tables[name], inputs[f"{who}_{name}"]) for name in self.features]
        return tf.concat(rows, axis=-1)


def _dense(units):
    return [tf.keras.layers.Dense(units), tf.keras.layers.PReLU()]


def _built(layers, width):
    head = tf.keras.Sequential(layers)
    head.build((None, width))
    return head


def _stepped(weight, first, second, gradient, rate):
    first = BETA_1 * first + (1 - BETA_1) * gradient
    second = BETA_2 * second + (1 - BETA_2) * tf.square(gradient)
    return weight - rate * first / (tf.sqrt(second) + EPSILON), first, second


def _update(weight, first, second, gradient, rate):
    variables = weight, first, second
    for variable, after in zip(variables, _stepped(*variables, gradient, rate)):
        variable.assign(after)


def _update_rows(weight, first, second, gradient, rate):
    rows, summed = summed_by_segments(gradient.values, gradient.indices)
    variables = weight, first, second
    before = [tf.gather(variable, rows) for variable in variables]
    for variable, after in zip(variables, _stepped(*before, summed, rate)):
        write(variable, rows, after)
