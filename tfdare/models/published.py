"""The published models, each a row of one table: embedding x attention x search x pooling."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfdare.compat import tf
from tfdare.layers import (
    AffinityFacts,
    BehaviorCount,
    ClusterAttention,
    CollisionAttention,
    Cross,
    DecoupledEmbedding,
    EvolutionPooling,
    FourierPooling,
    GranularitySearch,
    HashSearch,
    Head,
    MatchCounts,
    MatchSearch,
    MeanScore,
    MLPAttention,
    MultiHeadPooling,
    PerRoleEmbedding,
    PlainPooling,
    ProjectedEmbedding,
    RoleEmbedding,
    ScaledAverage,
    ScaledDotAttention,
    ScoreFacts,
    ScoreSum,
    SharedEmbedding,
    TargetAwarePooling,
    TimeOrderedSearch,
    TopKSearch,
    TransformerPooling,
    TwoStreamHead,
    UniformAttention,
)
from tfdare.models.one_stage import OneStageModel
from tfdare.models.request_model import RequestModel
from tfdare.models.two_stage import TwoStageModel
from tfdare.schema import Schema

SIM_RECENT = 50
CLUSTER_SIZE = 4


@dataclass(frozen=True)
class Recipe:
    """The parts of a model.

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
        evidence: bool. Whether the head gets facts about the behaviors, :func:`evidence`.
        vectors: bool. Whether tables start from given vectors.
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
    evidence: bool = False
    vectors: bool = False
    parts: Mapping[str, Callable[[], Any]] = field(default_factory=dict)

    def build(
        self,
        schema: Schema,
        top_k: int = 20,
        vectors: Mapping[str, np.ndarray] | None = None,
        **kwargs,
    ) -> RequestModel:
        """Builds the model for a schema.

        Args:
            schema: Schema. Its features' dimensions are the model's.
            top_k: int. Behaviors (clusters) that search keeps for each target. Defaults to 20.
            vectors: mapping of feature name to float ``[vocabulary_size, D]``, or None. What the
                tables start from, such as :meth:`tfdare.sequences.Sequences.vectors`. Defaults to
                None: random rows, of given attention, too.
            **kwargs: further arguments of the model; they replace the recipe's.
        """
        model = self._build(schema, top_k, **kwargs)
        if vectors is not None:
            model.embedding.start_from(vectors)
        return model

    def _build(self, schema, top_k, **kwargs):
        if not self.position:
            position = dataclasses.replace(schema.position, attention_dim=0, representation_dim=0)
            schema = dataclasses.replace(schema, position=position)
        parts = {name: make() for name, make in self.parts.items() if name not in kwargs}
        for name, make in (("attention", self.attention), ("pooling", self.pooling)):
            if kwargs.get(name) is None:
                kwargs[name] = make()
        kwargs = {**parts, **kwargs}
        if self.evidence:
            kwargs.setdefault("evidence", evidence())
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
_AVERAGED: dict[str, Any] = {
    "attention": UniformAttention,
    "search": None,
    "pooling": PlainPooling,
    "position": False,
}

