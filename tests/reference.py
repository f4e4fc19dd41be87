"""An independent forward pass by the paper's formulas, one behavior at a time, in float64."""

import math

import numpy as np

from tfdare.compat import raw
from tfdare.layers import (
    AffinityFacts,
    BehaviorCount,
    MatchCounts,
    MeanScore,
    ScaledAverage,
    ScoreFacts,
)
from tfdare.schema import OOV_ID, CategoricalContext


class Reference:
    """A two-stage model with a scaled dot product and target-aware pooling, in plain loops.

    Args:
        model: TwoStageModel, of a table (or two) a feature.
    """

    def __init__(self, model):
        self.schema, self.top_k = model.schema, model.search_layer.top_k
        embedding = model.embedding
        self.attention = {k: array(v) for k, v in embedding.attention_tables.items()}
        self.representation = {k: array(v) for k, v in embedding.representation_tables.items()}
        self.given = embedding.attention_given
        if not self.given:
            self.time_attention = array(embedding.attention_position_table)
        self.time_representation = array(embedding.representation_position_table)
        if self.schema.time_gap is not None:
            if not self.given:
                self.gap_attention = array(embedding.attention_time_gap_table)
            self.gap_representation = array(embedding.representation_time_gap_table)
        self.context_tables = {}
        if model.context_layer is not None:
            self.context_tables = {k: array(v) for k, v in model.context_layer.tables.items()}
        self.evidence = model.evidence
        (weighting,) = model.pooling_layer.weightings
        scaled = isinstance(weighting, ScaledAverage)
        self.scale = math.exp(array(weighting.log_scale)) if scaled else 1.0
        self.head, self.auxiliary_head = model.head, model.auxiliary_head

    def bucket(self, distance):
        position = self.schema.position
        if distance <= position.exact:
            return distance
        beyond = math.log2(min(distance, self.schema.window) / position.exact)
        return position.exact + math.ceil(round(beyond * position.per_octave, 9))

    def gap_bucket(self, gap):
        """Returns row 1 below the unit, and a row more for each edge that the gap has reached."""
        return 1 + sum(gap >= edge for edge in self.schema.time_gap.boundaries())

    def score(self, behavior, distance, target):
        names = self.schema.names
        inner = sum(
            mean(self.attention[f], behavior[f]) @ mean(self.attention[f], target[f]) for f in names
        )
        columns = sum(self.attention[f].shape[1] for f in names)
        if self.given:
            return inner / math.sqrt(columns)
        time = self.time_attention[self.bucket(distance)] @ self.time_attention[0]
        total = inner / math.sqrt(columns) + time / math.sqrt(self.time_attention.shape[1])
        if self.schema.time_gap is not None:
            table = self.gap_attention
            of_gap = table[self.gap_bucket(behavior["time_gap"])] @ table[0]
            total += of_gap / math.sqrt(table.shape[1])
        return total

    def represent(self, behavior, distance):
        parts = [mean(self.representation[f], behavior[f]) for f in self.schema.names]
        parts.append(self.time_representation[self.bucket(distance)])
        if self.schema.time_gap is not None:
            row = self.gap_bucket(behavior["time_gap"]) if "time_gap" in behavior else 0
            parts.append(self.gap_representation[row])
        return np.concatenate(parts)

    def pooled(self, target, behaviors, chosen, scores):
        v = self.represent(target, 0)
        h = np.zeros_like(v)
        if chosen:
            highest = max(scores[i] for i in chosen)
            exponents = np.exp([self.scale * (scores[i] - highest) for i in chosen])
            for i, w in zip(chosen, exponents / exponents.sum()):
                h += w * self.represent(behaviors[i], len(behaviors) - i)
        return np.concatenate([v, h, v * h])

    def facts(self, target, behaviors, chosen, scores):
        """Computes the outputs of the evidence layers from the behaviors that search chose."""
        values = []
        for layer in self.evidence:
            if isinstance(layer, MatchCounts):
                for f in self.schema.names:
                    if np.ndim(target[f]) == 0:
                        equal = [behaviors[i][f] == target[f] > OOV_ID for i in chosen]
                        values.append(math.log(1 + sum(equal)))
            elif isinstance(layer, ScoreFacts):
                values += top_and_mass([scores[i] for i in chosen])
            elif isinstance(layer, BehaviorCount):
                values.append(math.log(1 + len(chosen)))
            elif isinstance(layer, MeanScore):
                columns = sum(self.attention[f].shape[1] for f in self.schema.names)
                for f in self.schema.names:
                    rows = [mean(self.attention[f], b[f]) for b in behaviors]
                    key = np.sum(rows, axis=0) if rows else np.zeros(self.attention[f].shape[1])
                    product = mean(self.attention[f], target[f]) @ (key / max(len(behaviors), 1))
                    values.append(product / math.sqrt(columns))
            else:
                assert isinstance(layer, AffinityFacts)
                v = self.represent(target, 0)
                values += top_and_mass(
                    [
                        v @ self.represent(behaviors[i], len(behaviors) - i) / math.sqrt(len(v))
                        for i in chosen
                    ]
                )
        return np.array(values)

    def context(self, requests, u):
        parts = []
        for part in self.schema.context:
            value = requests[f"context_{part.name}"][u]
            if isinstance(part, CategoricalContext):
                parts.append(mean(self.context_tables[part.name], value))
            elif math.isnan(value):
                parts.append([0, 0])
            else:
                parts.append([(float(value) - part.mean) / part.deviation, 1])
        return np.concatenate(parts) if parts else np.zeros(0)

    def forward(self, requests, training=False):
        """Computes the outputs of search, and the probabilities of both heads."""
        users, candidates = requests["target_item"].shape[:2]
        indexes = np.full((users, candidates, self.top_k), -1)
        kept = np.zeros((users, candidates, self.top_k))
        inputs, whole = [], []
        names = [*self.schema.names, *(["time_gap"] if self.schema.time_gap is not None else [])]
        for u in range(users):
            behaviors = [
                {f: requests[f"history_{f}"][u, i] for f in names}
                for i in range(requests["history_length"][u])
            ]
            context = self.context(requests, u)
            for c in range(candidates):
                target = {f: requests[f"target_{f}"][u, c] for f in self.schema.names}
                n = len(behaviors)
                scores = [self.score(b, n - i, target) for i, b in enumerate(behaviors)]
                chosen = sorted(range(n), key=lambda i: (-scores[i], -i))[: self.top_k]
                indexes[u, c, : len(chosen)] = chosen
                kept[u, c, : len(chosen)] = [scores[i] for i in chosen]
                pooled = self.pooled(target, behaviors, chosen, scores)
                facts = self.facts(target, behaviors, chosen, scores)
                inputs.append(np.concatenate([pooled, facts, context]))
                whole.append(self.pooled(target, behaviors, list(range(n)), scores))
        lengths = requests.get("target_length", np.full(users, candidates))
        real = (np.arange(candidates) < lengths[:, None]).ravel() if training else None
        shape = (users, candidates)
        return (
            indexes,
            kept,
            predict(self.head, np.array(inputs), real).reshape(shape),
            predict(self.auxiliary_head, np.array(whole), None).reshape(shape),
        )


