"""Exact top-k of inner products, in blocks: most scores are read once, while in the CPU cache.

Behaviors are numbered from the newest: index 0 is the newest behavior of a history.
"""

from __future__ import annotations

from tfdare.compat import tf

SHORT, FEW = 1_200, 150_000
"""Histories shorter than `SHORT`, and requests with fewer than `FEW` scores, use no blocks."""
LONG = 6_000
"""Histories of at least this length have blocks of twice the size."""
SIZE = 8
"""Behaviors in a block; half or twice as many take about as long."""
TILE = 3 << 20
"""Scores computed at a time: memory of this size is reused, not freed and zeroed again."""


class Blocks:
    """The layout of the N behaviors of a history for :func:`top_k_of_product`.

    Block s holds the behaviors with indices ``s * size`` to ``s * size + size - 1``. The layout is
    ``[size, count]``, one block in each *column*: the maxima of all blocks are then maxima of whole
    rows, and of equal maxima the newer block's still comes first. Where blocks save no time, size
    is 1.

    Args:
        behaviors: int or int32 scalar. N.
        queries: int or int32 scalar. Targets of all requests.
        top_k: int. Behaviors to keep for each target.
        size: int. Behaviors in a block, twice that from 6,000 behaviors on; a multiple of 8.
            Defaults to 8.
        longest: int or None. Behaviors of the longest history; if it is below `short`, the graph
            is built without blocks. Defaults to None: not known.
        short: int. Histories below this length, or with fewer than `top_k` blocks, have size 1.
            Defaults to 1,200.
        few: int. Requests with fewer scores have size 1. Defaults to 150,000.

    Attributes:
        behaviors: N.
        needed: bool or bool scalar. Whether a block may hold more than one behavior.
        size, count: int or int32 scalars.
        indices: int32 ``[size * count]``. Index of the behavior in each cell of the layout; N and
            more in cells without a behavior.
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
            self.indices = tf.range(behaviors)
            return
        long = behaviors >= max(LONG, 2 * size * top_k)
        enough = behaviors >= max(short, size * top_k)
        self.needed = enough & (queries >= few // tf.maximum(behaviors, 1))
        self.size = tf.where(self.needed, tf.where(long, 2 * size, size), 1)
        self.count = (behaviors + self.size - 1) // self.size
        within = tf.range(self.size)[:, tf.newaxis]
        self.indices = tf.reshape(tf.range(self.count) * self.size + within, [-1])

    def cells(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns the cells of the layout that hold the behaviors with these indices."""
        return indices % self.size * self.count + indices // self.size


