"""Results and errors of the clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import numpy as np


class ServingError(Exception):
    """A call failed, at the server or on the way to it.

    Attributes:
        code: grpc.StatusCode. For instance ``grpc.StatusCode.NOT_FOUND``.
        message: str. The server's message.
        address: str. The server's address.
    """

    def __init__(self, code: grpc.StatusCode, message: str, address: str):
        super().__init__(f"{code.name} from {address}: {message}")
        self.code = code
        self.message = message
        self.address = address


@dataclass(frozen=True)
class Prediction:
    """Outputs of one signature, and the version that answered.

    Attributes:
        outputs: mapping of output name to array.
        model: str. The model that answered.
        version: int. Its version.
    """

    outputs: Mapping[str, np.ndarray]
    model: str
    version: int


@dataclass(frozen=True)
class SearchResult:
    """The behaviors that search keeps for each candidate.

    Attributes:
        behavior_index: int32 ``[U, C, K]``. Index into the history, -1 for none.
        attention_score: float32 ``[U, C, K]``. 0 where there is none.
        version: int. The version that answered.
        mean_score: float32 ``[U, C, parts]`` or None. Mean attention score of the whole history
            by feature; None where the model's score stage does not need it.
    """

    behavior_index: np.ndarray
    attention_score: np.ndarray
    version: int
    mean_score: np.ndarray | None = None


@dataclass(frozen=True)
class ScoreResult:
    """Click probabilities.

    Attributes:
        probability: float32 ``[U, C]``.
        version: int. The version that answered.
    """

    probability: np.ndarray
    version: int


@dataclass(frozen=True)
class RankResult:
    """Click probabilities, and the behaviors that they are based on.

    Attributes:
        probability: float32 ``[U, C]``.
        behavior_index: int32 ``[U, C, K]`` or None. Index into the history, -1 for none; None
            where the model does not search.
        attention_score: float32 ``[U, C, K]`` or None. 0 where there is none.
        version: int. The version that answered (of score, where there were two calls).
        mean_score: float32 ``[U, C, parts]`` or None. As of :class:`SearchResult`, where
            there were two calls.
    """

    probability: np.ndarray
    behavior_index: np.ndarray | None
    attention_score: np.ndarray | None
    version: int
    mean_score: np.ndarray | None = None

    @property
    def searches(self) -> bool:
        """Whether the model searches, and so can be split into search and score."""
        return self.behavior_index is not None
