"""The base class of models around a task of tensorflow-recommenders."""

from __future__ import annotations

from tfdare.compat import tf
from tfdare.recommenders.library import tfrs


class TaskModel(tfrs.Model):
    """A ``tfrs.Model`` that is fitted on the batches of :func:`tfdare.data.read_requests`."""

    def compile(self, *args, **kwargs):
        """Compiles as Keras does; the task has loss and metrics, so only an optimizer is needed."""
        kwargs.setdefault("weighted_metrics", [])  # else Keras warns that weights go unused
        super().compile(*args, **kwargs)

    def unpack(self, inputs):
        """Unpacks a batch into requests, label ``[U, C]`` and weight ``[U, C]`` or None.

        Raises:
            ValueError: there is no label.
        """
        requests, label, weight = tf.keras.utils.unpack_x_y_sample_weight(inputs)
        if label is None:
            raise ValueError(
                f"{type(self).__name__} is fitted and evaluated on (requests, label) or (requests, "
                f"label, weight). Received: requests alone, {sorted(requests)}"
            )
        return requests, label, weight
