"""The one-stage model: attention over the whole history, without search."""

from __future__ import annotations

from tfdare.compat import register, tf
from tfdare.layers.pooling import LinearPooling, pool_shared
from tfdare.models.request_model import Outputs, RequestModel, positions_of


@register
class OneStageModel(RequestModel):
    """Embedding x attention x pooling x head, every behavior pooled.

    A reference for search, which keeps only a part of the history; also the form of published
    models without search. It is served as one call, as it has no two stages.

    Args, call arguments, returns: see :class:`tfdare.models.RequestModel`.

    Raises:
        ValueError: `pooling` is not linear, `evidence` is given, or a tensor is missing.
    """

    def __init__(self, embedding, attention=None, pooling=None, evidence=(), head=None, **kwargs):
        super().__init__(embedding, attention, pooling, evidence, head, **kwargs)
        if not isinstance(self.pooling_layer, LinearPooling):
            raise ValueError(
                "`pooling` over a whole history must be a LinearPooling. "
                f"Received: {type(self.pooling_layer).__name__}"
            )
        if self.evidence:
            raise ValueError(f"`evidence` is about what search found. Received: {self.evidence}")
        self.build()

    def forward(self, requests, training=False):
        requests = self._tensors(requests, "history_length")
        logits = self._logits(self.head, self.represent(requests), requests, [], training)
        return Outputs(tf.sigmoid(logits), None)

    def represent(self, requests):
        requests = self._tensors(requests, "history_length")
        length = tf.cast(requests["history_length"], tf.int32)
        history, ids = self._history(requests), self._ids(requests, "target")
        with self.embedding.looked_up_once(history, ids):
            return self._pooled(requests, history, ids, length)

    def _pooled(self, requests, history, ids, length):
        scores = self._attend(history, ids, length, in_parts=True)
        position = positions_of(history)
        real = (position <= length[:, tf.newaxis])[:, tf.newaxis]
        weights = self.pooling_layer.weigh(scores, real, tf.shape(scores)[-1])
        sums = pool_shared(
            tf.concat(weights, axis=1), self.embedding.representation_parts(history, position)
        )
        return self.pooling_layer.combine(
            self._target(requests), tf.split(sums, len(weights), axis=1)
        )
