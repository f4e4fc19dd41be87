"""The one-stage model: attention over the whole history, without search."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.pooling import LinearPooling, pool_and_compare, pool_shared
from tfdare.models.request_model import (
    Outputs,
    RequestModel,
    positions_of,
    scale_target,
)


@register
class OneStageModel(RequestModel):
    """Embedding x attention x pooling x head, every behavior pooled.

    A reference for search, which keeps only a part of the history; also the form of published
    models without search. It is served as one call, as it has no two stages.

    Args, call arguments, returns: see :class:`tfdare.models.RequestModel`.

    Raises:
        ValueError: `pooling` is not linear, or a tensor is missing.
    """

    def __init__(self, embedding, attention=None, pooling=None, evidence=(), head=None, **kwargs):
        super().__init__(embedding, attention, pooling, evidence, head, **kwargs)
        if not isinstance(self.pooling_layer, LinearPooling):
            raise ValueError(
                "`pooling` over a whole history must be a LinearPooling. "
                f"Received: {type(self.pooling_layer).__name__}"
            )
        self.build()

    def forward(self, requests, training=False):
        requests = self._tensors(requests, "history_length")
        pooled, facts = self._pool(requests)
        return Outputs(tf.sigmoid(self._logits(self.head, pooled, requests, facts, training)), None)

    def represent(self, requests):
        return self._pool(self._tensors(requests, "history_length"))[0]

    def _pool(self, requests):
        """Returns the pooled history, and facts about its behaviors."""
        length = tf.cast(requests["history_length"], tf.int32)
        history, ids = self._history(requests), self._ids(requests, "target")
        with self.embedding.looked_up_once(history, ids):
            scores = self._attend(history, ids, length, in_parts=True)
            target, position = self._target(requests), positions_of(history)
            real = (position <= length[:, tf.newaxis])[:, tf.newaxis]
            weights = self.pooling_layer.weigh(scores, real, tf.shape(scores)[-1])
            behaviors = self.embedding.representation_parts(history, position)
            joined, affinity = tf.concat(weights, axis=1), None
            if self._needs_affinity:
                sums, affinity = pool_and_compare(joined, scale_target(target), behaviors)
            else:
                sums = pool_shared(joined, behaviors)
        pooled = self.pooling_layer.combine(target, tf.split(sums, len(weights), axis=1))
        behaviors = {name: history[name][:, tf.newaxis] for name in self.schema.names}
        facts = self._evidence_facts(
            ids,
            behaviors,
            scores,
            tf.broadcast_to(real, tf.shape(scores)),
            tf.shape(scores)[-1],
            affinity=affinity,
            mean_score=self._mean_score(history, ids, length),
        )
        return pooled, facts
