"""Look-ups of one training step put together, so that each table is read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfdare.compat import raw, tf


class Together:
    """Reads each table once for all ids that are asked of it, whoever asks, and how often.

    One read has one gradient: it names rows once for history and targets, and in the same order
    for every table of a feature, so that an optimizer finds their duplicates once for all.

    Args:
        groups: iterable of sequences of int tensors. Whatever table is asked for one of a group's
            ids is asked for the others', too. Tensors are known by identity.
    """

    def __init__(self, groups: Iterable[Sequence[tf.Tensor]]):
        self._groups = [list(group) for group in groups]
        self._flat = [
            tf.concat([tf.cast(tf.reshape(ids, [-1]), group[0].dtype) for ids in group], axis=0)
            for group in self._groups
        ]
        self._rows: dict[tuple[int, int], list[tf.Tensor]] = {}

    def rows(self, table, ids: tf.Tensor) -> tf.Tensor | None:
        """Rows ``[..., D]`` of a table, or None where `ids` are in no group."""
        for number, group in enumerate(self._groups):
            for place, known in enumerate(group):
                if known is ids:
                    return self._read(table, number)[place]
        return None

    def _read(self, table, number):
        group, key = self._groups[number], (id(table), number)
        if key not in self._rows:
            rows = tf.gather(raw(table), self._flat[number])
            # Split along the first axis: no copies.
            parts = tf.split(rows, [tf.size(ids) for ids in group], axis=0)
            self._rows[key] = [
                tf.reshape(part, tf.concat([tf.shape(ids), tf.shape(part)[1:]], axis=0))
                for part, ids in zip(parts, group)
            ]
            for one, ids in zip(self._rows[key], group):
                one.set_shape([*ids.shape, table.shape[-1]])
        return self._rows[key]
