"""The two-stage model: search the whole history, then score with what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfdare.compat import deserialize, register, serialize, tf
from tfdare.layers import (
    Head,
    LinearPooling,
    RoleEmbedding,
    ScaledDotAttention,
    TargetAwarePooling,
    TopKSearch,
    gather_behaviors,
)
from tfdare.layers.embedding import HISTORY, TARGET
from tfdare.layers.pooling import pool_and_compare, pool_shared
from tfdare.layers.search import spread, take
from tfdare.layers.top_k import Blocks, select
from tfdare.models.request_model import Outputs, RequestModel, _positions


@register
class TwoStageModel(RequestModel):
    """Embedding x attention x search x pooling x head over requests.

    ``model(requests)`` gives probabilities ``[U, C]`` and is nothing but
    ``model.score(model.search(requests))``. In training, a second head on the softmax over the
    *whole* history sends gradients to all behaviors, not only to the K found; its loss is added.

    Args:
        embedding: RoleEmbedding. Tables by role; also carries the schema.
        attention: Layer. ``[U, C, N]`` scores. Defaults to `ScaledDotAttention()`.
        search: Search. Defaults to `TopKSearch(20)`.
        pooling: Layer. Defaults to `TargetAwarePooling()`.
        evidence: sequence of Layer. Facts about what was found, for the head, such as
            `MatchCounts()`. Defaults to none.
        head: Head. Defaults to `Head((200, 80))`.
        auxiliary_pooling: LinearPooling. Of the whole history, for the auxiliary head. Defaults to
            `TargetAwarePooling()`.
        auxiliary_head: Head or None. Defaults to `Head((200,), batch_norm=False)`; pass
            `auxiliary_weight=0` to leave it out.
        auxiliary_weight: float. Weight of the auxiliary loss. Defaults to 1.

    Call arguments, returns: see :class:`tfdare.models.RequestModel`.

    Raises:
        ValueError: a tensor is missing from the requests or has too few axes, `auxiliary_weight`
            is negative, search keeps more behaviors than the schema's window holds, or it compares
            a feature that the schema lacks.

    References:
        - [DARE](https://arxiv.org/abs/2410.02604), sections 4 and 5.1
    """

    def __init__(
        self,
        embedding: RoleEmbedding,
        attention=None,
        search=None,
        pooling=None,
        evidence: Sequence = (),
        head=None,
        auxiliary_pooling=None,
        auxiliary_head=None,
        auxiliary_weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(embedding, attention, pooling, evidence, head, **kwargs)
        if auxiliary_weight < 0:
            raise ValueError(
                f"`auxiliary_weight` must not be negative. Received: {auxiliary_weight}"
            )
        self.search_layer = deserialize(search) or TopKSearch(name="search")
        window = self.schema.window
        for name in ("top_k", "recent"):
            if getattr(self.search_layer, name) > window:
                raise ValueError(
                    f"`{name}` must not exceed the schema's window of {window} behaviors. "
                    f"Received: {name}={getattr(self.search_layer, name)}"
                )
        self.auxiliary_weight = float(auxiliary_weight)
        self.auxiliary_head = self.auxiliary_pooling = None
        if self.auxiliary_weight:
            self.auxiliary_pooling = deserialize(auxiliary_pooling) or TargetAwarePooling(
                name="auxiliary_pooling"
            )
            self.auxiliary_head = deserialize(auxiliary_head) or Head(
                (200,), batch_norm=False, name="auxiliary_head"
            )
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        self._check_feature(self.search_layer)
        self.search_layer.build(None)
        if self.auxiliary_head is not None:
            dim = self.embedding.representation_dim
            self.auxiliary_pooling.build((None, None, dim))
            self.auxiliary_head.build((None, None, self.auxiliary_pooling.output_dim(dim)))
        super().build(input_shape)

    def search(self, requests: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The first stage.

        Args:
            requests: as of the model, ``target_length`` not needed.

        Returns:
            All that :meth:`score` takes: ``behavior_index`` int32, ``attention_score`` float32,
            ``behavior_<feature>``, ``behavior_position`` int32, each ``[U, C, K]``, and the
            targets and the context. -1 (index) and 0 (position) where the history had fewer than
            K behaviors. K is `search_layer.slots`.
        """
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        if self._by_product:
            place, score = self._find(requests, length)
        else:
            place, score = self._search(
                self._history(requests), self._ids(requests, "target"), length
            )
        return self._found(requests, place, score)

    def score(self, found: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The second stage.

        Args:
            found: mapping of ``target_<feature>`` int ``[U, C]``, ``behavior_<feature>`` int,
                ``behavior_position`` int and ``attention_score`` float, each ``[U, C, K]``, and
                ``behavior_time_gap`` and ``context_<feature>`` where the schema has them.
                Places with position 0 carry no behavior.

        Returns:
            float32 ``[U, C]``, probabilities.
        """
        found, *given = self._of_found(found)
        return tf.sigmoid(self._score(found, *given, training))

    def represent(self, requests):
        _, target, ids, position, scores, real = self._of_found(self.search(requests))
        found = self.embedding.representation(ids, position)
        return self.pooling_layer(target, found, scores, real, top_k=self.search_layer.top_k)

    def forward(self, requests: Mapping[str, tf.Tensor], training: bool = False) -> Outputs:
        """Both heads in one pass over the history, for training.

        Every behavior's representation is gathered once for all candidates and both heads; the K
        kept come in as weights that are zero elsewhere, so one product pools for both.
        """
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        history, ids = self._history(requests), self._ids(requests, "target")
        with self.embedding.looked_up_once(history, ids):
            return self._forward(requests, history, ids, length, training)

    def _forward(self, requests, history, ids, length, training):
        if self.auxiliary_head is None:
            found = self._found(requests, *self._search(history, ids, length))
            return Outputs(self.score(found, training=training), None)
        place, kept, scores = self._search(history, ids, length, with_all=True)
        position, target = _positions(history), self._target(requests)
        found, real, top_k = gather_behaviors(history, place), place >= 0, self.search_layer.top_k
        behaviors = {name.removeprefix("behavior_"): value for name, value in found.items()}
        every = (position <= length[:, tf.newaxis])[:, tf.newaxis, :]
        whole = self.auxiliary_pooling.weigh(scores, every, tf.shape(scores)[-1])
        linear = isinstance(self.pooling_layer, LinearPooling)
        weights = [
            spread(one, place, tf.shape(scores))
            for one in (self.pooling_layer.weigh(kept, real, top_k) if linear else [])
        ]
        parts, affinity = self.embedding.representation_parts(history, position), None
        joined = tf.concat([*weights, *whole], axis=1)
        if linear and self._needs_affinity:
            sums, affinity = pool_and_compare(joined, _scaled(target), parts)
        else:
            sums = pool_shared(joined, parts)
        sums = tf.split(sums, len(weights) + len(whole), axis=1)
        if linear:
            pooled = self.pooling_layer.combine(target, sums[: len(weights)])
            if affinity is not None:
                affinity = take(affinity, place)
            facts = self._facts(ids, behaviors, kept, real, top_k, affinity)
            logits = self._logits(self.head, pooled, requests, facts, training)
        else:
            logits = self._score(
                requests, target, behaviors, found["behavior_position"], kept, real, training
            )
        aside = self.auxiliary_pooling.combine(target, sums[len(weights) :])
        auxiliary = self.auxiliary_head(aside, real=self._real_targets(requests), training=training)
        return Outputs(tf.sigmoid(logits), tf.sigmoid(tf.cast(auxiliary, tf.float32)))

    def call(self, requests, training=None):
        if not training:
            return self.score(self.search(requests))
        return super().call(requests, training=True)

    def get_config(self) -> dict[str, Any]:
        auxiliary = {"auxiliary_weight": self.auxiliary_weight}
        if self.auxiliary_head is not None:
            auxiliary["auxiliary_pooling"] = serialize(self.auxiliary_pooling)
            auxiliary["auxiliary_head"] = serialize(self.auxiliary_head)
        return {**super().get_config(), "search": serialize(self.search_layer), **auxiliary}

    @property
    def _by_product(self):
        """Whether the scores are inner products, and ranked as they are."""
        product = type(self.attention_layer).call is ScaledDotAttention.call
        sorts = self.embedding.compute_dtype != "float64"  # of whose bits sorting would lose some
        return product and sorts and getattr(self.search_layer, "takes_product", False)

    def _find(self, requests, length):
        """Places and scores of what search finds, without the scores of all at once."""
        history = self._behaviors(requests, "history")
        target = self._ids(requests, "target")
        item = self.schema.item.name
        behaviors = tf.shape(history[item])[1]
        blocks = Blocks(
            behaviors, tf.size(target[item]), self.search_layer.top_k, longest=self.schema.window
        )
        # Ids are laid out, not what they stand for, which is wider.
        column = tf.minimum(length, behaviors)[:, tf.newaxis] - 1 - blocks.places
        there, column = column >= 0, tf.maximum(column, 0)
        history = {name: tf.gather(ids, column, batch_dims=1) for name, ids in history.items()}
        offset = self._offset(blocks.places + 1, history)
        offset = tf.zeros([]) if offset is None else offset
        if offset.shape.rank == 3:
            offset = offset[:, 0]
        offset = tf.where(there, offset, tf.constant(-float("inf"), offset.dtype))
        query, key = self.attention_layer.as_product(
            self.embedding.attention_parts(target, TARGET),
            self.embedding.attention_parts(history, HISTORY),
            offset,
        )
        return self.search_layer.find(query, key, blocks, length)

    def _found(self, requests, place, score):
        """What :meth:`score` takes, given the places that search chose."""
        length = tf.cast(requests["history_length"], tf.int32)[:, tf.newaxis, tf.newaxis]
        index = select(place >= 0, length - 1 - place, place)  # -1 as it is
        kept = {
            name: requests[name] for name in requests if name.startswith(("target_", "context_"))
        }
        return {
            **kept,
            **gather_behaviors(self._behaviors(requests, "history"), index),
            "behavior_position": place + 1,
            "behavior_index": index,
            "attention_score": tf.cast(score, tf.float32),
        }

    def _search(self, history, target, length, with_all=False):
        scores = self._attend(history, target, length, in_parts=with_all)
        query, key, ids = None, None, {name: history[name] for name in self.schema.names}
        if self.search_layer.needs_embeddings:
            query = self.embedding.attention(target, TARGET)
            key = self.embedding.attention(ids, HISTORY)
        place, score = self.search_layer(
            scores, length, query=query, key=key, target=target, history=ids
        )
        return (place, score, scores) if with_all else (place, score)

    def _of_found(self, found):
        """What :meth:`score` was given, in the order that :meth:`_score` takes it."""
        found = self._tensors(found, "behavior_position", "attention_score")
        position = found["behavior_position"]
        ids = self._behaviors(found, "behavior")
        target, real = self._target(found), position > 0
        return found, target, ids, position, tf.cast(found["attention_score"], target.dtype), real

    def _score(self, tensors, target, behaviors, position, scores, real, training):
        """Logits from what was found."""
        top_k = self.search_layer.top_k
        found = self.embedding.representation(behaviors, position)
        pooled = self.pooling_layer(target, found, scores, real, top_k=top_k)
        ids, affinity = self._ids(tensors, "target"), None
        if self._needs_affinity:
            affinity = tf.linalg.matvec(found, _scaled(target))
        facts = self._facts(ids, behaviors, scores, real, top_k, affinity)
        return self._logits(self.head, pooled, tensors, facts, training)

    @property
    def _needs_affinity(self):
        return any(getattr(layer, "needs_affinity", False) for layer in self.evidence)


def _scaled(target):
    return target * float(target.shape[-1]) ** -0.5