def top_k_of_product(
    query: tf.Tensor, key: tf.Tensor, top_k: int, blocks: Blocks, tile: int = TILE
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the `top_k` highest of ``<query[u, c], key[u, n]>`` for every u and c; exact.

    Of equal scores the lower index comes first, as in ``tf.math.top_k`` over scores in the order
    of indices. In blocks it takes the maximum of every block, the `top_k` blocks with the highest
    maximum (of equal ones the first), and the `top_k` highest scores inside these.

    This is exact. Let x be a score in a block that was not taken. Each of the `top_k` blocks
    taken has a maximum above that of x's block, so above x; or an equal one and lies before x's
    block, so that its maximum is at least x and lies before x. Either way `top_k` scores come
    before x, and x is not among the `top_k` highest.

    Args:
        query: float ``[U, C, D]``.
        key: float ``[U, size * count, D]``, in the layout of `blocks`.
        top_k: int. K.
        blocks: Blocks.
        tile: int. Scores computed at a time, where there are blocks. Defaults to 3 * 2^20.

    Returns:
        Scores, highest first, and the indices of their behaviors, int32: ``[U, C, K]``. Where
        there are fewer behaviors, minus infinity and an index that no behavior has.
    """
    width = blocks.size * blocks.count

    def straight():
        kept = tf.minimum(top_k, width)
        scores, indices = tf.math.top_k(_product(query, key), kept)
        missing = [[0, 0], [0, 0], [0, top_k - kept]]
        scores = tf.pad(scores, missing, constant_values=-float("inf"))
        return scores, tf.pad(indices, missing, constant_values=_LAST)

    def in_blocks():
        shape = tf.shape(query)[:2]
        rows = tf.maximum(tile // width, 1)
        return tf.cond(
            tf.reduce_prod(shape) <= rows,
            lambda: _top_k_in_halves(query, key, top_k, blocks),
            lambda: _top_k_in_tiles(query, key, top_k, blocks, rows),
        )

    scores, indices = (
        straight() if blocks.needed is False else tf.cond(blocks.needed, in_blocks, straight)
    )
    for output in (scores, indices):
        output.set_shape([query.shape[0], query.shape[1], top_k])
    return scores, indices


def _product(query, key):
    """Returns scores ``[U, C, N]``; for one request a plain product, cheaper than a batch."""

    def plain():
        return tf.matmul(query[0], key[0], transpose_b=True)[tf.newaxis]

    def batched():
        return tf.matmul(query, key, transpose_b=True)

    if query.shape[0] is None:
        return tf.cond(tf.equal(tf.shape(query)[0], 1), plain, batched)
    return plain() if query.shape[0] == 1 else batched()


def _top_k_in_halves(query, key, top_k, blocks):
    """Computes both halves of the candidates in parallel: most ops are too small to be split."""
    half = (tf.shape(query)[1] + 1) // 2
    halves = [
        _top_k_in_tile(part, key, top_k, blocks) for part in (query[:, :half], query[:, half:])
    ]
    shape = [tf.shape(query)[0], -1, top_k]
    return tuple(
        tf.concat([tf.reshape(part, shape) for part in parts], axis=1) for parts in zip(*halves)
    )


def _top_k_in_tiles(query, key, top_k, blocks, rows):
    """Loops over tiles of `rows` targets: of several requests, or a part of one request's."""
    users, candidates = tf.shape(query)[0], tf.shape(query)[1]
    across = tf.minimum(rows, candidates)  # candidates a tile
    down = tf.maximum(rows // candidates, 1)  # requests a tile
    tiles_across = -(-candidates // across)
    tiles = -(-users // down) * tiles_across

    def results(dtype):
        return tf.TensorArray(dtype, tiles, infer_shape=False, element_shape=[None, top_k])

    def tile(number, scores, indices):
        user, candidate = number // tiles_across * down, number % tiles_across * across
        tile_scores, tile_indices = _top_k_in_tile(
            query[user : user + down, candidate : candidate + across],
            key[user : user + down],
            top_k,
            blocks,
        )
        return number + 1, scores.write(number, tile_scores), indices.write(number, tile_indices)

    _, scores, indices = tf.while_loop(
        lambda number, *_: number < tiles,
        tile,
        (0, results(query.dtype), results(tf.int32)),
        parallel_iterations=2,
    )
    # A tile of several requests holds all candidates of each: the rows come in order.
    shape = [users, candidates, top_k]
    return tf.reshape(scores.concat(), shape), tf.reshape(indices.concat(), shape)


def _top_k_in_tile(query, key, top_k, blocks):
    """Returns the highest scores and their indices, ``[U * C, K]`` each."""
    scores = tf.matmul(query, key, transpose_b=True)
    scores = tf.reshape(scores, [-1, blocks.size, blocks.count])

    @tf.custom_gradient
    def top_scores(scores):
        highest, indices = _top_k_of_scores(scores, top_k, blocks)

        def gradient(upstream, _):
            rows = tf.range(tf.shape(indices)[0])[:, tf.newaxis] * blocks.size * blocks.count
            cells = tf.reshape(rows + blocks.cells(indices), [-1, 1])
            flat = tf.scatter_nd(cells, tf.reshape(upstream, [-1]), [tf.size(scores)])
            return tf.reshape(flat, tf.shape(scores))

        return (highest, indices), gradient

    return top_scores(scores)


def _top_k_of_scores(scores, top_k, blocks):
    """Returns the same from scores ``[U * C, size, count]``, without a gradient."""
    block = tf.math.top_k(_block_maxima(scores, blocks.size), top_k, sorted=False).indices
    first = tf.cast(block * blocks.size, tf.int64)[:, tf.newaxis]
    within = tf.cast(tf.range(blocks.size), tf.int64)[:, tf.newaxis]
    keys = _sort_keys(tf.gather(scores, block, axis=2, batch_dims=1), (_LAST - first) - within)
    highest = tf.math.top_k(_highest_first(keys, top_k * blocks.size), top_k).values
    return _unpack_sort_keys(highest, scores.dtype)


def _block_maxima(scores, size):
    """Returns the maximum of every block, by max pooling: two thirds of reduce_max's time."""
    window = tf.stack([1, size, 1, 1])
    return tf.raw_ops.MaxPoolV2(
        input=scores[:, :, tf.newaxis], ksize=window, strides=window, padding="VALID"
    )[:, 0, 0]


_BITS = 31
_LAST = 2**_BITS - 1
"""The highest possible index."""


def _sort_keys(scores, order):
    """Returns int64 keys that sort as scores do, equal scores by `order`, ``_LAST - index``.

    The bits of a float are its magnitude and a sign: as an integer of that magnitude and sign it
    sorts the same, and both zeros become one.
    """
    bits = tf.bitcast(tf.cast(scores, tf.float32), tf.int32)
    ordered = select(bits >= 0, bits, tf.int32.min - bits)
    return tf.cast(ordered, tf.int64) * (_LAST + 1) + order


def _unpack_sort_keys(keys, dtype):
    """Returns the scores and indices in keys of :func:`_sort_keys`."""
    indices = tf.cast(_LAST - tf.bitwise.bitwise_and(keys, _LAST), tf.int32)
    ordered = tf.cast(tf.bitwise.right_shift(keys, _BITS), tf.int32)
    bits = select(ordered >= 0, ordered, tf.int32.min - ordered)
    return tf.cast(tf.bitcast(bits, tf.float32), dtype), indices


def _highest_first(keys, width):
    """Returns keys ``[..., size, K]`` as rows of `width`, the highest of each block in front.

    Top-k is faster when high values come first. Two rounds of pairwise maxima, computed on whole
    rows at a time, move them to the front.
    """
    winners, others = tf.reshape(keys, [-1, width]), []
    for round_number in (1, 2):
        halves = tf.reshape(winners, [-1, 2, width // 2**round_number])
        first, second = tf.unstack(halves, axis=1)
        winners = tf.maximum(first, second)
        others.insert(0, tf.minimum(first, second))
    return tf.concat([winners, *others], axis=1)


def select(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Computes ``tf.where`` of three tensors of one shape, without broadcasting: 7 times as fast.

    Args:
        condition: bool.
        x, y: of one dtype.

    Returns:
        `x` where `condition` is true, `y` elsewhere.
    """
    return tf.raw_ops.Select(condition=condition, x=x, y=y)
