"""From a folder of sequences to batched requests for ``model.fit``."""

from tfdare.data.reader import read_requests

__all__ = ["read_requests"]
