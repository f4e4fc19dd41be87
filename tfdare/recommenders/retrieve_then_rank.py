"""Both stages of a recommender: an index retrieves candidates, a ranker orders them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tfdare.compat import tf
from tfdare.models import RequestModel
from tfdare.recommenders.catalog import Catalog
from tfdare.recommenders.ranking import Ranking
from tfdare.schema import FIRST_ID


class Recommendations(NamedTuple):
    """Items for each user, most probable first.

    Attributes:
        item: int32 ``[U, k]``, row ids.
        probability: float32 ``[U, k]``, the ranker's.
    """

    item: tf.Tensor
    probability: tf.Tensor


class RetrieveThenRank:
    """Recommends from the whole catalog.

    Args:
        index: ``tfrs.layers.factorized_top_k.TopK`` from requests to item row ids, as of
            :meth:`tfdare.recommenders.Retrieval.index`.
        ranker: RequestModel, or Ranking around one.
        catalog: Catalog. The features of the candidates.

    Raises:
        ValueError: `ranker` is neither, or the catalog's features are not the ranker's.
    """

    def __init__(self, index, ranker: RequestModel | Ranking, catalog: Catalog):
        ranker = ranker.ranker if isinstance(ranker, Ranking) else ranker
        if not isinstance(ranker, RequestModel):
            raise ValueError(
                "`ranker` must be a RequestModel or a Ranking around one. "
                f"Received: {ranker!r} of type {type(ranker).__name__}"
            )
        items = ranker.schema.item.vocabulary_size - FIRST_ID
        if len(catalog) != items or set(catalog.features) != set(ranker.schema.names):
            raise ValueError(
                f"`catalog` must hold the {items} items of the ranker's schema with "
                f"{ranker.schema.names}. Received: {len(catalog)} items with "
                f"{sorted(catalog.features)}"
            )
        self.index, self.ranker, self.catalog = index, ranker, catalog
        self._features = {name: tf.constant(ids) for name, ids in catalog.features.items()}
        self._compiled = tf.function(self._recommend, reduce_retracing=True)

    def recommend(
        self, history: Mapping[str, tf.Tensor], k: int = 10, candidates: int = 100
    ) -> Recommendations:
        """Returns the items with the highest probabilities among those that the index retrieves.

        Args:
            history: mapping of ``history_<feature>`` int ``[U, N]`` and ``history_length`` int
                ``[U]``, and the other inputs of the ranker's schema; targets are ignored.
            k: int. Items to recommend to each user. Defaults to 10.
            candidates: int. Items to retrieve for each user and to rank. Defaults to 100.

        Raises:
            ValueError: `k` exceeds `candidates`, which exceeds the catalog, or one of them is not
                positive; or a tensor is missing from `history`.
        """
        if not 1 <= k <= candidates <= len(self.catalog):
            raise ValueError(
                f"1 <= `k` <= `candidates` <= {len(self.catalog)}, the items, must hold. "
                f"Received: k={k}, candidates={candidates}"
            )
        requests = {
            name: tf.convert_to_tensor(value)
            for name, value in history.items()
            if name.startswith(("history_", "context_"))
        }
        return self._compiled(requests, k, candidates)

    def _recommend(self, history, k, candidates):
        _, items = self.index(history, k=candidates)
        targets = {
            f"target_{name}": tf.gather(ids, items - FIRST_ID)
            for name, ids in self._features.items()
        }
        probability, best = tf.math.top_k(self.ranker({**history, **targets}), k=k)
        return Recommendations(tf.gather(items, best, batch_dims=1), probability)
