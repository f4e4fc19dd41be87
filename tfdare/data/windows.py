"""Joins many users' records into flat arrays and cuts the windows of requests out of them.

The packed bytes of many users are joined and decoded at once into flat arrays. A request is a few
indices into these, so that a shuffle moves only indices, and a batch of windows is one gather.
"""

from __future__ import annotations

from tfdare.compat import tf
from tfdare.schema import MAX_GAP, OOV_ID, Schema
from tfdare.sequences.record import ARRAY_DTYPES, REQUEST_TIME, WEIGHT, context_dtypes

_DTYPES = {"<i8": tf.int64, "<i4": tf.int32, "u1": tf.uint8, "<f4": tf.float32}


class Cutter:
    """Turns serialized records into batches of requests: :meth:`parse`, :meth:`join`, :meth:`cut`.

    Args:
        schema: Schema. Of the records.
        window: int. N, behaviors of history that a request keeps.
        facts: bool. Whether requests carry the user and how often targets repeat; that needs
            whole histories, which otherwise are trimmed to the behaviors inside windows.
    """

    def __init__(self, schema: Schema, window: int, facts: bool):
        self._schema, self._window, self._facts = schema, window, facts
        self._width = {feature.name: feature.max_values for feature in schema.features}
        self._context = context_dtypes(schema.context)
        self._context_width = {part.name: getattr(part, "max_values", 1) for part in schema.context}
        self._counted = [name for name, width in self._width.items() if width == 1]

    def from_lists(self, data):
        """Converts a serialized record of int64 and float lists to the bytes of a packed one.

        Args:
            data: string ``[]``.

        Returns:
            Bytes of its arrays by name, string ``[]`` each.
        """
        kinds = self._kinds()
        parsed = tf.io.parse_single_example(
            data,
            {
                name: tf.io.FixedLenFeature([], tf.string)
                if kind is None
                else tf.io.FixedLenSequenceFeature(
                    [], tf.float32 if kind == tf.float32 else tf.int64, allow_missing=True
                )
                for name, kind in kinds.items()
            },
        )
        return {
            name: parsed[name] if kind is None else _as_bytes(tf.cast(parsed[name], kind))
            for name, kind in kinds.items()
        }

    def parse(self, data):
        """Parses serialized records into the bytes of their arrays.

        Args:
            data: string ``[B]``, or what :meth:`from_lists` gives for them.

        Returns:
            Bytes of the arrays by name, string ``[B]`` each, and int32 ``[B]``: how many of the
            oldest behaviors were left out of the histories, because no window reaches them.

        Raises (when run):
            InvalidArgumentError: arrays of a record have inconsistent lengths.
        """
        parsed = self._parse(data)
        users = tf.shape(parsed["label"])[0]
        length = tf.strings.length(parsed[f"history_{self._schema.item.name}"]) // 4
        positions = tf.strings.length(parsed["position"]) // 4
        candidates = tf.strings.length(parsed["label"])
        position = _joined(parsed["position"], tf.int32)
        user = tf.repeat(tf.range(users), positions)
        newest = tf.math.unsorted_segment_max(position, user, users)
        newest = tf.where(positions > 0, newest, 0)
        oldest = tf.math.unsorted_segment_min(position, user, users)
        with tf.control_dependencies(
            self._checks(parsed, length, positions, candidates, position, user, newest, oldest)
        ):
            cut = tf.maximum(tf.where(positions > 0, oldest, 0) - self._window, 0)
        if self._facts:
            return parsed, tf.zeros_like(cut)
        kept = newest - cut
        for name, width in self._history_bytes():
            parsed[name] = tf.strings.substr(parsed[name], cut * width, kept * width)
        return parsed, cut

    def join(self, parsed, cut, seed=None, shuffle=False, shorten=0.0):
        """Joins the bytes of several users into flat arrays, and computes their requests.

        Args:
            parsed, cut: what :meth:`parse` returns.
            seed: int64 scalar. Needed to shuffle or shorten.
            shuffle: bool. Whether the requests come in random order.
            shorten: float. Share of requests whose history is cut to a random, small length.

        Returns:
            ``(flat, request)``: arrays of all users, and arrays ``[R]`` of all requests, among
            them the indices into `flat` between which their histories and targets lie.
        """
        schema = self._schema
        flat = {side: self._side(parsed, side) for side in ("history", "target")}
        flat["label"] = _zero_padded(_joined(parsed["label"], tf.uint8))
        if schema.sample_weights:
            flat["weight"] = _zero_padded(_joined(parsed["weight"], tf.float32))
        length = tf.strings.length(parsed[f"history_{schema.item.name}"]) // 4
        start = tf.cumsum(length, exclusive=True)
        position = _joined(parsed["position"], tf.int32)
        user = tf.repeat(tf.range(tf.size(start)), tf.strings.length(parsed["position"]) // 4)
        target_length = _joined(parsed["target_length"], tf.int32)
        request = {
            "end": tf.gather(start - cut, user) + position,
            "history_length": self._history_length(position, seed, shorten),
            "target_start": tf.cumsum(target_length, exclusive=True),
            "target_length": target_length,
        }
        if schema.time_gap is not None:
            flat["history_time"] = _zero_padded(_joined(parsed["history_time"], tf.int64))
            request["request_time"] = _joined(parsed["request_time"], tf.int64)
        for name, kind in self._context.items():
            request[f"context_{name}"] = _joined(
                parsed[f"context_{name}"], _DTYPES[kind], self._context_width[name]
            )
        if self._facts:
            flat["user"] = parsed["user"]
            request["user"] = user
            request["first"] = tf.gather(start, user)  # histories are not trimmed: `cut` is 0
            for name in self._counted:
                flat[f"keys_{name}"] = _count_keys(_joined(parsed[f"history_{name}"], tf.int32))
        if shuffle:
            mixed = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(position)), tf.stack([seed, tf.zeros_like(seed)])
            )
            request = {name: tf.gather(values, mixed) for name, values in request.items()}
        return flat, request

    def _history_length(self, position, seed, shorten):
        """Returns how many behaviors requests keep: all in the window, or 0, 1, 2, 4, ... ."""
        length = tf.minimum(position, self._window)
        if not shorten:
            return length
        lengths = [0, *(1 << power for power in range((self._window - 1).bit_length()))]
        draw = tf.random.stateless_uniform(tf.shape(length), tf.stack([seed, tf.ones_like(seed)]))
        drawn = tf.gather(lengths, tf.cast(draw / shorten * len(lengths), tf.int32) % len(lengths))
        return tf.where(draw < shorten, tf.minimum(length, drawn), length)

    def cut(self, flat, request):
        """Gathers the tensors of requests from flat arrays.

        Args:
            flat, request: what :meth:`join` returns; `request` may be a slice of the requests.

        Returns:
            ``(requests, label, weight)``, as :func:`tfdare.data.read_requests` describes them.
        """
        schema = self._schema
        length, target_length = request["history_length"], request["target_length"]
        requests = {"history_length": length, "target_length": target_length}
        behavior, real = _windows(request["end"] - length, length, self._window, flat["history"])
        target, candidate = _windows(
            request["target_start"], target_length, schema.max_candidates, flat["target"]
        )
        for side, index in (("history", behavior), ("target", target)):
            columns = tf.split(tf.gather(flat[side], index), list(self._width.values()), axis=-1)
            for (name, width), values in zip(self._width.items(), columns):
                requests[f"{side}_{name}"] = tf.squeeze(values, -1) if width == 1 else values
        if schema.time_gap is not None:
            time = tf.gather(flat["history_time"], behavior)
            gap = tf.clip_by_value(request["request_time"][:, tf.newaxis] - time, 0, MAX_GAP)
            requests["history_time_gap"] = tf.where(real, tf.cast(gap, tf.int32), 0)
        for name in self._context:
            requests[f"context_{name}"] = request[f"context_{name}"]
        if self._facts:
            requests["user"] = tf.gather(flat["user"], request["user"])
            for name in self._counted:
                requests[f"target_repeats_{name}"] = _repeats(
                    flat[f"keys_{name}"],
                    request["first"],
                    request["end"],
                    requests[f"target_{name}"],
                )
        label = tf.cast(tf.gather(flat["label"], target), tf.float32)
        weight = tf.cast(candidate, tf.float32)
        if schema.sample_weights:
            weight = tf.gather(flat["weight"], target)  # padding points to the zero at the end
        return requests, label, weight

    def _side(self, parsed, side):
        """Joins all features of history or target side by side, ``[total + 1, values]``, so that
        one gather takes them all."""
        columns = [
            tf.reshape(_joined(parsed[f"{side}_{name}"], tf.int32), [-1, width])
            for name, width in self._width.items()
        ]
        return _zero_padded(tf.concat(columns, axis=1))

    def _parse(self, data):
        if isinstance(data, dict):
            return data
        return tf.io.parse_example(
            data, {name: tf.io.FixedLenFeature([], tf.string) for name in self._kinds()}
        )

    def _kinds(self):
        """Returns the dtype of each array of a record that is read, by name; None for the user."""
        schema = self._schema
        kinds = {f"{side}_{name}": "<i4" for side in ("history", "target") for name in schema.names}
        kinds |= {name: kind for name, kind in ARRAY_DTYPES.items() if name != "history_time"}
        if schema.time_gap is not None:
            kinds |= {"history_time": ARRAY_DTYPES["history_time"], "request_time": REQUEST_TIME}
        if schema.sample_weights:
            kinds["weight"] = WEIGHT
        kinds |= {f"context_{name}": kind for name, kind in self._context.items()}
        kinds = {name: _DTYPES[kind] for name, kind in kinds.items()}
        return {**kinds, "user": None} if self._facts else kinds

    def _history_bytes(self):
        """Yields the name of each array with a value per behavior, and the bytes of a behavior."""
        for name, width in self._width.items():
            yield f"history_{name}", 4 * width
        if self._schema.time_gap is not None:
            yield "history_time", _DTYPES[ARRAY_DTYPES["history_time"]].size

    def _checks(self, parsed, length, positions, candidates, position, user, newest, oldest):
        """Asserts consistent lengths; a wrong one would shift the arrays of the users after it."""
        expected = {name: length * width for name, width in self._history_bytes()}
        expected["position"] = expected["target_length"] = positions * 4
        for name, width in self._width.items():
            expected[f"target_{name}"] = candidates * 4 * width
        if self._schema.time_gap is not None:
            expected["request_time"] = positions * _DTYPES[REQUEST_TIME].size
        if self._schema.sample_weights:
            expected["weight"] = candidates * _DTYPES[WEIGHT].size
        for name, width in self._context_width.items():
            expected[f"context_{name}"] = positions * 4 * width
        checks = [
            tf.debugging.assert_equal(
                tf.strings.length(parsed[name]),
                size,
                message=f"Damaged record: {name!r} is not as long as the others say",
            )
            for name, size in expected.items()
        ]
        with tf.control_dependencies(checks):
            target_length = _joined(parsed["target_length"], tf.int32)
        falling = (position[1:] < position[:-1]) & (user[1:] == user[:-1])
        total = tf.math.unsorted_segment_sum(target_length, user, tf.size(length))
        return [
            *checks,
            tf.debugging.assert_less_equal(
                target_length,
                self._schema.max_candidates,
                message="A request has more candidates than the schema's max_candidates",
            ),
            tf.debugging.assert_non_negative(
                target_length, message="Damaged record: a request has less than no candidates"
            ),
            tf.debugging.assert_equal(
                total,
                candidates,
                message="Damaged record: the sum of target_length is not the number of labels",
            ),
            tf.debugging.assert_less_equal(
                newest, length, message="Damaged record: a position is beyond the history"
            ),
            tf.debugging.assert_non_negative(
                oldest, message="Damaged record: a position is negative"
            ),
            tf.debugging.assert_none_equal(falling, True, message="Damaged record: positions fall"),
        ]


