"""Predictions of a model for every candidate of a split, with facts about its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tfdare.compat import tf
from tfdare.data import read_requests
from tfdare.files import replacing
from tfdare.sequences import Sequences


@dataclass(frozen=True)
class Predictions:
    """Columns with one entry per candidate; padding and candidates of weight 0 are left out.

    Attributes:
        label: float32 ``[n]``.
        probability: float32 ``[n]``.
        user: int64 ``[n]``. Index of the user in `names`.
        request: int64 ``[n]``. Index of the request in the split.
        repeats: int32 ``[n, features]``. How often the candidate's value of each feature of one
            value occurs in the user's earlier history.
        history_length: int32 ``[n]``. Behaviors in the request's window.
        item: int32 ``[n]``. Row id of the candidate's item.
        names: list of str. Raw user ids, sorted.
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
        """Writes `label` (uint8), `probability` and `user` (int32) as a compressed npz, atomically.

        For the same sequences and split, users and their order are the same.
        """
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                label=(self.label > 0.5).astype(np.uint8),
                probability=self.probability.astype(np.float32),
                user=self.user.astype(np.int32),
            )


class Predictor:
    """Calls a model through one traced function, for batches of any size.

    Args:
        model: RequestModel.
        ask: function of model and requests to tensors, or None for the probabilities ``[U, C]``.
    """

    def __init__(self, model, ask: Callable | None = None):
        self._model = model
        self._ask = ask or (lambda model, requests: model(requests, training=False))
        self._call: Callable | None = None

    def __call__(self, requests: Mapping[str, tf.Tensor]):
        """Returns the model's output as arrays."""
        if self._call is None:
            like = {
                name: tf.TensorSpec([None, *value.shape[1:]], value.dtype, name)
                for name, value in requests.items()
            }
            graph = tf.function(lambda requests: self._ask(self._model, requests), autograph=False)
            self._call = graph.get_concrete_function(like)
        output = self._call(dict(requests))
        return tf.nest.map_structure(lambda value: value.numpy(), output)


def predict(
    model, sequences: Sequences, split: str, batch_size: int = 512, limit: int | None = None
) -> Predictions:
    """Predicts the probability of a click on every candidate of a split.

    Args:
        model: RequestModel, Predictor, or None for the facts alone (probabilities are then zero).
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once.
        limit: int or None. Stop after about this many candidates.
    """
    predictor = model if model is None or isinstance(model, Predictor) else Predictor(model)
    features = [feature.name for feature in sequences.schema.features if feature.max_values == 1]
    columns: dict[str, list] = {
        name: []
        for name in ("label", "probability", "user", "request", "repeats", "history_length", "item")
    }
    seen_requests = count = 0
    for requests, label, weight in read_requests(
        sequences, split, batch_size, with_history_facts=True
    ):
        users = requests.pop("user").numpy()
        repeats = [requests.pop(f"target_repeats_{name}").numpy() for name in features]
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
    users, joined["user"] = np.unique(joined["user"], return_inverse=True)
    return Predictions(**joined, names=[user.decode() for user in users.tolist()])
