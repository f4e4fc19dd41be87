"""A two-tower retrieval model of tensorflow-recommenders over requests."""

from __future__ import annotations

import numpy as np

from tfdare.compat import tf
from tfdare.recommenders.catalog import Catalog
from tfdare.recommenders.library import tfrs
from tfdare.recommenders.task_model import TaskModel
from tfdare.recommenders.towers import CandidateTower, UserTower
from tfdare.schema import FIRST_ID, OOV_ID, Schema


class Retrieval(TaskModel):
    """``tfrs.tasks.Retrieval`` between a user's newest behaviors and the items that were clicked.

    ``fit`` takes the dataset of :func:`tfdare.data.read_requests` as it is. Every clicked item of
    a batch is the positive of its own user and a negative of all others. Frequent items are
    negatives more often, which the task corrects with the items' shares of clicks. ``predict``
    returns user embeddings ``[U, D]``.

    Args:
        schema: Schema. Features and vocabulary sizes.
        catalog: Catalog. All items, see :func:`tfdare.recommenders.read_catalog`.
        dim: int. D, columns of every table. Defaults to 64.
        behaviors: int. How many of a user's newest behaviors count. Defaults to 20.

    Call arguments:
        requests: as of :class:`tfdare.recommenders.UserTower`.

    Returns:
        float32 ``[U, D]``.

    Raises:
        ValueError: `catalog` is of another vocabulary, or ``fit`` is given requests without
            labels.

    References:
        - [Sampling-bias-corrected neural modeling for large corpus item recommendations](
          https://doi.org/10.1145/3298689.3346996), for the correction
    """

    def __init__(
        self, schema: Schema, catalog: Catalog, dim: int = 64, behaviors: int = 20, **kwargs
    ):
        super().__init__(**kwargs)
        items = schema.item.vocabulary_size - FIRST_ID
        if len(catalog) != items or set(catalog.features) != set(schema.names):
            raise ValueError(
                f"`catalog` must hold the {items} items of the schema with {schema.names}. "
                f"Received: {len(catalog)} items with {sorted(catalog.features)}"
            )
        self.schema, self.catalog = schema, catalog
        self.candidate_tower = CandidateTower(schema, dim, name="candidate_tower")
        self.user_tower = UserTower(self.candidate_tower, behaviors, name="user_tower")
        share = catalog.clicks / max(1, catalog.clicks.sum())
        share = np.concatenate([np.zeros(FIRST_ID), share])
        self.click_share = tf.Variable(share, trainable=False, dtype=tf.float32, name="click_share")
        self.task = tfrs.tasks.Retrieval(
            loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
            remove_accidental_hits=True,
        )
        self.built = True  # the candidate tower creates its weights in its constructor

    def call(self, requests, training=None):
        return self.user_tower(requests)

    def compute_loss(self, inputs, training: bool = False) -> tf.Tensor:
        """Computes the loss of one batch, the mean over its clicks on known items.

        Args:
            inputs: tuple of requests, label ``[U, C]`` and, optionally, weight ``[U, C]``.
            training: bool. Ignored.
        """
        requests, label, weight = self.unpack(inputs)
        item = self.schema.item.name
        clicked = (label > 0.5) & (requests[f"target_{item}"] > OOV_ID)
        if weight is not None:
            clicked &= weight > 0
        clicks = tf.where(clicked)
        # The task needs at least one click: a single candidate without negatives has no loss.
        clicks = tf.cond(tf.size(clicks) > 0, lambda: clicks, lambda: tf.zeros([1, 2], tf.int64))
        ids = {name: tf.gather_nd(requests[f"target_{name}"], clicks) for name in self.schema.names}
        return self.task(
            tf.gather(self.user_tower(requests), clicks[:, 0]),
            self.candidate_tower(ids),
            candidate_sampling_probability=tf.gather(self.click_share, ids[item]),
            candidate_ids=ids[item],
        )

    def index(self, k: int = 100):
        """Builds an exact index of all items with the model's current weights.

        Args:
            k: int. Items that the index returns by default.

        Returns:
            ``tfrs.layers.factorized_top_k.BruteForce``: requests to scores float32 ``[U, k]`` and
            item row ids int32 ``[U, k]``, best first.

        Raises:
            ValueError: `k` is not positive or exceeds the number of items.
        """
        if not 1 <= k <= len(self.catalog):
            raise ValueError(f"`k` must be 1 to {len(self.catalog)}, the items. Received: k={k}")
        features = {name: tf.constant(ids) for name, ids in self.catalog.features.items()}
        index = tfrs.layers.factorized_top_k.BruteForce(query_model=self.user_tower, k=k)
        return index.index(self.candidate_tower(features), features[self.schema.item.name])
