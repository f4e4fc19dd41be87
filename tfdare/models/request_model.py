"""The base class of all models: takes requests, returns a probability for each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfdare.compat import KERAS_3, deserialize, serialize, tf
from tfdare.layers import (
    ContextEmbedding,
    Head,
    RoleEmbedding,
    ScaledDotAttention,
    TargetAwarePooling,
    newest_first,
)
from tfdare.layers.embedding import HISTORY, TARGET, TIME_GAP
from tfdare.schema import Schema


class Outputs(NamedTuple):
    """Probabilities from :meth:`RequestModel.forward`, float32 ``[U, C]``.

    Attributes:
        probability: of the head.
        auxiliary_probability: of the auxiliary head, None without one.
    """

    probability: tf.Tensor
    auxiliary_probability: tf.Tensor | None


class RequestModel(tf.keras.Model):
    """Base class of the models: embedding, attention, pooling and head over requests.

    Args:
        embedding: RoleEmbedding. Tables by role; also carries the schema.
        attention: Layer. ``[U, C, N]`` scores. Defaults to `ScaledDotAttention()`.
        pooling: Layer. Defaults to `TargetAwarePooling()`.
        evidence: sequence of Layer. Facts about the behaviors pooled, for the head, such as
            `MatchCounts()`. Defaults to none.
        head: Head. Defaults to `Head((200, 80))`.

    Call arguments:
        requests: mapping of ``history_<feature>`` int ``[U, N]``, ``history_length`` int ``[U]``,
            ``target_<feature>`` int ``[U, C]`` and, optionally, ``target_length`` int ``[U]``;
            ``history_time_gap`` int ``[U, N]`` and ``context_<feature>`` where the schema has them.

    Returns:
        float32 ``[U, C]``, probabilities.

    Raises:
        ValueError: a tensor is missing or has too few axes, or `attention` compares a feature that
            the schema lacks.
    """

    def __init__(
        self,
        embedding: RoleEmbedding,
        attention=None,
        pooling=None,
        evidence: Sequence = (),
        head=None,
        **kwargs,
    ):
        # Context numbers are not scaled yet: in half precision, large ones would overflow.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.embedding = deserialize(embedding)
        self.attention_layer = deserialize(attention) or ScaledDotAttention(name="attention")
        self.pooling_layer = deserialize(pooling) or TargetAwarePooling(name="pooling")
        self.evidence = [deserialize(layer) for layer in evidence]
        self.context_layer = None
        if self.embedding.schema.context:
            self.context_layer = ContextEmbedding(
                self.embedding.schema, self.embedding.initializer_stddev, name="context"
            )
        self.head = deserialize(head) or Head(name="head")
        self._in_train_step = False
        self._class_weight: Mapping[int, float] | None = None

    def build(self, input_shape=None):
        """Creates every weight: the schema gives all shapes, no data is needed."""
        if self.built:
            return
        self._check_feature(self.attention_layer)
        self.embedding.build()
        self.attention_layer.build((None, None, self.embedding.attention_dim))
        representation = (None, None, self.embedding.representation_dim)
        self.pooling_layer.build(representation)
        for layer in self.evidence:
            layer.build(None)
        if self.context_layer is not None:
            self.context_layer.build()
        self.head.build((None, None, self.head_dim))
        self.built = True

    @property
    def head_dim(self) -> int:
        """Columns of the head's input."""
        width = self.pooling_layer.output_dim(self.embedding.representation_dim)
        width += sum(layer.output_dim(self.embedding) for layer in self.evidence)
        return width + (self.context_layer.output_dim if self.context_layer is not None else 0)

    @property
    def schema(self) -> Schema:
        """The schema the model was built from."""
        return self.embedding.schema

    @property
    def searches(self) -> bool:
        """Whether the model has a search stage: methods ``search`` and ``score``."""
        return False

    @property
    def searches_once(self) -> bool:
        """Whether training leaves what search finds as it is, so that one search is enough."""
        return False

    def attend(self, requests: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Computes the attention score of every behavior for every target, unmasked.

        Returns:
            float ``[U, C, N]``, newest behavior first: column ``j`` is position ``j + 1``.
        """
        requests = self._tensors(requests, "history_length")
        return self._attend(
            self._history(requests), self._ids(requests, "target"), requests["history_length"]
        )

    def forward(self, requests: Mapping[str, tf.Tensor], training: bool = False) -> Outputs:
        """Computes the probabilities of all heads in one pass over the history, for training."""
        raise NotImplementedError

    def call(self, requests, training=None):
        outputs = self.forward(requests, training=bool(training))
        if self._in_train_step and outputs.auxiliary_probability is not None:
            return outputs
        return outputs.probability

    def fit(self, *args, class_weight=None, **kwargs):
        """Trains as Keras's ``fit``; `class_weight` weighs candidates by their own label.

        Keras would give a whole request the weight of one class, by where its largest label is.

        Args:
            *args, **kwargs: as in Keras. `sample_weight` is ``[U]``, a weight of every request, or
                ``[U, C]``.
            class_weight: mapping of label, 0 and 1, to the weight of its candidates in the
                training loss; a label that is missing weighs 1. By name only. Defaults to None.

        Raises:
            ValueError: `class_weight` names other labels.
        """
        if class_weight is None:
            return super().fit(*args, **kwargs)
        if strange := sorted(set(class_weight) - {0, 1}, key=str):
            raise ValueError(f"`class_weight` must weigh the labels 0 and 1. Received: {strange}")
        self._class_weight, self.train_function = dict(class_weight), None
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._class_weight, self.train_function = None, None

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """Trains on one batch, as in Keras, without `class_weight`.

        Raises:
            ValueError: `class_weight` is given: Keras would apply it to whole requests.
        """
        if class_weight is not None:
            raise ValueError(
                "`class_weight` of train_on_batch is not supported: pass `sample_weight` of shape "
                f"[U, C], or use fit. Received: {class_weight}"
            )
        return super().train_on_batch(x, y, sample_weight, **kwargs)

    def train_step(self, data):
        """Trains on one batch; Keras hands what the model returns to :meth:`compute_loss`."""
        self._in_train_step = True
        try:
            return super().train_step(data)
        finally:
            self._in_train_step = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, *args, **kwargs):
        """Computes the compiled loss, plus the auxiliary loss if `y_pred` has both heads.

        Args:
            x: ignored.
            y: ``[U, C]``. Labels.
            y_pred: probabilities ``[U, C]``, or `Outputs` of :meth:`forward`.
            sample_weight: ``[U, C]``, or ``[U]`` of whole requests, or None.

        Raises:
            tf.errors.InvalidArgumentError: a label is NaN or infinite.
        """
        if y is not None:
            y = tf.debugging.check_numerics(
                tf.cast(y, tf.float32), "Labels must be finite, 0 or 1. Received: `label` with"
            )
        sample_weight = _by_candidate(sample_weight)
        if self._class_weight is not None and self._in_train_step:
            no, yes = (float(self._class_weight.get(label, 1.0)) for label in (0, 1))
            of_class = tf.where(y > 0.5, yes, no)
            sample_weight = of_class if sample_weight is None else sample_weight * of_class
        probability, auxiliary = y_pred if isinstance(y_pred, Outputs) else (y_pred, None)
        if auxiliary is None:
            return super().compute_loss(x, y, probability, sample_weight, *args, **kwargs)
        added = self.auxiliary_loss(y, auxiliary, sample_weight)
        if KERAS_3:
            return super().compute_loss(x, y, probability, sample_weight, *args, **kwargs) + added
        # Keras 2 logs the sum computed by compiled_loss as `loss`, not the returned value.
        losses = [*self.losses, added]
        return self.compiled_loss(y, probability, sample_weight, regularization_losses=losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics with the head's probabilities and returns their values."""
        if isinstance(y_pred, Outputs):
            y_pred = y_pred.probability
        return super().compute_metrics(x, y, y_pred, _by_candidate(sample_weight))

    def auxiliary_loss(self, label, probability, weight) -> tf.Tensor:
        """Computes what the auxiliary head adds to the loss, in models that have one.

        Args:
            label: float32 ``[U, C]``.
            probability: float32 ``[U, C]``. Of the auxiliary head.
            weight: ``[U, C]`` or None.

        Returns:
            float32 scalar.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "embedding": serialize(self.embedding),
            "attention": serialize(self.attention_layer),
            "pooling": serialize(self.pooling_layer),
            "evidence": [serialize(layer) for layer in self.evidence],
            "head": serialize(self.head),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)

    def _attend(self, history, target, length, in_parts=False):
        """Returns scores; `in_parts` avoids copying embeddings, faster with few candidates."""
        embedding = self.embedding
        look_up = embedding.attention_parts if in_parts else embedding.attention
        offset = self._offset(positions_of(history), history)
        ids = {name: history[name] for name in self.schema.names}
        return self.attention_layer(
            look_up(target, TARGET),
            look_up(ids, HISTORY),
            offset,
            target=target,
            history=ids,
            history_length=length,
        )

    def _mean_score(self, history, target, length):
        """Returns the mean scores of whole histories by part, None if evidence needs none."""
        if not self.needs_mean_score:
            return None
        ids = {name: history[name] for name in self.schema.names}
        return mean_of_products(
            self.embedding.attention_parts(target, TARGET),
            self.embedding.attention_parts(ids, HISTORY),
            positions_of(history) <= length[:, tf.newaxis],
        )

    def _offset(self, position, history):
        """Returns what position and time gap add to the scores: [N], [U, 1, N] or None."""
        offset = self.embedding.position_score(position)
        if TIME_GAP in history:
            gap_score = self.embedding.time_gap_score(history[TIME_GAP])
            if gap_score is not None:
                gap_score = gap_score[:, tf.newaxis]
                offset = gap_score if offset is None else offset + gap_score
        return offset

    def represent(self, requests: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Computes the pooled inputs of the head at inference, without evidence and context.

        Returns:
            float ``[U, C, pooling_layer.output_dim(representation_dim)]``.
        """
        raise NotImplementedError

    def _logits(self, head, pooled, tensors, evidence, training):
        """Returns a head's float32 logits of pooled features, evidence and context."""
        parts = [pooled, *(tf.cast(part, pooled.dtype) for part in evidence)]
        if self.context_layer is not None:
            names = [feature.name for feature in self.schema.context]
            self._check(tensors, [f"context_{name}" for name in names])
            context = self.context_layer({name: tensors[f"context_{name}"] for name in names})
            shape = tf.concat([tf.shape(pooled)[:2], tf.shape(context)[-1:]], axis=0)
            parts.append(tf.broadcast_to(context[:, tf.newaxis], shape))
        inputs = parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)
        logits = head(inputs, real=self._real_targets(tensors), training=training)
        return tf.cast(logits, tf.float32)

    def _evidence_facts(self, target, behaviors, scores, real, top_k, **facts):
        """Returns what the head is shown besides the pooled behaviors, a part per layer."""
        return [
            layer(target, behaviors, scores, real, top_k=top_k, **facts) for layer in self.evidence
        ]

    @property
    def _needs_affinity(self):
        return any(getattr(layer, "needs_affinity", False) for layer in self.evidence)

    @property
    def needs_mean_score(self) -> bool:
        """Whether the head is shown the mean score of the history (:class:`MeanScore`)."""
        return any(getattr(layer, "needs_mean_score", False) for layer in self.evidence)

    def _history(self, requests):
        """Returns row ids of the behaviors (and their time gap), newest first."""
        length = requests["history_length"]
        ids = self._behaviors(requests, "history")
        return {name: newest_first(values, length) for name, values in ids.items()}

    def _behaviors(self, tensors, kind):
        """Returns row ids of behaviors and their time gap, in the order of the tensors."""
        ids = self._ids(tensors, kind)
        if self.schema.time_gap is not None:
            self._check(tensors, [f"{kind}_{TIME_GAP}"])
            ids[TIME_GAP] = tensors[f"{kind}_{TIME_GAP}"]
        return ids

    def _ids(self, tensors, kind):
        names = [f"{kind}_{name}" for name in self.schema.names]
        self._check(tensors, names)
        for feature, name in zip(self.schema.features, names):
            rank = {"behavior": 3}.get(kind, 2) + (feature.max_values > 1)
            if tensors[name].shape.rank not in (None, rank):
                raise ValueError(
                    f"`{name}` must have {rank} axes. Received: shape {tensors[name].shape}"
                )
        return {name: tensors[key] for name, key in zip(self.schema.names, names)}

    def _check_feature(self, layer):
        """Raises ValueError if a layer compares a feature that is missing or has several values."""
        name = getattr(layer, "feature", None)
        usable = [feature.name for feature in self.schema.features if feature.max_values == 1]
        if name is not None and name not in usable:
            raise ValueError(
                f"{type(layer).__name__} needs the feature {name!r}, with one value. "
                f"Received: features with one value {usable}"
            )

    def _real_targets(self, tensors):
        if "target_length" not in tensors:
            return None
        candidates = tf.shape(tensors[f"target_{self.schema.item.name}"])[1]
        return tf.sequence_mask(tensors["target_length"], candidates)

    def _target(self, tensors):
        ids = self._ids(tensors, "target")
        position = tf.zeros_like(ids[self.schema.item.name])
        return self.embedding.representation(ids, position, TARGET)

    def _tensors(self, requests, *names):
        self._check(requests, names)
        return {name: tf.convert_to_tensor(value) for name, value in requests.items()}

    def _check(self, tensors, names):
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"Missing tensors {missing}. Received: {sorted(tensors)}")