MODELS: dict[str, Recipe] = {
    "DIN": Recipe(
        "DIN",
        "https://arxiv.org/abs/1706.06978",
        SharedEmbedding,
        attention=MLPAttention,
        position=False,
    ),
    "DIEN": Recipe(
        "DIEN",
        "https://arxiv.org/abs/1809.03672",
        SharedEmbedding,
        search=TimeOrderedSearch,
        pooling=EvolutionPooling,
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
    "TransAct": Recipe(
        "TransAct",
        "https://arxiv.org/abs/2306.00248",
        SharedEmbedding,
        search=TimeOrderedSearch,
        pooling=TransformerPooling,
        position=False,
    ),
    "MIRRN": Recipe(
        "MIRRN",
        "https://arxiv.org/abs/2411.15005",
        SharedEmbedding,
        search=GranularitySearch,
        pooling=FourierPooling,
    ),
    "DCNv2": Recipe(
        "DCN V2",
        "https://arxiv.org/abs/2008.13535",
        SharedEmbedding,
        **_AVERAGED,
        parts={"head": lambda: Head((400, 400, 400), cross=Cross(layers=5), name="head")},
    ),
    "FinalMLP": Recipe(
        "FinalMLP",
        "https://arxiv.org/abs/2304.00902",
        SharedEmbedding,
        **_AVERAGED,
        parts={"head": lambda: TwoStreamHead(name="head")},
    ),
    "DARE": Recipe(
        "DARE",
        _DARE,
        lambda schema: DecoupledEmbedding(schema, attention_given=True),
        pooling=lambda: TargetAwarePooling([ScaledAverage(name="average")], name="pooling"),
        evidence=True,
        vectors=True,
        parts={"auxiliary_weight": lambda: 0.0},
    ),
    "DARE-learned": Recipe("DARE, attention learned", _DARE, DecoupledEmbedding, evidence=True),
    "DARE-paper": Recipe("DARE, as published", _DARE, DecoupledEmbedding),
    "DARE-whole": Recipe("DARE, whole history", _DARE, DecoupledEmbedding, search=None),
}
"""Name on the command line -> recipe of the model."""
EVIDENCE, VECTORS = "evidence", "vectors"


def recipe_of(name: str) -> Recipe:
    """Returns the recipe of a model by name.

    A key of :data:`MODELS`, with ``+evidence`` where the head gets facts about the behaviors that
    search found (about all of the history, where the model does not search) and ``+vectors`` where
    tables start from given vectors: ``TWIN+evidence+vectors`` has what DARE has, but for the second
    table.

    Raises:
        ValueError: no such model, or it has the part already.

    Example:
        >>> recipe_of("TWIN+evidence").evidence
        True
    """
    base, *parts = name.split("+")
    recipe = MODELS.get(base)
    if recipe is None or set(parts) - {EVIDENCE, VECTORS} or len(set(parts)) < len(parts):
        raise ValueError(
            f"`model` must be one of {', '.join(sorted(MODELS))}, or one of these followed by "
            f"+{EVIDENCE}, +{VECTORS} or both. Received: {name!r}"
        )
    for part in parts:
        if getattr(recipe, part):
            raise ValueError(f"`model` {base!r} has {part} already. Received: {name!r}")
    return dataclasses.replace(
        recipe,
        title=" + ".join([recipe.title, *parts]),
        evidence=recipe.evidence or EVIDENCE in parts,
        vectors=recipe.vectors or VECTORS in parts,
    )


def evidence() -> list[tf.keras.layers.Layer]:
    """Makes the layers of facts about the behaviors found and the whole history, for the head."""
    return [
        MatchCounts(name="matches"),
        ScoreFacts(name="scores"),
        AffinityFacts(name="affinity"),
        BehaviorCount(name="count"),
        MeanScore(name="mean"),
    ]


def build_model(name: str, schema: Schema, **kwargs) -> RequestModel:
    """Builds a published model by name.

    Args:
        name: str. See :func:`recipe_of`.
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
    kwargs.setdefault("name", re.sub(r"[-+]", "_", name.lower()))
    return recipe_of(name).build(schema, **kwargs)


def DARE(schema: Schema, top_k: int = 20, vectors=None, **kwargs) -> TwoStageModel:
    """Builds DARE: Decoupled Attention and Representation Embeddings.

    Attention is given: its tables hold `vectors`, which `tfdare prepare` writes, and are never
    trained; representation starts from the same vectors and is learned. The head gets evidence of
    the behaviors found (:func:`evidence`); `evidence=[]` leaves it out.
    ``build_model("DARE-learned", ...)`` learns attention, too;
    ``build_model("DARE-paper", ...)`` is the published model.

    Args:
        schema: Schema. Its features' dimensions are the model's.
        top_k: int. Behaviors that search keeps for each target. Defaults to 20.
        vectors: mapping of feature name to float ``[vocabulary_size, D]``, or None: random rows, by
            which behaviors only attend to targets with the same ids.
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
    return build_model("DARE", schema, top_k=top_k, vectors=vectors, **kwargs)


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
