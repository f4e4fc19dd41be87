"""Reads batched requests for ``model.fit`` from a folder of sequences."""

from __future__ import annotations

import os

from tfdare.compat import tf
from tfdare.data.windows import Cutter
from tfdare.schema import LISTS, SchemaError
from tfdare.sequences import Sequences, open_sequences
from tfdare.sequences.record import GZIP_SUFFIX

SHUFFLE_BYTES = 256 << 20
_PARSED_USERS = 32  # users that are parsed at once
_REQUEST_BYTES = 64  # bytes of a request in memory, without its user's history


def read_requests(
    sequences: str | os.PathLike | Sequences,
    split: str,
    batch_size: int,
    *,
    window: int | None = None,
    digest: str | None = None,
    shuffle: int | bool = 0,
    seed: int = 0,
    shorten: float = 0.0,
    with_history_facts: bool = False,
) -> tf.data.Dataset:
    """Reads the requests of one split, batched for ``model.fit``.

    Args:
        sequences: path or Sequences. A finished folder.
        split: str. ``"train"``, ``"validation"`` or ``"test"``.
        batch_size: int. U, requests in a batch. Each has its own candidates: 683 requests with one
            positive and two negatives are 2,049 examples.
        window: int or None. N, behaviors of history to keep. Defaults to the schema's.
        digest: str or None. `Schema.digest` that the folder must have, such as a trained model's.
        shuffle: int or bool. About how many requests are shuffled together: users are read until
            they have that many, and their requests come in random order. Their histories are held
            in memory as far back as windows reach, for two such pools, as the next one is read
            meanwhile. True takes as many as fit into 256 MiB: the last users of an epoch influence
            the model most, and a small pool gives a worse model. 0 keeps the order of the files.
        seed: int. Seed of the shuffle. The order differs between epochs, not between runs.
        shorten: float. Share of requests that keep only their 0, 1, 2, 4, ... newest behaviors,
            each number as often, so that a model also learns from short histories. Defaults to 0.
        with_history_facts: bool. Adds ``user`` (string ``[U]``) and, for every feature of one
            value, ``target_repeats_<feature>`` (int32 ``[U, C]``): how often the target's value
            occurs in the user's *whole* earlier history (0 where it is out of vocabulary), for
            evaluation by slices. Whole histories are then in memory.

    Returns:
        Dataset of ``(requests, label, weight)``. ``requests`` holds int32 row ids
        ``history_<feature>`` ``[U, N]`` and ``target_<feature>`` ``[U, C]``, padded with 0 at the
        end (one axis more for features of several values), ``history_length`` and
        ``target_length`` ``[U]``; if the schema has a time gap, int32 ``history_time_gap``
        ``[U, N]``, request time minus behavior time in the log's unit, clipped to 0 .. 2^31 - 1,
        0 where there is no behavior; for its context ``context_<name>``, int32 ``[U]`` (or
        ``[U, max_values]``) or float32 ``[U]``, NaN where unknown. Label and weight are float32
        ``[U, C]``, the weight 0 on padded candidates, elsewhere the candidate's own
        (`Schema.sample_weights`) or 1. Iteration raises ``InvalidArgumentError``
        at a record whose arrays have inconsistent lengths.

    Raises:
        SchemaError: the folder is unfinished or has another digest, no such split, or `window`
            exceeds the schema's.
    """
    if not isinstance(sequences, Sequences):
        sequences = open_sequences(os.fspath(sequences), digest)
    elif digest not in (None, sequences.schema.digest):
        raise SchemaError(
            f"`digest` is {digest[:12]}, but that of `sequences` is {sequences.schema.digest[:12]}."
        )
    schema = sequences.schema
    window = schema.window if window is None else window
    if not 1 <= window <= schema.window:
        raise SchemaError(f"`window` must be 1 to {schema.window}. Received: window={window}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")

    if not 0 <= shorten < 1:
        raise ValueError(f"`shorten` must be in [0, 1). Received: shorten={shorten}")

    if shuffle is True:
        shuffle = _requests_that_fit(sequences, split)
    cutter = Cutter(schema, window, with_history_facts)
    names = sequences.files(split)
    packed = "GZIP" if names[0].endswith(GZIP_SUFFIX) else ""
    files = tf.data.Dataset.from_tensor_slices(names)
    if shuffle:
        files = files.shuffle(1024, seed=seed)
    records = files.interleave(
        lambda name: tf.data.TFRecordDataset(name, compression_type=packed),
        cycle_length=8,
        block_length=4,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    several = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    if schema.encoding == LISTS:
        records = records.map(cutter.from_lists, **several)
    users = records.batch(_PARSED_USERS).map(cutter.parse, **several)
    pool = _users_per_pool(sequences, split, shuffle or 4 * batch_size)
    if with_history_facts and not shuffle:
        pool = min(pool, _PARSED_USERS)  # whole histories are sorted to count in them
    users = users.rebatch(pool)
    if shuffle or shorten:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        pools = tf.data.Dataset.zip((users, seeds)).map(
            lambda users, seed: cutter.join(users[0], users[1], seed, bool(shuffle), shorten)
        )
    else:
        pools = users.map(cutter.join)
    slices = pools.prefetch(1).flat_map(lambda flat, request: _slices(flat, request, batch_size))
    requests = slices.map(cutter.cut, **several).rebatch(batch_size)
    # Keras and its progress bars need the number of batches, which the manifest gives.
    count = -(-sequences.requests(split) // batch_size)
    batches = requests.apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(tf.data.AUTOTUNE)


def _requests_that_fit(sequences: Sequences, split: str) -> int:
    """Returns how many requests of average size fit twice into :data:`SHUFFLE_BYTES`."""
    mean = sequences.bytes(split) / max(sequences.requests(split), 1) + _REQUEST_BYTES
    return max(1, int(SHUFFLE_BYTES / 2 / mean))


def _users_per_pool(sequences: Sequences, split: str, requests: int) -> int:
    """Returns how many users have about `requests` requests, by the manifest's mean."""
    users = max(sequences.users(split), 1)
    mean = max(sequences.requests(split) / users, 1e-9)
    return int(min(max(-(-requests // mean), 1), users))


def _slices(flat, request, size: int):
    """Splits a pool's requests into slices of `size`, each with the arrays of the whole pool."""
    count = tf.size(request["end"], tf.int64)
    starts = tf.data.Dataset.range(0, count, size)
    return starts.map(
        lambda start: (flat, {n: values[start : start + size] for n, values in request.items()})
    )
