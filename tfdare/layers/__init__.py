"""Keras layers of the two stages: embed by role, attend, search, pool, predict."""

from tfdare.layers.attention import ScaledDotAttention, masked_softmax
from tfdare.layers.embedding import DecoupledEmbedding, RoleEmbedding, SharedEmbedding
from tfdare.layers.head import Head
from tfdare.layers.pooling import TargetAwarePooling
from tfdare.layers.search import TopKSearch, gather_behaviors, newest_first

__all__ = [
    "DecoupledEmbedding",
    "Head",
    "RoleEmbedding",
    "ScaledDotAttention",
    "SharedEmbedding",
    "TargetAwarePooling",
    "TopKSearch",
    "gather_behaviors",
    "masked_softmax",
    "newest_first",
]
