"""gRPC clients of an exported model: numpy in, numpy out, without TensorFlow."""

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.requests import one_request, score_inputs, stack
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError

__all__ = [
    "AsyncClient",
    "Client",
    "Prediction",
    "RankResult",
    "ScoreResult",
    "SearchResult",
    "ServingError",
    "one_request",
    "score_inputs",
    "stack",
]
