"""The three signatures of an exported model, over raw ids of the log or over row ids."""

from __future__ import annotations

from typing import Mapping

from tfdare.compat import raw, tf
from tfdare.models import TwoStageModel
from tfdare.schema import FIRST_ID, OOV_ID
from tfdare.sequences import Sequences

SEARCH, SCORE, DEFAULT = "search", "score", "serving_default"


class ServingModule(tf.Module):
    """What goes into the SavedModel: the model's raw variables, the vocabularies, three functions.

    The Keras model itself stays outside: tracked, Keras 3 would store its variables twice, and
    the copy that the signatures read would never be restored by a server.

    Args:
        model: TwoStageModel.
        vocabularies: Sequences or None. Where the vocabulary files lie; None makes signatures
            over row ids.
    """

    def __init__(self, model: TwoStageModel, vocabularies: Sequences | None):
        super().__init__(name="tfdare")
        self.model_variables = [raw(weight) for weight in model.weights]
        self.lookups = {}
        if vocabularies is not None:
            self.lookups = {
                name: _lookup(vocabularies.vocabulary_path(name)) for name in model.schema.names
            }
        functions = _functions(model, self.lookups)
        specs = signature_inputs(model, tf.int64 if self.lookups else tf.int32)
        self.signatures_by_name = {
            name: tf.function(function, autograph=False).get_concrete_function(**specs[name])
            for name, function in functions.items()
        }


def signature_inputs(model: TwoStageModel, id_dtype) -> dict[str, dict[str, tf.TensorSpec]]:
    """Names, types and shapes of each signature's inputs."""
    names, top_k = model.schema.names, model.search_layer.top_k

    def specs(kind, shape, dtype=id_dtype):
        return {f"{kind}_{name}": tf.TensorSpec(shape, dtype, f"{kind}_{name}") for name in names}

    targets, found = specs("target", [None, None]), [None, None, top_k]
    search = {
        **specs("history", [None, None]),
        "history_length": tf.TensorSpec([None], tf.int32, "history_length"),
        **targets,
    }
    score = {
        **targets,
        **specs("behavior", found),
        "behavior_position": tf.TensorSpec(found, tf.int32, "behavior_position"),
        "attention_score": tf.TensorSpec(found, tf.float32, "attention_score"),
    }
    return {SEARCH: search, SCORE: score, DEFAULT: search}


def _functions(model, lookups):
    sizes = {feature.name: feature.vocabulary_size for feature in model.schema.features}

    def rows(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        converted = dict(inputs)
        for key, ids in inputs.items():
            kind, _, name = key.partition("_")
            if kind in ("history", "target", "behavior") and name in sizes:
                converted[key] = _to_rows(ids, lookups.get(name), sizes[name])
        if "history_length" in inputs:
            behaviors = tf.shape(inputs[f"history_{model.schema.item.name}"])[1]
            converted["history_length"] = tf.clip_by_value(inputs["history_length"], 0, behaviors)
        return converted

    def search(**inputs):
        found = model.search(rows(inputs))
        return {name: found[name] for name in ("behavior_index", "attention_score")}

    def score(**inputs):
        return {"probability": model.score(rows(inputs))}

    def whole(**inputs):
        found = model.search(rows(inputs))
        return {
            "probability": model.score(found),
            "behavior_index": found["behavior_index"],
            "attention_score": found["attention_score"],
        }

    return {SEARCH: search, SCORE: score, DEFAULT: whole}


def _to_rows(ids, lookup, size):
    if lookup is not None:
        return tf.cast(lookup.lookup(ids), tf.int32)
    known = tf.logical_and(ids >= 0, ids < size)  # Gather would fail on any other row
    return tf.where(known, ids, tf.constant(OOV_ID, ids.dtype))


def _lookup(path):
    index = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(
        path, tf.int64, 0, tf.int64, index.LINE_NUMBER, delimiter="\t", value_index_offset=FIRST_ID
    )
    return tf.lookup.StaticHashTable(initializer, default_value=OOV_ID)
