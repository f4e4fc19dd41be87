"""The published models, each a composition of this package's layers."""

from __future__ import annotations

from typing import Callable

from tfdare.layers import DecoupledEmbedding, SharedEmbedding, TopKSearch
from tfdare.models.two_stage import TwoStageModel
from tfdare.schema import Schema


def DARE(schema: Schema, top_k: int = 20, **kwargs) -> TwoStageModel:
    """Decoupled Attention and Representation Embeddings.

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
    kwargs.setdefault("name", "dare")
    return TwoStageModel(DecoupledEmbedding(schema), search=TopKSearch(top_k), **kwargs)


def TWIN(schema: Schema, top_k: int = 20, **kwargs) -> TwoStageModel:
    """Two-stage Interest Network: the same two stages over one shared table per feature.

    Args:
        schema: Schema. `attention_dim` must equal `representation_dim`.
        top_k: int. Behaviors that search keeps for each target. Defaults to 20.
        **kwargs: further arguments of :class:`TwoStageModel`.

    References:
        - [TWIN: TWo-stage Interest Network](https://arxiv.org/abs/2302.02352)
    """
    kwargs.setdefault("name", "twin")
    return TwoStageModel(SharedEmbedding(schema), search=TopKSearch(top_k), **kwargs)


MODELS: dict[str, Callable[..., TwoStageModel]] = {"DARE": DARE, "TWIN": TWIN}
"""Name on the command line -> function that builds the model from a schema."""


def build_model(name: str, schema: Schema, **kwargs) -> TwoStageModel:
    """A published model by name.

    Args:
        name: str. A key of :data:`MODELS`.
        schema: Schema.
        **kwargs: arguments of that model.

    Raises:
        ValueError: no such model.
    """
    if name not in MODELS:
        raise ValueError(f"`model` must be one of {sorted(MODELS)}. Received: {name!r}")
    return MODELS[name](schema, **kwargs)
