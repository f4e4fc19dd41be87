"""The layers of which models are composed, one public class a file."""

from tfdare.layers.attention import ScaledDotAttention, masked_softmax
from tfdare.layers.clusters import ClusterAttention
from tfdare.layers.context import ContextEmbedding
from tfdare.layers.cross import Cross
from tfdare.layers.decoupled import DecoupledEmbedding
from tfdare.layers.embedding import RoleEmbedding
from tfdare.layers.encoder_layer import EncoderLayer
from tfdare.layers.evidence import (
    AffinityFacts,
    BehaviorCount,
    MatchCounts,
    MeanScore,
    ScoreFacts,
)
from tfdare.layers.evolution import EvolutionPooling
from tfdare.layers.fourier import FourierPooling
from tfdare.layers.granularity_search import GranularitySearch
from tfdare.layers.hashing import CollisionAttention, HashSearch
from tfdare.layers.head import Head
from tfdare.layers.match_search import MatchSearch
from tfdare.layers.mlp_attention import MLPAttention
from tfdare.layers.multi_head import MultiHeadPooling
from tfdare.layers.per_role import PerRoleEmbedding
from tfdare.layers.pooling import LinearPooling, PlainPooling, TargetAwarePooling
from tfdare.layers.projected import ProjectedEmbedding
from tfdare.layers.scaled_dense import ScaledDense
from tfdare.layers.search import Search, TopKSearch, gather_behaviors, newest_first
from tfdare.layers.shared import SharedEmbedding
from tfdare.layers.time_order import TimeOrderedSearch
from tfdare.layers.transformer import TransformerPooling
from tfdare.layers.two_stream import TwoStreamHead
from tfdare.layers.uniform import UniformAttention
from tfdare.layers.weighting import Average, Recent, ScaledAverage, ScoreSum, Sum, Weighting

__all__ = [
    "AffinityFacts",
    "Average",
    "BehaviorCount",
    "ClusterAttention",
    "CollisionAttention",
    "ContextEmbedding",
    "Cross",
    "DecoupledEmbedding",
    "EncoderLayer",
    "EvolutionPooling",
    "FourierPooling",
    "GranularitySearch",
    "HashSearch",
    "Head",
    "LinearPooling",
    "MLPAttention",
    "MatchCounts",
    "MatchSearch",
    "MeanScore",
    "MultiHeadPooling",
    "PerRoleEmbedding",
    "PlainPooling",
    "ProjectedEmbedding",
    "Recent",
    "RoleEmbedding",
    "ScaledAverage",
    "ScaledDense",
    "ScaledDotAttention",
    "ScoreFacts",
    "ScoreSum",
    "Search",
    "SharedEmbedding",
    "Sum",
    "TargetAwarePooling",
    "TimeOrderedSearch",
    "TopKSearch",
    "TransformerPooling",
    "TwoStreamHead",
    "UniformAttention",
    "Weighting",
    "gather_behaviors",
    "masked_softmax",
    "newest_first",
]
