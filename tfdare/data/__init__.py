"""Reads batched requests for ``model.fit`` from a folder of sequences."""

from tfdare.data.reader import read_requests
from tfdare.data.searched import read_searched, write_searched

__all__ = ["read_requests", "read_searched", "write_searched"]