def array(weight):
    return raw(weight).numpy().astype(np.float64)


def top_and_mass(scores):
    """Returns the highest score and the log-sum-exp; 0 for no scores."""
    if not scores:
        return [0, 0]
    return [max(scores), math.log(sum(math.exp(score) for score in scores))]


def mean(table, ids):
    """Returns the row of an id; of several ids, the mean of those that are no padding."""
    if np.ndim(ids) == 0:
        return table[ids]
    rows = [table[i] for i in ids if i]
    return sum(rows) / len(rows) if rows else np.zeros(table.shape[1])


def predict(head, x, batch_of):
    """Computes a head's probabilities.

    Args:
        batch_of: rows of `x` whose statistics normalize; None for the moving ones.
    """
    if head is None:
        return np.full(len(x), 0.5)
    if head.norm is not None:
        norm = head.norm
        center, variance = array(norm.moving_mean), array(norm.moving_variance)
        if batch_of is not None:
            center, variance = x[batch_of].mean(0), x[batch_of].var(0)
        x = (x - center) / np.sqrt(variance + 1e-3) * array(norm.gamma) + array(norm.beta)
    for dense, slope in zip(head.hidden, head.slopes):
        x = x @ array(dense.kernel) + array(dense.bias)
        x = np.where(x > 0, x, x * array(slope.alpha).reshape(-1))
    logit = x @ array(head.logit.kernel) + array(head.logit.bias)
    return 1 / (1 + np.exp(-logit[:, 0]))
