"""From a folder of sequences to batched requests for ``model.fit``."""

from __future__ import annotations

import os

from tfdare.compat import tf
from tfdare.record import PACKED
from tfdare.schema import OOV_ID, Schema, SchemaError
from tfdare.sequences import Sequences, open_sequences

_DTYPES = {"<i8": tf.int64, "<i4": tf.int32, "u1": tf.uint8}


def read_requests(
    sequences: str | os.PathLike | Sequences,
    split: str,
    batch_size: int,
    *,
    window: int | None = None,
    digest: str | None = None,
    shuffle: int = 0,
    seed: int = 0,
    with_history_facts: bool = False,
) -> tf.data.Dataset:
    """Requests of one split, as ``model.fit`` takes them.

    Args:
        sequences: path or Sequences. A finished folder.
        split: str. ``"train"``, ``"validation"`` or ``"test"``.
        batch_size: int. U, requests a batch. Each brings its own candidates: 683 requests with one
            positive and two negatives are 2,049 examples.
        window: int or None. N, behaviors of history to keep. Defaults to the schema's.
        digest: str or None. `Schema.digest` that the folder must have, a trained model's say.
        shuffle: int. Requests in the shuffle buffer; 0 keeps the order of the files.
        seed: int. Of the shuffle; each epoch's order differs, each run's is the same.
        with_history_facts: bool. Adds ``user`` (string ``[U]``) and, for every feature,
            ``target_repeats_<feature>`` (int32 ``[U, C]``): how often the target's value occurs
            in the user's *whole* earlier history (0 where it is out of vocabulary), for evaluation
            by slices.

    Returns:
        Dataset of ``(requests, label, weight)``: tensors named and shaped as DESIGN's request
        layout (int32 row ids; history padded at the end to N, candidates to C), float32 ``[U, C]``
        label, and float32 ``[U, C]`` weight, 0 on padded candidates.

    Raises:
        SchemaError: the folder is unfinished or has another digest, no such split, or `window`
            exceeds the schema's.
    """
    if not isinstance(sequences, Sequences):
        sequences = open_sequences(os.fspath(sequences), digest)
    elif digest not in (None, sequences.schema.digest):
        raise SchemaError(f"Digest {digest[:12]} asked, {sequences.schema.digest[:12]} found.")
    schema = sequences.schema
    window = schema.window if window is None else window
    if not 1 <= window <= schema.window:
        raise SchemaError(f"`window` must be 1 to {schema.window}. Received: window={window}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")

    files = tf.data.Dataset.from_tensor_slices(sequences.files(split))
    if shuffle:
        files = files.shuffle(1024, seed=seed)
    records = files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=8,
        block_length=4,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    requests = records.map(
        lambda data: _requests_of_user(data, schema, window, with_history_facts),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).unbatch()
    if shuffle:
        requests = requests.shuffle(shuffle, seed=seed)
    batches = requests.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # The manifest knows how many there are, so that progress bars and Keras do, too.
    count = -(-sequences.requests(split) // batch_size)
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(tf.data.AUTOTUNE)


def _requests_of_user(data, schema: Schema, window: int, with_history_facts: bool):
    """One user's record as stacked requests, ``[R, ...]``."""
    record = _parse(data, schema)
    position = record["position"]
    length = tf.minimum(position, window)
    index = (position - length)[:, tf.newaxis] + tf.range(window)[tf.newaxis, :]
    real = tf.range(window)[tf.newaxis, :] < length[:, tf.newaxis]
    requests = {"history_length": length, "target_length": record["target_length"]}
    for name in schema.names:
        history = record[f"history_{name}"]
        padded = tf.pad(history, [[0, window]])
        requests[f"history_{name}"] = tf.where(real, tf.gather(padded, index), 0)
        requests[f"target_{name}"] = _by_request(record[f"target_{name}"], record, schema)
    label = tf.cast(_by_request(record["label"], record, schema), tf.float32)
    weight = tf.sequence_mask(record["target_length"], schema.max_candidates, tf.float32)
    if with_history_facts:
        requests["user"] = tf.repeat(record["user"], tf.size(position))
        for name in schema.names:
            requests[f"target_repeats_{name}"] = _repeats(
                record[f"history_{name}"], position, requests[f"target_{name}"]
            )
    return requests, label, weight


def _parse(data, schema: Schema):
    kinds = {f"{kind}_{name}": "<i4" for kind in ("history", "target") for name in schema.names}
    kinds.update(PACKED)
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in [*kinds, "user"]}
    parsed = tf.io.parse_single_example(data, features)
    record = {name: tf.io.decode_raw(parsed[name], _DTYPES[kind]) for name, kind in kinds.items()}
    record["user"] = parsed["user"]
    tf.debugging.assert_less_equal(
        record["target_length"], schema.max_candidates,
        message="A request has more candidates than the schema's max_candidates",
    )
    return record


def _by_request(flat, record, schema: Schema):
    """Candidates that follow each other, as ``[R, C]`` padded at the end."""
    ragged = tf.RaggedTensor.from_row_lengths(flat, record["target_length"])
    return ragged.to_tensor(shape=[None, schema.max_candidates])


def _repeats(history, position, target):
    """How often each target ``[R, C]`` occurs among the first ``position[R]`` behaviors."""
    length = tf.size(history, tf.int64)
    # Sorted by (id, place), an id's behaviors before a position lie between two bounds.
    keys = tf.sort(tf.cast(history, tf.int64) * (length + 1) + tf.range(length))
    lower = tf.cast(target, tf.int64) * (length + 1)
    upper = lower + tf.cast(position, tf.int64)[:, tf.newaxis]
    bounds = tf.searchsorted(keys, tf.reshape(tf.stack([lower, upper]), [-1]))
    bounds = tf.reshape(bounds, tf.concat([[2], tf.shape(target)], 0))
    known = tf.cast(target > OOV_ID, tf.int32)  # who knows which items share the unknown row
    return tf.ensure_shape((bounds[1] - bounds[0]) * known, target.shape)
