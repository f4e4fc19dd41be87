"""gRPC clients of an exported model: numpy in, numpy out, without TensorFlow."""

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.results import Prediction, RankResult, ScoreResult, SearchResult, ServingError
from tfdare.sequences.requests import one_request, score_inputs, stack

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