def _by_candidate(weight):
    """Gives weights of whole requests, ``[U]``, an axis of candidates."""
    if weight is None:
        return None
    weight = tf.cast(weight, tf.float32)
    return weight[:, tf.newaxis] if weight.shape.rank == 1 else weight


def mean_of_products(query, key, real: tf.Tensor) -> tf.Tensor:
    """Computes the mean of the inner products of targets and real behaviors, by part.

    Args:
        query: list of parts, float ``[U, C, D_i]``.
        key: list of as many parts, float ``[U, N, D_i]``.
        real: bool ``[U, N]``. Which behaviors are real.

    Returns:
        float ``[U, C, parts]``, divided by ``sqrt(D)`` as scores are; 0 for an empty history.
    """
    count = tf.maximum(tf.math.count_nonzero(real, axis=-1, keepdims=True, dtype=tf.int32), 1)
    share = tf.cast(real, key[0].dtype) / tf.cast(count, key[0].dtype)
    scale = float(sum(part.shape[-1] for part in query)) ** -0.5
    means = [tf.matmul(share[:, tf.newaxis], part) for part in key]
    products = [tf.matmul(part * scale, mean, transpose_b=True) for part, mean in zip(query, means)]
    return tf.concat(products, axis=-1)


def scale_target(target: tf.Tensor) -> tf.Tensor:
    """Scales representations of targets so that products with behaviors are affinities."""
    return target * float(target.shape[-1]) ** -0.5


def positions_of(history: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the distance to the target of each behavior, newest first: int32 [N], 1 to N."""
    return tf.range(1, tf.shape(next(iter(history.values())))[1] + 1)
