"""The published models, each a row of one table: embedding x attention x search x pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfdare.layers import (
    AffinityFacts,
    ClusterAttention,
    CollisionAttention,
    DecoupledEmbedding,
    HashSearch,
    Head,
    MatchCounts,
    MatchSearch,
    MLPAttention,
    MultiHeadPooling,
    PerRoleEmbedding,
    PlainPooling,
    ProjectedEmbedding,
    RoleEmbedding,
    ScaledDotAttention,
    ScoreFacts,
    ScoreSum,
    SharedEmbedding,
    TargetAwarePooling,
    TopKSearch,
)
from tfdare.models.one_stage import OneStageModel
from tfdare.models.request_model import RequestModel
from tfdare.models.two_stage import TwoStageModel
from tfdare.schema import Schema

SIM_RECENT = 50
CLUSTER_SIZE = 4


@dataclass(frozen=True)
class Recipe:
    """The parts of a published model.

    Attributes:
        title: str. As the literature calls it.
        source: str. Address of the paper.
        embedding: function of a schema to a RoleEmbedding.
        attention: function to a layer ``[U, C, N]`` of scores.
        search: function of `top_k` and `recent` to a Search. None: the whole history is pooled.
        pooling: function to a layer.
        recent: int. Newest behaviors that search keeps in addition.
        clusters: int. Behaviors in a cluster: search keeps `clusters` times `top_k` behaviors.
        position: bool. Whether the model uses the distance to the target.
        parts: mapping. Further arguments of the model: name to a function that makes the argument.
    """

    title: str
    source: str
    embedding: Callable[[Schema], RoleEmbedding]
    attention: Callable[[], Any] = ScaledDotAttention
    search: Callable[..., Any] | None = TopKSearch
    pooling: Callable[[], Any] = TargetAwarePooling
    recent: int = 0
    clusters: int = 1
    position: bool = True
    parts: Mapping[str, Callable[[], Any]] = field(default_factory=dict)

    def build(self, schema: Schema, top_k: int = 20, **kwargs) -> RequestModel:
        """Builds the model for a schema.

        Args:
            schema: Schema. Its features' dimensions are the model's.
            top_k: int. Behaviors (clusters) that search keeps for each target. Defaults to 20.
            **kwargs: further arguments of the model; they replace the recipe's.
        """
        if not self.position:
            position = dataclasses.replace(schema.position, attention_dim=0, representation_dim=0)
            schema = dataclasses.replace(schema, position=position)
        parts = {name: make() for name, make in self.parts.items() if name not in kwargs}
        for name, make in (("attention", self.attention), ("pooling", self.pooling)):
            if kwargs.get(name) is None:
                kwargs[name] = make()
        kwargs = {**parts, **kwargs}
        if self.search is None:
            for name in [name for name in kwargs if name.startswith("auxiliary_")]:
                kwargs.pop(name)  # no auxiliary head: the main loss covers the whole history
            return OneStageModel(self.embedding(schema), **kwargs)
        if "search" not in kwargs:
            window = schema.window
            kwargs["search"] = self.search(
                top_k if top_k > window else min(top_k * self.clusters, window),
                min(self.recent, window),
            )
        return TwoStageModel(self.embedding(schema), **kwargs)


_DARE = "https://arxiv.org/abs/2410.02604"
_SIM: dict[str, Any] = {
    "pooling": lambda: MultiHeadPooling(heads=2, head_dim=64, recent=True),
    "recent": SIM_RECENT,
    "position": False,
    "parts": {
        "head": lambda: Head(batch_norm=False, name="head"),
        "auxiliary_pooling": lambda: TargetAwarePooling([ScoreSum()], name="auxiliary_pooling"),
    },
}

MODELS: dict[str, Recipe] = {
    "DIN": Recipe(
        "DIN",
        "https://arxiv.org/abs/1706.06978",
        SharedEmbedding,
        attention=MLPAttention,
        position=False,
    ),
    "SIM-hard": Recipe(
        "SIM (hard)",
        "https://arxiv.org/abs/2006.05639",
        SharedEmbedding,
        search=MatchSearch,
        **_SIM,
    ),
    "SIM-soft": Recipe(
        "SIM (soft)",
        "https://arxiv.org/abs/2006.05639",
        SharedEmbedding,
        **_SIM,
    ),
    "ETA": Recipe(
        "ETA",
        "https://arxiv.org/abs/2108.04468",
        SharedEmbedding,
        search=HashSearch,
    ),
    "SDIM": Recipe(
        "SDIM",
        "https://arxiv.org/abs/2205.10249",
        SharedEmbedding,
        attention=CollisionAttention,
        search=None,
    ),
    "TWIN": Recipe("TWIN", "https://arxiv.org/abs/2302.02352", SharedEmbedding),
    "TWIN-hard": Recipe("TWIN (hard)", _DARE, SharedEmbedding, search=MatchSearch),
    "TWIN-proj": Recipe("TWIN (w/ proj.)", _DARE, ProjectedEmbedding),
    "TWIN-noTR": Recipe(
        "TWIN (w/o TR)",
        _DARE,
        SharedEmbedding,
        pooling=PlainPooling,
        parts={"auxiliary_pooling": lambda: PlainPooling(name="auxiliary_pooling")},
    ),
    "TWIN-V2": Recipe(
        "TWIN-V2",
        "https://arxiv.org/abs/2407.16357",
        SharedEmbedding,
        attention=lambda: ClusterAttention(CLUSTER_SIZE),
        clusters=CLUSTER_SIZE,
    ),
    "TWIN-4E": Recipe("TWIN-4E", _DARE, PerRoleEmbedding),
    "DARE": Recipe(
        "DARE",
        _DARE,
        DecoupledEmbedding,
        parts={
            "evidence": lambda: [
                MatchCounts(name="matches"),
                ScoreFacts(name="scores"),
                AffinityFacts(name="affinity"),
            ]
        },
    ),
    "DARE-paper": Recipe("DARE, as published", _DARE, DecoupledEmbedding),
    "DARE-whole": Recipe("DARE, whole history", _DARE, DecoupledEmbedding, search=None),
}
"""Name on the command line -> recipe of the model."""


def build_model(name: str, schema: Schema, **kwargs) -> RequestModel:
    """Builds a published model by name.

    Args:
        name: str. A key of :data:`MODELS`.
        schema: Schema.
        **kwargs: arguments of :meth:`Recipe.build` and of the model.

    Raises:
        ValueError: no such model.

    Example:
        >>> from tfdare.schema import Feature, Schema
        >>> model = build_model("SDIM", Schema((Feature("item", 100),), window=50))
        >>> model.name, type(model.attention_layer).__name__
        ('sdim', 'CollisionAttention')
    """
    if name not in MODELS:
        raise ValueError(f"`model` must be one of {sorted(MODELS)}. Received: {name!r}")
    kwargs.setdefault("name", name.lower().replace("-", "_"))
    return MODELS[name].build(schema, **kwargs)


def DARE(schema: Schema, top_k: int = 20, **kwargs) -> TwoStageModel:
    """Builds DARE: Decoupled Attention and Representation Embeddings.

    The published model with evidence of the behaviors found for the head (:class:`MatchCounts`,
    :class:`ScoreFacts`, :class:`AffinityFacts`); `evidence=[]` leaves it out, and
    ``build_model("DARE-paper", ...)`` is the published model.

    Args:
        schema: Schema. Its features' dimensions are the model's.
        top_k: int. Behaviors that search keeps for each target. Defaults to 20.
        **kwargs: further arguments of :class:`TwoStageModel`.

    Example:
        >>> from tfdare.schema import Feature, Schema
        >>> model = DARE(Schema((Feature("item", 100), Feature("category", 9)), window=50))
        >>> model.search_layer.top_k
        20

    References:
        - [Long-Sequence Recommendation Models Need Decoupled Embeddings](
          https://arxiv.org/abs/2410.02604)
    """
    return build_model("DARE", schema, top_k=top_k, **kwargs)


def TWIN(schema: Schema, top_k: int = 20, **kwargs) -> TwoStageModel:
    """Builds TWIN, the Two-stage Interest Network: both stages share one table per feature.

    Args:
        schema: Schema. `attention_dim` must equal `representation_dim`.
        top_k: int. Behaviors that search keeps for each target. Defaults to 20.
        **kwargs: further arguments of :class:`TwoStageModel`.

    References:
        - [TWIN: TWo-stage Interest Network](https://arxiv.org/abs/2302.02352)
    """
    return build_model("TWIN", schema, top_k=top_k, **kwargs)
