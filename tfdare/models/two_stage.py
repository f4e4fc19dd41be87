"""The two-stage model: search the whole history, then score with the behaviors found."""

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
from tfdare.losses import CandidateCrossentropy
from tfdare.models.request_model import (
    Outputs,
    RequestModel,
    mean_of_products,
    positions_of,
    scale_target,
)


@register
class TwoStageModel(RequestModel):
    """Embedding x attention x search x pooling x head over requests.

    ``model(requests)`` gives probabilities ``[U, C]`` and equals
    ``model.score(model.search(requests))``; ``model(model.search(requests))`` is the same. In
    training, an auxiliary head on the softmax over the *whole* history sends gradients to all
    behaviors, not only to the K found; its loss is added.

    Args:
        embedding: RoleEmbedding. Tables by role; also carries the schema.
        attention: Layer. ``[U, C, N]`` scores. Defaults to `ScaledDotAttention()`.
        search: Search. Defaults to `TopKSearch(20)`.
        pooling: Layer. Defaults to `TargetAwarePooling()`.
        evidence: sequence of Layer. Facts about the behaviors found, for the head, such as
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

    @property
    def searches(self) -> bool:
        return True

    @property
    def searches_once(self) -> bool:
        """Whether training leaves what search finds as it is, so that one search is enough.

        True where attention is given and no auxiliary head reads the whole history: the model then
        takes what :meth:`search` returns in the place of requests, in training, too.
        """
        learned = self.attention_layer.trainable_weights or self.auxiliary_head is not None
        return self.embedding.attention_given and not learned

    def search(self, requests: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Runs the first stage: finds K behaviors for each target.

        Args:
            requests: as of the model, ``target_length`` not needed.

        Returns:
            The inputs of :meth:`score`, and ``behavior_index`` int32 ``[U, C, K]``, indices into
            the history as given. -1 (index) and 0 (position) where the history had fewer than K
            behaviors. K is `search_layer.slots`.
        """
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        if self._searches_by_product:
            results = self._search_in_blocks(requests, length)
        else:
            *results, _ = self._search_by_scores(
                self._history(requests), self._ids(requests, "target"), length
            )
        return self._score_inputs(requests, *results)

    def score(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Runs the second stage: computes probabilities from the behaviors found.

        Args:
            inputs: mapping of ``target_<feature>`` int ``[U, C]``, ``behavior_<feature>`` int,
                ``behavior_position`` int and ``attention_score`` float, each ``[U, C, K]``, and
                ``behavior_time_gap`` and ``context_<feature>`` where the schema has them, and
                ``mean_score`` float ``[U, C, parts]`` where :meth:`search` returns it.
                Slots with position 0 carry no behavior.
            training: bool. Whether the head runs in training mode. Defaults to False.

        Returns:
            float32 ``[U, C]``, probabilities.
        """
        names = ["behavior_position", "attention_score"]
        if self.needs_mean_score:
            names.append("mean_score")
        inputs = self._tensors(inputs, *names)
        target, ids, position, scores, real = self._unpack_score_inputs(inputs)
        mean = inputs.get("mean_score")
        return tf.sigmoid(
            self._score_logits(inputs, target, ids, position, scores, real, mean, training)
        )

    def represent(self, requests):
        inputs = self.search(requests)
        target, ids, position, scores, real = self._unpack_score_inputs(inputs)
        behaviors = self.embedding.representation(ids, position)
        return self.pooling_layer(target, behaviors, scores, real, top_k=self.search_layer.top_k)

    def forward(self, requests: Mapping[str, tf.Tensor], training: bool = False) -> Outputs:
        """Computes the probabilities of both heads in one pass over the history, for training.

        Every behavior's representation is gathered once for all candidates and both heads. Weights
        over the whole history, zero except at the K behaviors kept, let one product pool for both
        heads.
        """
        if self.searches_once:
            return Outputs(self.score(self._searched(requests), training=training), None)
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        history, ids = self._history(requests), self._ids(requests, "target")
        with self.embedding.looked_up_once(history, ids):
            return self._forward(requests, history, ids, length, training)

    def _forward(self, requests, history, ids, length, training):
        if self.auxiliary_head is None:
            *results, _ = self._search_by_scores(history, ids, length)
            inputs = self._score_inputs(requests, *results)
            return Outputs(self.score(inputs, training=training), None)
        indices, kept, mean, scores = self._search_by_scores(history, ids, length, in_parts=True)
        position, target = positions_of(history), self._target(requests)
        real, top_k = indices >= 0, self.search_layer.top_k
        behaviors = {
            name.removeprefix("behavior_"): values
            for name, values in gather_behaviors(history, indices).items()
        }
        every = (position <= length[:, tf.newaxis])[:, tf.newaxis, :]
        whole = self.auxiliary_pooling.weigh(scores, every, tf.shape(scores)[-1])
        linear = isinstance(self.pooling_layer, LinearPooling)
        weights = [
            spread(weight, indices, tf.shape(scores))
            for weight in (self.pooling_layer.weigh(kept, real, top_k) if linear else [])
        ]
        parts, affinity = self.embedding.representation_parts(history, position), None
        joined = tf.concat([*weights, *whole], axis=1)
        if linear and self._needs_affinity:
            sums, affinity = pool_and_compare(joined, scale_target(target), parts)
        else:
            sums = pool_shared(joined, parts)
        sums = tf.split(sums, len(weights) + len(whole), axis=1)
        if linear:
            pooled = self.pooling_layer.combine(target, sums[: len(weights)])
            if affinity is not None:
                affinity = take(affinity, indices)
            facts = self._evidence_facts(
                ids, behaviors, kept, real, top_k, affinity=affinity, mean_score=mean
            )
            logits = self._logits(self.head, pooled, requests, facts, training)
        else:
            logits = self._score_logits(
                requests, target, behaviors, behaviors["position"], kept, real, mean, training
            )
        pooled = self.auxiliary_pooling.combine(target, sums[len(weights) :])
        real_targets = self._real_targets(requests)
        auxiliary = self.auxiliary_head(pooled, real=real_targets, training=training)
        return Outputs(tf.sigmoid(logits), tf.sigmoid(tf.cast(auxiliary, tf.float32)))

    def call(self, requests, training=None):
        if not training:
            return self.score(self._searched(requests))
        return super().call(requests, training=True)

    def _searched(self, requests):
        """Returns the inputs of :meth:`score`: requests that were searched already, or search."""
        return requests if "behavior_position" in requests else self.search(requests)

    def auxiliary_loss(self, label, probability, weight):
        return self.auxiliary_weight * CandidateCrossentropy()(label, probability, weight)

    def get_config(self) -> dict[str, Any]:
        auxiliary: dict[str, Any] = {"auxiliary_weight": self.auxiliary_weight}
        if self.auxiliary_head is not None:
            auxiliary["auxiliary_pooling"] = serialize(self.auxiliary_pooling)
            auxiliary["auxiliary_head"] = serialize(self.auxiliary_head)
        return {**super().get_config(), "search": serialize(self.search_layer), **auxiliary}

    @property
    def _searches_by_product(self):
        """Whether search ranks by attention scores that are inner products."""
        product = type(self.attention_layer).call is ScaledDotAttention.call
        sortable = self.embedding.compute_dtype != "float64"  # sort keys hold 32 bits of a score
        return product and sortable and getattr(self.search_layer, "takes_product", False)

    def _search_in_blocks(self, requests, length):
        """Returns indices, scores and the mean score, without all scores in memory."""
        history = self._behaviors(requests, "history")
        target = self._ids(requests, "target")
        item = self.schema.item.name
        behaviors = tf.shape(history[item])[1]
        blocks = Blocks(
            behaviors, tf.size(target[item]), self.search_layer.top_k, longest=self.schema.window
        )
        # Arranges ids in the layout before look-up: embeddings are wider.
        column = tf.minimum(length, behaviors)[:, tf.newaxis] - 1 - blocks.indices
        real, column = column >= 0, tf.maximum(column, 0)
        history = {name: tf.gather(ids, column, batch_dims=1) for name, ids in history.items()}
        offset = self._offset(blocks.indices + 1, history)
        offset = tf.zeros([]) if offset is None else offset
        if offset.shape.rank == 3:
            offset = offset[:, 0]
        queries = self.embedding.attention_parts(target, TARGET)
        keys = self.embedding.attention_parts(history, HISTORY)
        mean = mean_of_products(queries, keys, real) if self.needs_mean_score else None
        offset = tf.where(real, offset, tf.constant(-float("inf"), offset.dtype))
        query, key = self.attention_layer.as_product(queries, keys, offset)
        return *self.search_layer.find(query, key, blocks, length), mean

    def _search_by_scores(self, history, target, length, in_parts=False):
        """Returns indices, scores and the mean score, and the scores of all behaviors."""
        scores = self._attend(history, target, length, in_parts)
        query, key, ids = None, None, {name: history[name] for name in self.schema.names}
        if self.search_layer.needs_embeddings:
            query = self.embedding.attention(target, TARGET)
            key = self.embedding.attention(ids, HISTORY)
        indices, score = self.search_layer(
            scores, length, query=query, key=key, target=target, history=ids
        )
        return indices, score, self._mean_score(history, target, length), scores

    def _score_inputs(self, requests, indices, score, mean):
        """Returns the inputs of :meth:`score` for the indices that search found."""
        length = tf.cast(requests["history_length"], tf.int32)[:, tf.newaxis, tf.newaxis]
        behavior_index = select(indices >= 0, length - 1 - indices, indices)  # -1 stays
        kept = {
            name: requests[name] for name in requests if name.startswith(("target_", "context_"))
        }
        return {
            **kept,
            **gather_behaviors(self._behaviors(requests, "history"), behavior_index),
            "behavior_position": indices + 1,
            "behavior_index": behavior_index,
            "attention_score": tf.cast(score, tf.float32),
            **({} if mean is None else {"mean_score": tf.cast(mean, tf.float32)}),
        }

    def _unpack_score_inputs(self, inputs):
        """Returns target, ids, positions and scores of the behaviors, and which are real."""
        target, position = self._target(inputs), inputs["behavior_position"]
        scores = tf.cast(inputs["attention_score"], target.dtype)
        return target, self._behaviors(inputs, "behavior"), position, scores, position > 0

    def _score_logits(self, tensors, target, ids, position, scores, real, mean, training):
        """Returns logits from the ids, positions and scores of the behaviors found."""
        top_k = self.search_layer.top_k
        behaviors = self.embedding.representation(ids, position)
        pooled = self.pooling_layer(target, behaviors, scores, real, top_k=top_k)
        target_ids, affinity = self._ids(tensors, "target"), None
        if self._needs_affinity:
            affinity = tf.linalg.matvec(behaviors, scale_target(target))
        facts = self._evidence_facts(
            target_ids, ids, scores, real, top_k, affinity=affinity, mean_score=mean
        )
        return self._logits(self.head, pooled, tensors, facts, training)
