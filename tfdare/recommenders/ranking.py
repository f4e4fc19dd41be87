"""A ranking task of tensorflow-recommenders around a model of this package."""

from __future__ import annotations

from collections.abc import Sequence

from tfdare.compat import tf
from tfdare.losses import CandidateCrossentropy
from tfdare.metrics import RequestGAUC
from tfdare.models import RequestModel
from tfdare.recommenders.library import tfrs
from tfdare.recommenders.task_model import TaskModel


class Ranking(TaskModel):
    """``tfrs.tasks.Ranking`` over requests, with the model's auxiliary loss while training.

    ``fit`` and ``evaluate`` take the dataset of :func:`tfdare.data.read_requests` as it is, and
    ``predict`` gives ``[U, C]`` probabilities. The loss is that of the model compiled alone with
    `CandidateCrossentropy`. The model is trained in place: `ranker` can be saved and exported as
    if it had been fitted by itself.

    Args:
        ranker: RequestModel, such as `tfdare.models.DARE(schema)`.
        metrics: sequence of Metric or None. They are updated with labels, probabilities and weights
            (0 for padded candidates), ``[U, C]`` each. Defaults to AUC and `RequestGAUC`.

    Call arguments, returns: see :class:`tfdare.models.RequestModel`.

    Raises:
        ValueError: `ranker` is no RequestModel, or ``fit`` is given requests without labels.

    Example:
        >>> from tfdare.models import DARE
        >>> from tfdare.schema import Feature, Schema
        >>> ranking = Ranking(DARE(Schema((Feature("item", 100),), window=50)))
        >>> ranking.compile(optimizer=tf.keras.optimizers.Adam(0.01))
        >>> [metric.name for metric in ranking.metrics]
        ['auc', 'request_gauc']
    """

    def __init__(self, ranker: RequestModel, metrics: Sequence | None = None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(ranker, RequestModel):
            raise ValueError(
                "`ranker` must be a RequestModel, such as tfdare.models.DARE(schema). "
                f"Received: {ranker!r} of type {type(ranker).__name__}"
            )
        if metrics is None:
            metrics = [tf.keras.metrics.AUC(name="auc", num_thresholds=1000), RequestGAUC()]
        self.ranker = ranker
        self.task = tfrs.tasks.Ranking(loss=CandidateCrossentropy(), metrics=list(metrics))
        self.built = True  # a RequestModel creates its weights in its constructor

    def call(self, requests, training=None):
        return self.ranker(requests, training=training)

    def compute_loss(self, inputs, training: bool = False) -> tf.Tensor:
        """Computes the loss of one batch and updates the metrics.

        Args:
            inputs: tuple of requests, label ``[U, C]`` and, optionally, weight ``[U, C]``.
            training: bool. Whether the auxiliary loss is added.
        """
        requests, label, weight = self.unpack(inputs)
        if not training:
            return self.task(label, self.ranker(requests, training=False), sample_weight=weight)
        outputs = self.ranker.forward(requests, training=True)
        loss = self.task(label, outputs.probability, sample_weight=weight)
        if outputs.auxiliary_probability is None:
            return loss
        return loss + self.ranker.auxiliary_weight * self.task(
            label, outputs.auxiliary_probability, sample_weight=weight, compute_metrics=False
        )
