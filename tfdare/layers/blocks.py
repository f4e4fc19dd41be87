"""Exact top-k of a product, in blocks: most scores are looked at once, while they are in cache."""

from __future__ import annotations

from tfdare.compat import tf

SHORT = 640
"""Histories below this length gain nothing by blocks."""
SIZE = 16
"""Behaviors a block; 8 to 32 differ little."""
TILE = 3 << 20
"""Scores that are worked on at a time: memory that small is not handed back and zeroed anew."""


class Blocks:
    """How the N behaviors of a history are laid out for :func:`top_k_of_product`.

    Block s holds the behaviors in places ``s * size`` to ``s * size + size - 1``, newest first. The
    layout is [size, count], a block a *column*: its maximum is then one of whole rows of numbers,
    and no column is far from its neighbor. Short histories are one row.

    Args:
        behaviors: int or int32 scalar. N.
        top_k: int. How many will be looked for.
        size: int. Behaviors a block. Defaults to 16.
        short: int. Histories below this length, or with fewer than 2 * `top_k` blocks, are left
            as they are. Defaults to 640.

    Attributes:
        behaviors: as given.
        needed: bool or bool scalar. Whether a block holds more than one behavior.
        size, count: int or int32 scalars.
        places: int32 ``[size * count]``. Place of the behavior in each position of the layout;
            N and more where there is none.
    """

    def __init__(self, behaviors, top_k: int, size: int = SIZE, short: int = SHORT):
        self.behaviors = behaviors
        self.needed = behaviors >= max(short, 2 * size * top_k)
        if isinstance(behaviors, int):
            self.size = size if self.needed else 1
        else:
            self.size = tf.where(self.needed, size, 1)
        self.count = -(-behaviors // self.size)
        position = tf.range(self.size * self.count)
        count = tf.maximum(self.count, 1)  # of no behaviors, too
        self.places = position % count * self.size + position // count

    def position(self, place: tf.Tensor) -> tf.Tensor:
        """Where in the layout the behavior in `place` lies."""
        return place % self.size * self.count + place // self.size


def top_k_of_product(
    query: tf.Tensor, key: tf.Tensor, top_k: int, blocks: Blocks, tile: int = TILE
):
    """The `top_k` highest of ``<query[u, c], key[u, n]>`` for every u and c; exact.

    Equal scores are won by the lower place, as in ``tf.math.top_k`` over scores in the order of
    places. In blocks it takes the maximum of every block, the `top_k` blocks with the highest
    maximum (of equal ones the first), and the `top_k` scores inside these.

    That loses nothing. Let x be a score in a block that was not taken. Each of the `top_k` blocks
    taken has a maximum above that of x's block, so above x; or an equal one and lies before x's
    block, so that its maximum is at least x and lies before x. Either way `top_k` scores come
    before x, and x is none of those sought.

    Args:
        query: float ``[U, C, D]``.
        key: float ``[U, size * count, D]``, in the layout of `blocks`.
        top_k: int. K.
        blocks: Blocks.
        tile: int. Scores that are worked on at a time, where there are blocks. Defaults to 3 * 2^20.

    Returns:
        Scores, highest first, and their places, int32: ``[U, C, min(K, size * count)]``.
    """

    def straight():
        scores = tf.matmul(query, key, transpose_b=True)
        return tuple(tf.math.top_k(scores, tf.minimum(top_k, tf.shape(key)[1])))

    def in_tiles():
        return _in_tiles(query, key, top_k, blocks, tile)

    if isinstance(blocks.needed, bool):
        value, place = in_tiles() if blocks.needed else straight()
    else:
        value, place = tf.cond(blocks.needed, in_tiles, straight)
    shape = [query.shape[0], query.shape[1], None]
    return tf.ensure_shape(value, shape), tf.ensure_shape(place, shape)


def _in_tiles(query, key, top_k, blocks, tile):
    """As many requests at a time as make a tile, or as many candidates of one request."""
    users, candidates = tf.shape(query)[0], tf.shape(query)[1]
    rows = tf.maximum(tile // (blocks.size * blocks.count), 1)
    users_a_tile = tf.maximum(rows // tf.maximum(candidates, 1), 1)
    candidates_a_tile = tf.maximum(tf.minimum(rows, candidates), 1)
    across = -(-candidates // candidates_a_tile)
    tiles = -(-users // users_a_tile) * across

    def results(dtype):
        return tf.TensorArray(dtype, tiles, infer_shape=False, element_shape=[None, top_k])

    def one(number, values, places):
        user, candidate = number // across * users_a_tile, number % across * candidates_a_tile
        value, place = _of_tile(
            query[user : user + users_a_tile, candidate : candidate + candidates_a_tile],
            key[user : user + users_a_tile], top_k, blocks,
        )
        return number + 1, values.write(number, value), places.write(number, place)

    _, values, places = tf.while_loop(
        lambda number, *_: number < tiles, one, (0, results(query.dtype), results(tf.int32)),
        parallel_iterations=2,
    )
    # Tiles that hold several requests hold all candidates of each: rows come in order.
    shape = tf.stack([users, candidates, top_k])
    return tf.reshape(values.concat(), shape), tf.reshape(places.concat(), shape)


def _of_tile(query, key, top_k, blocks):
    """Scores and places, ``[U * C, K]`` each."""
    scores = tf.matmul(query, key, transpose_b=True)
    scores = tf.reshape(scores, tf.stack([-1, blocks.size, blocks.count]))
    block = tf.math.top_k(tf.reduce_max(scores, axis=1), top_k, sorted=False).indices
    block = -tf.math.top_k(-block, top_k).values  # from the newest on
    inside = tf.transpose(tf.gather(scores, block, axis=2, batch_dims=1), [0, 2, 1])
    value, among = tf.math.top_k(tf.reshape(inside, tf.stack([-1, top_k * blocks.size])), top_k)
    block = tf.gather(block, among // blocks.size, batch_dims=1)
    return value, block * blocks.size + among % blocks.size
