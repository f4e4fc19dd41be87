"""Retrieval and ranking with tensorflow-recommenders, around this package's models.

Needs Keras 2, as tensorflow-recommenders does: ``TF_USE_LEGACY_KERAS=1``. For an example, run
``TF_USE_LEGACY_KERAS=1 python -m tfdare.recommenders --help``.
"""

from tfdare.recommenders.catalog import Catalog, read_catalog
from tfdare.recommenders.ranking import Ranking
from tfdare.recommenders.retrieval import Retrieval
from tfdare.recommenders.retrieve_then_rank import Recommendations, RetrieveThenRank
from tfdare.recommenders.towers import CandidateTower, UserTower

__all__ = [
    "CandidateTower",
    "Catalog",
    "Ranking",
    "Recommendations",
    "Retrieval",
    "RetrieveThenRank",
    "UserTower",
    "read_catalog",
]
