"""Requests that were searched once: the K behaviors of each target, in files that training reads.

Where attention is given, what search finds stays the same during training
(:attr:`tfdare.models.TwoStageModel.searches_once`). A step then needs the K behaviors found, not
the N of the history. ``folder/layout.json`` names the tensors; ``folder/part-*.bin`` hold, for each
request, the 32-bit values of all its tensors, one after the other.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from typing import Any

from tfdare.compat import tf
from tfdare.files import write_json

LAYOUT = "layout.json"
_PARTS = 8
_SHUFFLE_BYTES = 256 << 20
_LABEL, _WEIGHT = "label", "weight"
_LEFT_OUT = "behavior_index"  # no input of the score stage


class NoSpace(OSError):
    """The files would fill more than half of the free disk."""


def write_searched(
    model,
    requests: tf.data.Dataset,
    folder: str,
    report: Callable[[int], None] | None = None,
) -> None:
    """Searches every request once and writes what search found, with labels and weights.

    Args:
        model: TwoStageModel.
        requests: Dataset of ``(requests, label, weight)``, such as
            :func:`tfdare.data.read_requests` gives.
        folder: str. It is replaced; its ``layout.json`` is written last.
        report: function of the number of batches written so far, or None.

    Raises:
        ValueError: the shapes of a request's tensors change between batches.
        NoSpace: the files would fill more than half of the free disk; nothing is left of them.
    """
    if os.path.exists(folder):
        shutil.rmtree(folder)
    os.makedirs(folder)
    layout: dict[str, Any] = {}

    @tf.function(reduce_retracing=True)
    def search(batch, label, weight):
        tensors = {**model.search(batch), _LABEL: label, _WEIGHT: weight}
        tensors.pop(_LEFT_OUT)
        columns = []
        for name, tensor in sorted(tensors.items()):
            if tensor.shape[1:].num_elements() is None:
                raise ValueError(
                    f"`{name}` must have the same shape in all requests. Received: {tensor.shape}"
                )
            layout[name] = {
                "shape": tensor.shape[1:].as_list(),
                "dtype": "float32" if tensor.dtype.is_floating else "int32",
            }
            values = tf.cast(tensor, layout[name]["dtype"])
            columns.append(tf.reshape(tf.bitcast(values, tf.int32), [tf.shape(values)[0], -1]))
        return tf.concat(columns, axis=1)

    rows, batch_size, files = 0, None, []
    try:
        for number, (batch, label, weight) in enumerate(requests):
            if number < _PARTS:
                files.append(open(os.path.join(folder, f"part-{number:05}.bin"), "wb"))
            values = search(batch, label, weight).numpy()
            files[number % _PARTS].write(values.tobytes())
            if batch_size is None:
                batch_size = len(values)
                _check_space(folder, values.nbytes * len(requests))
            rows += len(values)
            if report is not None:
                report(number + 1)
    except NoSpace:
        shutil.rmtree(folder)
        raise
    finally:
        for file in files:
            file.close()
    write_json(
        os.path.join(folder, LAYOUT),
        {"requests": rows, "batch_size": batch_size, "tensors": layout},
    )


def read_searched(
    folder: str, batch_size: int, *, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Reads what :func:`write_searched` wrote, batched for ``model.fit``.

    Args:
        folder: str.
        batch_size: int. Requests in a batch.
        shuffle: bool. Whether requests come in random order, another one in every epoch: as many
            are shuffled together as fit into 256 MiB. Defaults to False: the order of writing.
        seed: int. Seed of the shuffle.

    Returns:
        Dataset of ``(inputs, label, weight)``: inputs of :meth:`tfdare.models.TwoStageModel.score`,
        which the model takes in the place of requests.
    """
    with open(os.path.join(folder, LAYOUT), encoding="utf-8") as file:
        content = json.load(file)
    layout = {name: content["tensors"][name] for name in sorted(content["tensors"])}
    widths = [math.prod(part["shape"]) for part in layout.values()]
    record = 4 * sum(widths)
    parts = min(_PARTS, -(-content["requests"] // content["batch_size"]))
    paths = [os.path.join(folder, f"part-{number:05}.bin") for number in range(parts)]
    files = tf.data.Dataset.from_tensor_slices(paths)
    if shuffle:
        files = files.shuffle(parts, seed=seed)
    rows = files.interleave(
        lambda path: tf.data.FixedLengthRecordDataset(path, record),
        cycle_length=parts,
        block_length=content["batch_size"],
    )
    if shuffle:
        pool = max(min(_SHUFFLE_BYTES // record, content["requests"]), 1)
        rows = rows.shuffle(pool, seed=seed + 1)

    def decode(strings):
        values = tf.ensure_shape(tf.io.decode_raw(strings, tf.int32), [None, sum(widths)])
        tensors = {}
        for (name, part), columns in zip(layout.items(), tf.split(values, widths, axis=1)):
            columns = tf.reshape(columns, [-1, *part["shape"]])
            tensors[name] = tf.bitcast(columns, part["dtype"])
        return tensors, tensors.pop(_LABEL), tensors.pop(_WEIGHT)

    count = -(-content["requests"] // batch_size)
    batches = rows.batch(batch_size).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)


def _check_space(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free / 2:
        raise NoSpace(
            f"What search returns needs {needed / 1e9:,.1f} GB, more than half of the "
            f"{free / 1e9:,.1f} GB that are free at {folder!r}"
        )
