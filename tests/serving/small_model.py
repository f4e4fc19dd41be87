"""Writes a small SavedModel with the three signatures, for the tests of ``serving``.

    python small_model.py BASE/VERSION:SEED ...

It does not use tfdare's models: a server and a client must hold with any graph of this contract.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf

from serving.client import one_request, score_inputs
from serving.client.protos import prediction_log_pb2
from serving.client.tensors import to_proto

FEATURES = ("item", "category")
K, DIM, POSITIONS = 4, 8, 64


def item_ids():
    """Lists the raw ids that the model knows."""
    return [1_000_000_000_000 + 7 * i for i in range(300)]


def category_ids():
    return [11 * i + 3 for i in range(20)]


class Small(tf.Module):
    def __init__(self, folder, seed):
        super().__init__()
        random = np.random.default_rng(seed)
        self.tables, self.weights = {}, {}
        for name, ids in (("item", item_ids()), ("category", category_ids())):
            path = os.path.join(folder, f"{name}.txt")
            with open(path, "w") as file:
                file.writelines(f"{raw}\t{row}\n" for row, raw in enumerate(ids, start=2))
            self.tables[name] = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(path, tf.int64, 0, tf.int64, 1, delimiter="\t"),
                1,
            )
            for part in ("attention", "representation"):
                values = random.normal(0, 0.7, (len(ids) + 2, DIM)).astype(np.float32)
                self.weights[f"{part}_{name}"] = tf.Variable(values)
        self.recency = tf.Variable(-0.05 * np.arange(POSITIONS, dtype=np.float32))
        self.bias = tf.Variable(-0.3)

    def embed(self, part, ids):
        rows = {name: self.tables[name].lookup(ids[name]) for name in FEATURES}
        return tf.concat(
            [tf.gather(self.weights[f"{part}_{name}"], rows[name]) for name in FEATURES], -1
        )

    def find(self, history, length, target):
        keys = self.embed("attention", history)
        scores = tf.einsum("ucd,und->ucn", self.embed("attention", target), keys)
        n = tf.shape(keys)[1]
        index = tf.range(n)[None]
        position = length[:, None] - index
        scores += tf.gather(self.recency, tf.clip_by_value(position, 0, POSITIONS - 1))[:, None]
        none = tf.constant(tf.float32.min)
        scores = tf.where((index < length[:, None])[:, None], scores, none)
        scores = tf.pad(scores, [[0, 0], [0, 0], [0, K]], constant_values=tf.float32.min)
        top, indices = tf.math.top_k(scores, K)
        there = indices < length[:, None, None]
        return (
            tf.where(there, indices, -1),
            tf.where(there, top, 0.0),
        )

    def judge(self, target, behavior, position, attention):
        there = position > 0
        attention = tf.where(there, attention, tf.float32.min)
        weight = tf.where(there, tf.exp(attention - tf.reduce_max(attention, -1, True)), 0.0)
        weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, -1, True))
        pooled = tf.reduce_sum(weight[..., None] * self.embed("representation", behavior), -2)
        mine = self.embed("representation", target)
        return tf.sigmoid(tf.reduce_sum(pooled * mine + 0.1 * mine, -1) + self.bias)


def signatures(model):
    def spec(prefix, rank, dtype=tf.int64, names=FEATURES):
        return [tf.TensorSpec([None] * rank, dtype, name=f"{prefix}_{name}") for name in names]

    whole = [
        *spec("history", 2),
        tf.TensorSpec([None], tf.int32, name="history_length"),
        *spec("target", 2),
    ]

    @tf.function(input_signature=whole)
    def search(item, category, length, target_item, target_category):
        index, score = model.find(
            {"item": item, "category": category},
            length,
            {"item": target_item, "category": target_category},
        )
        return {"behavior_index": index, "attention_score": score}

    @tf.function(
        input_signature=[
            *spec("target", 2),
            *spec("behavior", 3),
            tf.TensorSpec([None] * 3, tf.int32, name="behavior_position"),
            tf.TensorSpec([None] * 3, tf.float32, name="attention_score"),
        ]
    )
    def score(target_item, target_category, item, category, position, attention):
        return {
            "probability": model.judge(
                {"item": target_item, "category": target_category},
                {"item": item, "category": category},
                position,
                attention,
            )
        }

    @tf.function(input_signature=whole)
    def serving_default(item, category, length, target_item, target_category):
        history = {"item": item, "category": category}
        target = {"item": target_item, "category": target_category}
        index, attention = model.find(history, length, target)
        there = index >= 0
        behavior = {
            name: tf.where(
                there, tf.gather(ids, tf.maximum(index, 0), batch_dims=1), tf.constant(0, tf.int64)
            )
            for name, ids in history.items()
        }
        position = tf.where(there, length[:, None, None] - index, 0)
        probability = model.judge(target, behavior, position, attention)
        return {"probability": probability, "behavior_index": index, "attention_score": attention}

    return {"search": search, "score": score, "serving_default": serving_default}


def write_warmup(path):
    example = one_request(
        {"item": item_ids()[:6], "category": category_ids()[:6]},
        {"item": item_ids()[:2], "category": category_ids()[:2]},
    )
    scored = score_inputs(example, np.zeros([1, 2, K], np.int32), np.zeros([1, 2, K], np.float32))
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for name, inputs in (("search", example), ("score", scored), ("serving_default", example)):
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(to_proto(value))
            writer.write(log.SerializeToString())


def main(specs):
    for spec in specs:
        path, seed = spec.rsplit(":", 1)
        with tempfile.TemporaryDirectory() as scratch:
            model = Small(scratch, int(seed))
            tf.saved_model.save(model, path, signatures=signatures(model))
        write_warmup(os.path.join(path, "assets.extra", "tf_serving_warmup_requests"))


if __name__ == "__main__":
    main(sys.argv[1:])