def _as_bytes(values):
    """Returns an array's bytes as a string scalar: the end of its serialized form."""
    size = tf.size(values) * values.dtype.size
    return tf.strings.substr(tf.io.serialize_tensor(values), -size, size)


def _joined(data, dtype, width=1):
    """Decodes the bytes of many users, string ``[B]``: ``[total]``, or ``[total, width]``."""
    values = tf.io.decode_raw(tf.strings.reduce_join(data), dtype)
    return values if width == 1 else tf.reshape(values, [-1, width])


def _zero_padded(values):
    """Appends a zero, which the padding of windows points to."""
    return tf.pad(values, [[0, 1]] + [[0, 0]] * (values.shape.rank - 1))


def _windows(start, length, width, values):
    """Computes the indices ``start .. start + length - 1`` of the values, int32 ``[R, width]``,
    padded with the index of the last value, a zero; and bool ``[R, width]``: not padding."""
    offset = tf.range(width)[tf.newaxis, :]
    real = offset < length[:, tf.newaxis]
    return tf.where(real, start[:, tf.newaxis] + offset, tf.shape(values)[0] - 1), real


def _count_keys(history):
    """Sorts behaviors by (id, index), as int64 keys: two binary searches then count an id's
    behaviors between two indices."""
    size = tf.size(history, tf.int64)
    return tf.sort(tf.cast(history, tf.int64) * size + tf.range(size))


def _repeats(keys, start, stop, target):
    """Counts how often each target ``[R, C]`` occurs from ``start[r]`` to before ``stop[r]``."""
    base = tf.cast(target, tf.int64) * tf.size(keys, tf.int64)
    lower = base + tf.cast(start, tf.int64)[:, tf.newaxis]
    upper = base + tf.cast(stop, tf.int64)[:, tf.newaxis]
    bounds = tf.searchsorted(keys, tf.reshape(tf.stack([lower, upper]), [-1]))
    bounds = tf.reshape(bounds, tf.concat([[2], tf.shape(target)], 0))
    known = tf.cast(target > OOV_ID, tf.int32)  # many ids share row OOV_ID
    return tf.ensure_shape((bounds[1] - bounds[0]) * known, target.shape)
