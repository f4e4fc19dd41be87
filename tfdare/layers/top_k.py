"""Exact top-k of a product, in blocks: most scores are looked at once, while they are in cache."""

from __future__ import annotations

from tfdare.compat import tf

SHORT, FEW = 1_200, 150_000
"""Histories below this length, and requests with fewer scores, gain nothing by blocks."""
LONG = 6_000
"""Histories from this length on have blocks of twice the size."""
SIZE = 8
"""Behaviors a block of the shorter histories; half or twice as many differ little."""
TILE = 3 << 20
"""Scores that are worked on at a time: memory that small is not handed back and zeroed anew."""


class Blocks:
    """How the N behaviors of a history are laid out for :func:`top_k_of_product`.

    Block s holds the behaviors in places ``s * size`` to ``s * size + size - 1``, newest first. The
    layout is [size, count], a block a *column*: its maximum is then one of whole rows of numbers,
    and equal maxima are still won by the newer block. Where blocks gain nothing, size is 1.

    Args:
        behaviors: int or int32 scalar. N.
        queries: int or int32 scalar. How many look for behaviors, of all requests.
        top_k: int. How many each looks for.
        size: int. Behaviors a block, twice that from 6,000 behaviors on; a multiple of 8.
            Defaults to 8.
        longest: int or None. Behaviors of the longest history; below `short` nothing is left to
            decide at run time. Defaults to None: not known.
        short: int. Histories below this length are left as they are, and so are those with fewer
            than `top_k` blocks. Defaults to 1,200.
        few: int. The same for a number of scores. Defaults to 150,000.

    Attributes:
        behaviors: as given.
        needed: bool or bool scalar. Whether a block may hold more than one behavior.
        size, count: int or int32 scalars.
        places: int32 ``[size * count]``. Place of the behavior in each position of the layout;
            N and more where there is none.
    """

    def __init__(
        self,
        behaviors,
        queries,
        top_k: int,
        size: int = SIZE,
        longest: int | None = None,
        short: int = SHORT,
        few: int = FEW,
    ):
        self.behaviors = behaviors
        if longest is not None and longest < short:
            self.needed, self.size, self.count = False, 1, behaviors
            self.places = tf.range(behaviors)
            return
        long = behaviors >= max(LONG, 2 * size * top_k)
        enough = behaviors >= max(short, size * top_k)
        self.needed = enough & (queries >= few // tf.maximum(behaviors, 1))
        self.size = tf.where(self.needed, tf.where(long, 2 * size, size), 1)
        self.count = (behaviors + self.size - 1) // self.size
        within = tf.range(self.size)[:, tf.newaxis]
        self.places = tf.reshape(tf.range(self.count) * self.size + within, [-1])

    def position(self, place: tf.Tensor) -> tf.Tensor:
        """Where in the layout the behavior in `place` lies."""
        return place % self.size * self.count + place // self.size


def top_k_of_product(
    query: tf.Tensor, key: tf.Tensor, top_k: int, blocks: Blocks, tile: int = TILE
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `top_k` highest of ``<query[u, c], key[u, n]>`` for every u and c; exact.

    Equal scores are won by the lower place, as in ``tf.math.top_k`` over scores in the order of
    places. In blocks it takes the maximum of every block, the `top_k` blocks with the highest
    maximum (of equal ones the first), and the `top_k` highest scores inside these.

    That loses nothing. Let x be a score in a block that was not taken. Each of the `top_k` blocks
    taken has a maximum above that of x's block, so above x; or an equal one and lies before x's
    block, so that its maximum is at least x and lies before x. Either way `top_k` scores come
    before x, and x is none of those sought.

    Args:
        query: float ``[U, C, D]``.
        key: float ``[U, size * count, D]``, in the layout of `blocks`.
        top_k: int. K.
        blocks: Blocks.
        tile: int. Scores that are worked on at a time, where there are blocks. Defaults to
            3 * 2^20.

    Returns:
        Scores, highest first, and their places, int32: ``[U, C, K]``. Where there are not so many,
        minus infinity and a place that no behavior has.
    """
    width = blocks.size * blocks.count

    def straight():
        kept = tf.minimum(top_k, width)
        value, place = tf.math.top_k(_product(query, key), kept)
        missing = [[0, 0], [0, 0], [0, top_k - kept]]
        value = tf.pad(value, missing, constant_values=-float("inf"))
        return value, tf.pad(place, missing, constant_values=_LAST)

    def in_blocks():
        shape = tf.shape(query)[:2]
        rows = tf.maximum(tile // width, 1)
        return tf.cond(
            tf.reduce_prod(shape) <= rows,
            lambda: _of_halves(query, key, top_k, blocks),
            lambda: _of_tiles(query, key, top_k, blocks, rows),
        )

    value, place = (
        straight() if blocks.needed is False else tf.cond(blocks.needed, in_blocks, straight)
    )
    for found in (value, place):
        found.set_shape([query.shape[0], query.shape[1], top_k])
    return value, place


def _product(query, key):
    """Scores ``[U, C, N]``. A plain product spares one request what a batch costs to set up."""

    def plain():
        return tf.matmul(query[0], key[0], transpose_b=True)[tf.newaxis]

    def batched():
        return tf.matmul(query, key, transpose_b=True)

    if query.shape[0] is None:
        return tf.cond(tf.equal(tf.shape(query)[0], 1), plain, batched)
    return plain() if query.shape[0] == 1 else batched()


def _of_halves(query, key, top_k, blocks):
    """Half of the candidates beside the other half: most steps are too small to be shared out."""
    half = (tf.shape(query)[1] + 1) // 2
    halves = [_of_tile(part, key, top_k, blocks) for part in (query[:, :half], query[:, half:])]
    shape = [tf.shape(query)[0], -1, top_k]
    return tuple(
        tf.concat([tf.reshape(part, shape) for part in parts], axis=1) for parts in zip(*halves)
    )


def _of_tiles(query, key, top_k, blocks, rows):
    """As many requests at a time as make a tile of `rows`, or as many candidates of one request."""
    users, candidates = tf.shape(query)[0], tf.shape(query)[1]
    across = tf.minimum(rows, candidates)  # candidates a tile
    down = tf.maximum(rows // candidates, 1)  # requests a tile
    tiles_across = -(-candidates // across)
    tiles = -(-users // down) * tiles_across

    def results(dtype):
        return tf.TensorArray(dtype, tiles, infer_shape=False, element_shape=[None, top_k])

    def one(number, values, places):
        user, candidate = number // tiles_across * down, number % tiles_across * across
        value, place = _of_tile(
            query[user : user + down, candidate : candidate + across],
            key[user : user + down],
            top_k,
            blocks,
        )
        return number + 1, values.write(number, value), places.write(number, place)

    _, values, places = tf.while_loop(
        lambda number, *_: number < tiles,
        one,
        (0, results(query.dtype), results(tf.int32)),
        parallel_iterations=2,
    )
    # A tile of several requests holds all candidates of each: the rows come in order.
    shape = [users, candidates, top_k]
    return tf.reshape(values.concat(), shape), tf.reshape(places.concat(), shape)


def _of_tile(query, key, top_k, blocks):
    """Scores and places, ``[U * C, K]`` each."""
    scores = tf.matmul(query, key, transpose_b=True)
    scores = tf.reshape(scores, [-1, blocks.size, blocks.count])

    @tf.custom_gradient
    def best(scores):
        found, place = _best(scores, top_k, blocks)

        def gradient(of_found, _):
            rows = tf.range(tf.shape(place)[0])[:, tf.newaxis] * blocks.size * blocks.count
            where = tf.reshape(rows + blocks.position(place), [-1, 1])
            flat = tf.scatter_nd(where, tf.reshape(of_found, [-1]), [tf.size(scores)])
            return tf.reshape(flat, tf.shape(scores))

        return (found, place), gradient

    return best(scores)


def _best(scores, top_k, blocks):
    """The same, given all scores ``[U * C, size, count]``; integers have no gradient."""
    block = tf.math.top_k(_highest(scores, blocks.size), top_k, sorted=False).indices
    first = tf.cast(block * blocks.size, tf.int64)[:, tf.newaxis]
    within = tf.cast(tf.range(blocks.size), tf.int64)[:, tf.newaxis]
    keys = _keys(tf.gather(scores, block, axis=2, batch_dims=1), (_LAST - first) - within)
    best = tf.math.top_k(_highest_first(keys, top_k * blocks.size), top_k).values
    return _of_keys(best, scores.dtype)


def _highest(scores, size):
    """Maximum of every block; pooling goes by whole rows, in two thirds of reduce_max's time."""
    window = tf.stack([1, size, 1, 1])
    return tf.raw_ops.MaxPoolV2(
        input=scores[:, :, tf.newaxis], ksize=window, strides=window, padding="VALID"
    )[:, 0, 0]


_BITS = 31
_LAST = 2**_BITS - 1
"""The highest place there could be."""


def _keys(scores, order):
    """int64 that sort as scores do, equal scores by `order`, ``_LAST - place``; no two are equal.

    The bits of a float are its magnitude and a sign: as an integer of that magnitude and sign it
    sorts the same, and both zeros become one.
    """
    bits = tf.bitcast(tf.cast(scores, tf.float32), tf.int32)
    ordered = select(bits >= 0, bits, tf.int32.min - bits)
    return tf.cast(ordered, tf.int64) * (_LAST + 1) + order


def _of_keys(keys, dtype):
    """Scores and places that :func:`_keys` put together."""
    place = tf.cast(_LAST - tf.bitwise.bitwise_and(keys, _LAST), tf.int32)
    ordered = tf.cast(tf.bitwise.right_shift(keys, _BITS), tf.int32)
    bits = select(ordered >= 0, ordered, tf.int32.min - ordered)
    return tf.cast(tf.bitcast(bits, tf.float32), dtype), place


def _highest_first(keys, width):
    """Keys ``[..., size, K]`` as rows of `width`, the highest of every block (or half) in front.

    Top-k passes quickly over what is below the best so far. Here two rounds of a tournament put
    the best in front, whole rows of numbers at a time.
    """
    winners, others = tf.reshape(keys, [-1, width]), []
    for round_number in (1, 2):
        halves = tf.reshape(winners, [-1, 2, width // 2**round_number])
        one, other = tf.unstack(halves, axis=1)
        winners = tf.maximum(one, other)
        others.insert(0, tf.minimum(one, other))
    return tf.concat([winners, *others], axis=1)


def select(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """``tf.where`` of three tensors of one shape, in a seventh of its time: nothing broadcasts.

    Args:
        condition: bool.
        x, y: of one dtype.

    Returns:
        `x` where `condition` holds, elsewhere `y`.
    """
    return tf.raw_ops.Select(condition=condition, x=x, y=y)
