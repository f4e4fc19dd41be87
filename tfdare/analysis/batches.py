"""Requests of a split for measurements, with the users they are of."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from tfdare.data import read_requests
from tfdare.sequences import Sequences


def batches_with_users(
    sequences: Sequences, split: str, batch_size: int = 256, limit: int | None = None
) -> Iterator[tuple]:
    """``(requests, label, weight, user)`` batch by batch; users are bytes ``[U]``.

    Args:
        sequences: Sequences.
        split: str.
        batch_size: int. Requests at once.
        limit: int or None. Stop after about this many requests. Files hold users by hash, so that
            the first ones are as good as any.
    """
    count = 0
    for requests, label, weight in read_requests(
        sequences, split, batch_size, with_history_facts=True
    ):
        user = requests.pop("user").numpy()
        given = {n: v for n, v in requests.items() if not n.startswith("target_repeats_")}
        yield given, label, weight, np.asarray(user)
        count += len(user)
        if limit is not None and count >= limit:
            return


def count_batches(sequences: Sequences, split: str, batch_size: int, limit: int | None) -> int:
    """How many batches :func:`batches_with_users` gives."""
    requests = sequences.requests(split)
    return -(-(requests if limit is None else min(limit, requests)) // batch_size)
