"""The signatures of an exported model, over raw ids of the log or over row ids."""

from __future__ import annotations

from collections.abc import Mapping

from tfdare.compat import raw, tf
from tfdare.errors import UsageError
from tfdare.layers.embedding import TIME_GAP
from tfdare.layers.top_k import select
from tfdare.models import RequestModel, TwoStageModel
from tfdare.schema import FIRST_ID, OOV_ID, PADDING_ID, CategoricalContext, Feature, Schema
from tfdare.schema.id_hash import FINGERPRINTS, GOLDEN, MULTIPLIERS, NO_TEXTS, SHIFTS
from tfdare.sequences import Sequences
from tfdare.sequences.requests import NO_VALUE, no_value

SEARCH, SCORE, DEFAULT = "search", "score", "serving_default"
"""Names of the signatures."""


class ServingModule(tf.Module):
    """The contents of the SavedModel: raw variables, vocabularies, functions.

    A model of two stages has the signatures ``search``, ``score`` and ``serving_default``, one
    without search only the last. The Keras model itself is not an attribute: Keras 3 would store
    its variables twice, and a server would never restore the copy that the signatures read.

    Args:
        model: RequestModel.
        vocabularies: Sequences or None. The folder of the vocabulary files; None makes signatures
            over row ids.
        only: str or None. A single signature; the module then holds only the variables that this
            signature reads.

    Attributes:
        signatures_by_name: mapping of name to concrete function.

    Raises:
        SchemaError: a feature, or a categorical context feature, has no vocabulary file.
    """

    def __init__(
        self, model: RequestModel, vocabularies: Sequences | None, only: str | None = None
    ):
        super().__init__(name="tfdare")
        instead = model.embedding.reader.compact
        weights = [] if only else [raw(weight) for weight in model.weights]
        self.model_variables = [weight for weight in weights if id(weight) not in instead]
        raw_ids = vocabularies is not None
        specs = signature_inputs(model, raw_ids)
        if only:
            specs = {only: specs[only]}
        parts = id_inputs(model.schema)
        names = {parts[key].name for inputs in specs.values() for key in inputs if key in parts}
        self.lookups = {}
        if vocabularies is not None:
            self.lookups = {
                part.name: _lookup(vocabularies.vocabulary_path(part.name), part.dtype)
                for part in model.schema.categorical
                if part.name in names and not part.hash_buckets
            }
        functions = _functions(model, self.lookups, raw_ids)
        self.signatures_by_name = {
            name: tf.function(functions[name], autograph=False).get_concrete_function(**inputs)
            for name, inputs in specs.items()
        }
        held = {id(variable) for variable in self.model_variables}
        for function in self.signatures_by_name.values():
            for variable in function.graph.variables:
                if id(variable) not in held:
                    held.add(id(variable))
                    self.model_variables.append(variable)


def check_separable(model: RequestModel) -> None:
    """Checks that search and score read different variables, so that each can be served alone.

    Raises:
        UsageError: the model does not search, or both stages read the same variable.
    """
    if not isinstance(model, TwoStageModel):
        raise UsageError(
            f"{model.name!r} pools the whole history and never searches: its stages "
            "cannot be served separately, nor its attention tables be stored in another type"
        )
    read = {
        name: {id(v): v.name for v in ServingModule(model, None, only=name).model_variables}
        for name in (SEARCH, SCORE)
    }
    shared = sorted({read[SEARCH][v].split(":")[0] for v in set(read[SEARCH]) & set(read[SCORE])})
    if shared:
        raise UsageError(
            f"{model.name!r} has tables that attention and representation share "
            f"({', '.join(shared)}), so that the stages cannot be served separately, nor attention "
            "tables be stored in another type. Models with decoupled embeddings, such as DARE, "
            "can."
        )


def id_inputs(schema: Schema) -> dict[str, Feature | CategoricalContext]:
    """Returns the feature of every signature input that holds ids."""
    kinds = dict.fromkeys(schema.names, ("history", "target", "behavior"))
    return {
        f"{kind}_{part.name}": part
        for part in schema.categorical
        for kind in kinds.get(part.name, ("context",))
    }


