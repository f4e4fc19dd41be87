"""DIEN's pooling: a recurrent network over the behaviors, and one steered by attention."""

from __future__ import annotations

from tfdare.compat import raw, register, tf
from tfdare.layers.attention import masked_softmax


@register
class EvolutionPooling(tf.keras.layers.Layer):
    """Interests by a GRU over the behaviors in time order, and their evolution by an AUGRU.

    The GRU turns behaviors, oldest first, into interests ``i_t``. With attention
    ``a_t = softmax(i_t W v_t)`` to the target, a second GRU whose update gate is multiplied by
    ``a_t`` runs over the interests and ends in the state h. Both have as many units as the
    representations have columns. Output ``[v_t, s, v_t * s, h]``, with the sum s of the behaviors.

    Only the slots that search filled are read, and empty ones leave the state as it is. The
    auxiliary loss of the paper, which predicts the next click from every ``i_t``, is left out:
    behaviors that search found are not followed by one another, and the requests hold no items
    that were shown and not clicked.

    Call arguments:
        target, behaviors, scores, real, top_k: as of :class:`tfdare.layers.LinearPooling`, slots
            newest first, as of :class:`tfdare.layers.TimeOrderedSearch`. `scores` are ignored.

    Returns:
        float ``[U, C, 4 D]``.

    References:
        - [Deep Interest Evolution Network](https://arxiv.org/abs/1809.03672), equations 2 to 11
    """

    def build(self, input_shape):
        if self.built:
            return
        dim = int(input_shape[-1])

        def weight(name, *shape, initializer="glorot_uniform"):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.cells = {
            name: {
                "kernel": weight(f"{name}_kernel", dim, 3 * dim),
                "recurrent": weight(
                    f"{name}_recurrent_kernel", dim, 3 * dim, initializer="orthogonal"
                ),
                "bias": weight(f"{name}_bias", 3 * dim, initializer="zeros"),
            }
            for name in ("interest", "evolution")
        }
        self.attention_kernel = weight("attention_kernel", dim, dim)
        self.built = True

    def output_dim(self, dim: int) -> int:
        """Returns the columns of the output for representations of `dim` columns."""
        return 4 * dim

    def call(self, target, behaviors, scores, real, top_k):
        behaviors, real = behaviors[:, :, :top_k], real[:, :, :top_k]
        mask = tf.cast(real, behaviors.dtype)
        interests = self._states("interest", behaviors, mask)
        kernel = tf.cast(raw(self.attention_kernel), target.dtype)
        by_target = tf.tensordot(target, kernel, axes=[[-1], [-1]])  # W v_t
        weights = masked_softmax(tf.linalg.matvec(interests, by_target), real)
        final = self._states("evolution", interests, weights)[:, :, 0]  # at the newest behavior
        kept = tf.where(real[..., tf.newaxis], behaviors, tf.zeros_like(behaviors))
        total = tf.reduce_sum(kept, axis=2)
        return tf.concat([target, total, target * total, final], axis=-1)

    def _states(self, name, inputs, gate):
        """Runs a GRU from the last slot to the first, its update gate multiplied by `gate`.

        Args:
            name: str. Which cell.
            inputs: float ``[U, C, K, D]``.
            gate: float ``[U, C, K]``. 0 keeps the state.

        Returns:
            float ``[U, C, K, D]``, the state after each slot.
        """
        cell = {key: tf.cast(raw(w), inputs.dtype) for key, w in self.cells[name].items()}
        mapped = tf.tensordot(inputs, cell["kernel"], axes=1) + cell["bias"]

        def step(state, slot):
            inputs, gate = slot
            of_state = tf.tensordot(state, cell["recurrent"], axes=1)
            input_gates, input_candidate = tf.split(inputs, [2 * dim, dim], axis=-1)
            state_gates, state_candidate = tf.split(of_state, [2 * dim, dim], axis=-1)
            update, reset = tf.split(tf.sigmoid(input_gates + state_gates), 2, axis=-1)
            candidate = tf.tanh(input_candidate + reset * state_candidate)
            return state + gate * update * (candidate - state)

        dim = inputs.shape[-1]
        slots = tf.transpose(mapped, [2, 0, 1, 3]), tf.transpose(gate, [2, 0, 1])[..., tf.newaxis]
        states = tf.scan(step, slots, tf.zeros_like(inputs[:, :, 0]), reverse=True)
        return tf.transpose(states, [1, 2, 0, 3])
