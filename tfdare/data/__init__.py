"""Reads batched requests for ``model.fit`` from a folder of sequences."""

from tfdare.data.reader import read_requests

__all__ = ["read_requests"]