def signature_inputs(model: RequestModel, raw_ids: bool) -> dict[str, dict[str, tf.TensorSpec]]:
    """Returns names, types and shapes of each signature's inputs.

    U requests, N behaviors, C candidates, K slots of search. Raw ids are int64, or string where
    they are text; row ids are int32. Ids have a last axis of `max_values` where that is more than
    1, padded with -1, an empty text, or 0 (row ids). Raw ids that the vocabulary lacks share one
    row, out of vocabulary; so do -1 and an empty text of a feature of a single value. Context is
    not an input of ``search``, which does not use it.

    Args:
        model: RequestModel.
        raw_ids: bool. Whether the signatures take raw ids.

    Returns:
        Mapping of signature to mapping of input to TensorSpec.
    """
    schema = model.schema

    def spec(name, shape, dtype):
        return {name: tf.TensorSpec(shape, dtype, name)}

    def ids(kind, part, shape):
        values = [part.max_values] if part.max_values > 1 else []
        dtype = tf.as_dtype(part.dtype) if raw_ids else tf.int32
        return spec(f"{kind}_{part.name}", shape + values, dtype)

    def features(kind, shape):
        specs = {}
        for feature in schema.features:
            specs.update(ids(kind, feature, shape))
        return specs

    def time_gap(kind, shape):
        name = f"{kind}_{TIME_GAP}"
        return spec(name, shape, tf.int32) if schema.time_gap is not None else {}

    context = {}
    for part in schema.context:
        if isinstance(part, CategoricalContext):
            context.update(ids("context", part, [None]))
        else:
            context.update(spec(f"context_{part.name}", [None], tf.float32))
    targets = features("target", [None, None])
    search = {
        **features("history", [None, None]),
        **time_gap("history", [None, None]),
        **spec("history_length", [None], tf.int32),
        **targets,
    }
    if not isinstance(model, TwoStageModel):
        return {DEFAULT: {**search, **context}}
    behaviors, mean_score = [None, None, model.search_layer.slots], {}
    if model.needs_mean_score:
        parts = [None, None, model.embedding.attention_part_count]
        mean_score = spec("mean_score", parts, tf.float32)
    score = {
        **targets,
        **features("behavior", behaviors),
        **time_gap("behavior", behaviors),
        **spec("behavior_position", behaviors, tf.int32),
        **spec("attention_score", behaviors, tf.float32),
        **mean_score,
        **context,
    }
    return {SEARCH: search, SCORE: score, DEFAULT: {**search, **context}}


def _functions(model, lookups, raw_ids):
    schema, parts = model.schema, id_inputs(model.schema)

    def rows(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        converted = dict(inputs)
        for key, ids in inputs.items():
            if key in parts:
                part = parts[key]
                converted[key] = (
                    _hashed(ids, part)
                    if raw_ids and part.hash_buckets
                    else _to_rows(ids, lookups.get(part.name), part)
                )
        if "history_length" in inputs:
            behaviors = tf.shape(inputs[f"history_{schema.item.name}"])[1]
            converted["history_length"] = tf.clip_by_value(inputs["history_length"], 0, behaviors)
        return converted

    def search(**inputs):
        outputs = model.search(rows(inputs))
        names = ("behavior_index", "attention_score", "mean_score")
        return {name: outputs[name] for name in names if name in outputs}

    def score(**inputs):
        return {"probability": model.score(rows(inputs))}

    def search_and_score(**inputs):
        outputs = model.search(rows(inputs))
        return {
            "probability": model.score(outputs),
            "behavior_index": outputs["behavior_index"],
            "attention_score": outputs["attention_score"],
        }

    def rank(**inputs):
        return {"probability": model(rows(inputs))}

    if isinstance(model, TwoStageModel):
        return {SEARCH: search, SCORE: score, DEFAULT: search_and_score}
    return {DEFAULT: rank}


def _to_rows(ids, lookup, part):
    if lookup is not None:
        rows = tf.cast(lookup.lookup(ids), tf.int32)
        return _padded(rows, ids, part)
    # tf.gather would fail on any other row id; as unsigned numbers, negative ones are too large.
    known = tf.bitcast(ids, tf.uint32) < tf.constant(part.vocabulary_size, tf.uint32)
    return select(known, ids, tf.fill(tf.shape(ids), OOV_ID))


def _hashed(ids, part):
    """Computes :func:`tfdare.schema.id_hash.hash_rows` in the graph, in int64 that wraps around."""

    def shifted(x, bits):  # as unsigned: zeros enter from the left
        return tf.bitwise.bitwise_and(
            tf.bitwise.right_shift(x, tf.constant(bits, tf.int64)),
            tf.constant((1 << (64 - bits)) - 1, tf.int64),
        )

    def signed(number):
        return tf.constant(number - (1 << 64) if number >= 1 << 63 else number, tf.int64)

    texts = ids
    if ids.dtype == tf.string:  # tfdare.schema.id_hash.fingerprint
        ids = tf.strings.to_hash_bucket_fast(texts, FINGERPRINTS)
        nothing = (texts == NO_TEXTS[0]) | (texts == NO_TEXTS[1])
        ids = tf.where(nothing, tf.constant(NO_VALUE, tf.int64), ids)
    x = ids + signed(GOLDEN)
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS):
        x = tf.bitwise.bitwise_xor(x, shifted(x, shift)) * signed(multiplier)
    x = tf.bitwise.bitwise_xor(x, shifted(x, SHIFTS[2]))
    rows = tf.math.floormod(shifted(x, 1), tf.constant(part.hash_buckets, tf.int64)) + FIRST_ID
    rows = tf.cast(tf.where(ids < 0, tf.constant(OOV_ID, tf.int64), rows), tf.int32)
    return _padded(rows, texts, part)


def _padded(rows, ids, part):
    """Gives padding its row, among the values of a feature that may have several."""
    if part.max_values == 1:
        return rows
    return tf.where(ids == no_value(part), PADDING_ID, rows)


def _lookup(path, dtype):
    initializer = tf.lookup.TextFileInitializer(
        path,
        tf.as_dtype(dtype),
        0,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
        delimiter="\t",
        value_index_offset=FIRST_ID,
    )
    return tf.lookup.StaticHashTable(initializer, default_value=OOV_ID)
