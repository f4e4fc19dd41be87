"""What a model predicts for every candidate of a split, beside the facts of its requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.sequences import Sequences


@dataclass(frozen=True)
class Predictions:
    """One entry a candidate, padded ones left out.

    Attributes:
        label: float32 ``[n]``.
        probability: float32 ``[n]``.
        user: str ``[n]``, as integers that stand for users.
        request: int64 ``[n]``.
        repeats: int32 ``[n, features]``. How often the candidate's value of each feature of one
            value occurs in the user's earlier history.
        history_length: int32 ``[n]``. Behaviors in the request's window.
        item: int32 ``[n]``. Row id of the candidate's item.
        names: list of str. Of the users that `user` stands for.
    """

    label: np.ndarray
    probability: np.ndarray
    user: np.ndarray
    request: np.ndarray
    repeats: np.ndarray
    history_length: np.ndarray
    item: np.ndarray
    names: list[str]

    @property
    def clicked_before(self) -> np.ndarray:
        """bool ``[n]``. Whether the request's click is on an item of the user's earlier history."""
        before = np.zeros(int(self.request.max()) + 1, bool)
        np.logical_or.at(before, self.request, (self.repeats[:, 0] > 0) & (self.label > 0.5))
        return before[self.request]

    def save(self, path: str) -> None:
        """Writes `label` (uint8), `probability` and `user` (int32) as a compressed npz, put in
        place in one step; equal sequences and splits give equal users in equal order."""
        unfinished = f"{path}.tmp"
        with open(unfinished, "wb") as file:
            np.savez_compressed(
                file,
                label=(self.label > 0.5).astype(np.uint8),
                probability=self.probability.astype(np.float32),
                user=self.user.astype(np.int32),
            )
        os.replace(unfinished, path)


class Predictor:
    """A model as a graph that is traced once, for batches of any size.

    Args:
        model: RequestModel.
        ask: function of model and requests to tensors, or None for the probabilities ``[U, C]``.
    """

    def __init__(self, model, ask: Callable | None = None):
        self._model, self._call = model, None
        self._ask = ask or (lambda model, requests: model(requests, training=False))

    def __call__(self, requests: Mapping[str, tf.Tensor]):
        """What the model answers, as arrays."""
        if self._call is None:
            like = {
                name: tf.TensorSpec([None, *value.shape[1:]], value.dtype, name)
                for name, value in requests.items()
            }
            graph = tf.function(lambda given: self._ask(self._model, given), autograph=False)
            self._call = graph.get_concrete_function(like)
        return tf.nest.map_structure(lambda value: value.numpy(), self._call(dict(requests)))


def predict(
    model, sequences: Sequences, split: str, batch_size: int = 512, limit: int | None = None
) -> Predictions:
    """Probabilities of every candidate of a split.

    Args:
        model: RequestModel, Predictor, or None for the facts alone (probabilities are then zero).
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once.
        limit: int or None. Stop after about this many candidates.
    """
    predictor = model if model is None or isinstance(model, Predictor) else Predictor(model)
    names = [feature.name for feature in sequences.schema.features if feature.max_values == 1]
    columns: dict[str, list] = {
        name: []
        for name in ("label", "probability", "user", "request", "repeats", "history_length", "item")
    }
    seen_requests = count = 0
    for requests, label, weight in read_requests(
        sequences, split, batch_size, with_history_facts=True
    ):
        users = requests.pop("user").numpy()
        repeats = [requests.pop(f"target_repeats_{name}").numpy() for name in names]
        real = weight.numpy() > 0
        probability = np.zeros_like(label) if predictor is None else predictor(requests)
        request = np.broadcast_to(seen_requests + np.arange(len(users))[:, np.newaxis], real.shape)
        columns["label"].append(label.numpy()[real])
        columns["probability"].append(probability[real])
        columns["user"].append(np.broadcast_to(users[:, np.newaxis], real.shape)[real])
        columns["request"].append(request[real])
        columns["repeats"].append(np.stack(repeats, axis=-1)[real])
        length = requests["history_length"].numpy()[:, np.newaxis]
        columns["history_length"].append(np.broadcast_to(length, real.shape)[real])
        columns["item"].append(requests[f"target_{sequences.schema.item.name}"].numpy()[real])
        seen_requests += len(users)
        count += int(real.sum())
        if limit is not None and count >= limit:
            break
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    names, joined["user"] = np.unique(joined["user"], return_inverse=True)
    return Predictions(**joined, names=[name.decode() for name in names.tolist()])
