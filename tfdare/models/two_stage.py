"""The two-stage model: search the whole history, then score with what was found."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

from tfdare.compat import KERAS_3, deserialize, register, serialize, tf
from tfdare.layers import (
    Head,
    RoleEmbedding,
    ScaledDotAttention,
    TargetAwarePooling,
    TopKSearch,
    gather_behaviors,
    masked_softmax,
    newest_first,
)
from tfdare.losses import CandidateCrossentropy


class Outputs(NamedTuple):
    """What :meth:`TwoStageModel.forward` computes: float ``[U, C]`` each, the second or None."""

    probability: tf.Tensor
    auxiliary_probability: tf.Tensor | None


@register
class TwoStageModel(tf.keras.Model):
    """Embedding x attention x search x pooling x head over requests.

    ``model(requests)`` gives probabilities ``[U, C]`` and is nothing but
    ``model.score(model.search(requests))``. In training, a second head on the softmax over the
    *whole* history sends gradients to all behaviors, not only to the K found; its loss is added.

    Args:
        embedding: RoleEmbedding. Tables by role; also carries the schema.
        attention: Layer. ``[U, C, N]`` scores. Defaults to `ScaledDotAttention()`.
        search: TopKSearch. Defaults to `TopKSearch(20)`.
        pooling: Layer. Defaults to `TargetAwarePooling()`.
        head: Head. Defaults to `Head((200, 80))`.
        auxiliary_head: Head or None. Defaults to `Head((200,), batch_norm=False)`; pass
            `auxiliary_weight=0` to leave it out.
        auxiliary_weight: float. Weight of the auxiliary loss. Defaults to 1.

    Call arguments:
        requests: mapping of ``history_<feature>`` int ``[U, N]``, ``history_length`` int ``[U]``,
            ``target_<feature>`` int ``[U, C]`` and, optionally, ``target_length`` int ``[U]``.

    Returns:
        float ``[U, C]``, probabilities.

    Raises:
        ValueError: a tensor is missing from the requests, or `auxiliary_weight` is negative.

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), sections 4 and 5.1
    """

    def __init__(
        self,
        embedding: RoleEmbedding,
        attention=None,
        search=None,
        pooling=None,
        head=None,
        auxiliary_head=None,
        auxiliary_weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if auxiliary_weight < 0:
            raise ValueError(
                f"`auxiliary_weight` must not be negative. Received: {auxiliary_weight}"
            )
        self.embedding = deserialize(embedding)
        self.attention_layer = deserialize(attention) or ScaledDotAttention(name="attention")
        self.search_layer = deserialize(search) or TopKSearch(name="search")
        self.pooling_layer = deserialize(pooling) or TargetAwarePooling(name="pooling")
        self.head = deserialize(head) or Head(name="head")
        self.auxiliary_weight = float(auxiliary_weight)
        self.auxiliary_head = None
        if self.auxiliary_weight:
            self.auxiliary_head = deserialize(auxiliary_head) or Head(
                (200,), batch_norm=False, name="auxiliary_head"
            )
        self._auxiliary_probability = None
        self.build()

    def build(self, input_shape=None):
        """Makes every weight: the schema knows all shapes, no data is needed."""
        if self.built:
            return
        self.embedding.build()
        pooled = (None, None, 3 * self.embedding.representation_dim)
        self.head.build(pooled)
        if self.auxiliary_head is not None:
            self.auxiliary_head.build(pooled)
        self.built = True

    @property
    def schema(self):
        """The schema the model was built from."""
        return self.embedding.schema

    def attend(self, requests: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Attention score of every behavior for every target, unmasked.

        Returns:
            float ``[U, C, N]``, newest behavior first: place ``j`` is position ``j + 1``.
        """
        requests = self._tensors(requests, "history_length")
        return self._attend(self._history(requests), self._ids(requests, "target"))

    def search(self, requests: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The first stage.

        Args:
            requests: as of the model, ``target_length`` not needed.

        Returns:
            All that :meth:`score` takes: ``behavior_index`` int32, ``attention_score`` float,
            ``behavior_<feature>``, ``behavior_position`` int32, each ``[U, C, K]``, and the
            targets. -1 (index) and 0 (position) where the history had fewer than K behaviors.
        """
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        history = self._history(requests)
        scores = self._attend(history, self._ids(requests, "target"))
        place, score = self.search_layer(scores, length)
        index = tf.where(place >= 0, length[:, tf.newaxis, tf.newaxis] - 1 - place, -1)
        targets = {name: requests[name] for name in requests if name.startswith("target_")}
        return {
            **targets,
            **gather_behaviors(history, place),
            "behavior_index": index,
            "attention_score": score,
        }

    def score(self, found: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The second stage.

        Args:
            found: mapping of ``target_<feature>`` int ``[U, C]``, ``behavior_<feature>`` int,
                ``behavior_position`` int and ``attention_score`` float, each ``[U, C, K]``.
                Places with position 0 carry no behavior.

        Returns:
            float ``[U, C]``, probabilities.
        """
        found = self._tensors(found, "behavior_position", "attention_score")
        position = found["behavior_position"]
        weights = masked_softmax(found["attention_score"], position > 0)
        behaviors = self.embedding.representation(self._ids(found, "behavior"), position)
        pooled = self.pooling_layer(self._target(found), weights, behaviors)
        logits = self.head(pooled, real=self._real_targets(found), training=training)
        return tf.sigmoid(logits)

    def forward(self, requests: Mapping[str, tf.Tensor], training: bool = False) -> Outputs:
        """Both heads in one pass over the history, for training.

        Every behavior's representation is gathered once for all candidates and both heads; the K
        kept come in as weights that are zero elsewhere, so one product pools for both.
        """
        requests = self._tensors(requests, "history_length")
        if self.auxiliary_head is None:
            return Outputs(self.score(self.search(requests), training=training), None)
        length = tf.cast(requests["history_length"], tf.int32)
        history = self._history(requests)
        scores = self._attend(history, self._ids(requests, "target"))
        place, kept = self.search_layer(scores, length)
        position = _positions(history)
        weights = tf.concat(
            [
                _spread(masked_softmax(kept, place >= 0), place, tf.shape(scores)),
                masked_softmax(scores, (position <= length[:, tf.newaxis])[:, tf.newaxis, :]),
            ],
            axis=1,
        )
        target = self._target(requests)
        pooled = self.pooling_layer(
            tf.concat([target, target], axis=1),
            weights,
            self.embedding.representation(history, position),
        )
        searched, whole = tf.split(pooled, 2, axis=1)
        real = self._real_targets(requests)
        return Outputs(
            tf.sigmoid(self.head(searched, real=real, training=training)),
            tf.sigmoid(self.auxiliary_head(whole, training=training)),
        )

    def call(self, requests, training=None):
        if not training:
            return self.score(self.search(requests))
        outputs = self.forward(requests, training=True)
        # Handed to compute_loss, which Keras calls next in the same step.
        self._auxiliary_probability = outputs.auxiliary_probability
        return outputs.probability

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, *args, **kwargs):
        """The compiled loss, plus the auxiliary loss while training."""
        auxiliary, self._auxiliary_probability = self._auxiliary_probability, None
        if auxiliary is None:
            return super().compute_loss(x, y, y_pred, sample_weight, *args, **kwargs)
        added = self.auxiliary_weight * CandidateCrossentropy()(y, auxiliary, sample_weight)
        if KERAS_3:
            return super().compute_loss(x, y, y_pred, sample_weight, *args, **kwargs) + added
        # Keras 2 logs as `loss` what passes here, not what is returned.
        losses = [*self.losses, added]
        return self.compiled_loss(y, y_pred, sample_weight, regularization_losses=losses)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "embedding": serialize(self.embedding),
            "attention": serialize(self.attention_layer),
            "search": serialize(self.search_layer),
            "pooling": serialize(self.pooling_layer),
            "head": serialize(self.head),
            "auxiliary_head": self.auxiliary_head and serialize(self.auxiliary_head),
            "auxiliary_weight": self.auxiliary_weight,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)

    def _attend(self, history, target):
        return self.attention_layer(
            self.embedding.attention(target),
            self.embedding.attention(history),
            self.embedding.position_score(_positions(history)),
        )

    def _history(self, requests):
        """Row ids of the behaviors, newest first."""
        length = requests["history_length"]
        return {
            name: newest_first(ids, length) for name, ids in self._ids(requests, "history").items()
        }

    def _ids(self, tensors, kind):
        names = [f"{kind}_{name}" for name in self.schema.names]
        tensors = self._tensors(tensors, *names)
        return {name: tensors[key] for name, key in zip(self.schema.names, names)}

    def _real_targets(self, tensors):
        if "target_length" not in tensors:
            return None
        candidates = tf.shape(tensors[f"target_{self.schema.item.name}"])[1]
        return tf.sequence_mask(tensors["target_length"], candidates)

    def _target(self, tensors):
        ids = self._ids(tensors, "target")
        return self.embedding.representation(ids, tf.zeros_like(ids[self.schema.item.name]))

    def _tensors(self, given, *names):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"Missing tensors {missing}. Received: {sorted(given)}")
        return {name: tf.convert_to_tensor(value) for name, value in given.items()}


def _positions(history):
    """Distance to the target of each place, newest first: int32 ``[N]``, 1 to N."""
    return tf.range(1, tf.shape(next(iter(history.values())))[1] + 1)


def _spread(weights, place, shape):
    """Weights ``[U, C, K]`` at their places in ``[U, C, N]``; places of -1 carry no weight."""
    users, candidates, behaviors = shape[0], shape[1], shape[2]
    row = tf.reshape(tf.range(users * candidates) * behaviors, [users, candidates, 1])
    place = tf.where(place >= 0, row + place, -1)  # a negative segment is dropped
    flat = tf.math.unsorted_segment_sum(weights, place, users * candidates * behaviors)
    return tf.reshape(flat, shape)
