"""Finds a user's record in a split."""

from __future__ import annotations

from tfdare.sequences.folder import Sequences
from tfdare.sequences.record import UserRecord


class UnknownUser(LookupError):
    """The split holds no such user."""


def find_user(sequences: Sequences, split: str, user: str | None, examples: int = 5) -> UserRecord:
    """Reads the record of a user of a split, or of its first user where `user` is None.

    Raises:
        UnknownUser: there is no such user; the message names ``examples`` users that exist.
    """
    others: list[str] = []
    for record in sequences.records(split):
        if user is None or record.user == user:
            return record
        if len(others) <= examples:
            others.append(record.user)
    some = ", ".join(others[:examples]) + (", ..." if len(others) > examples else "")
    raise UnknownUser(
        f"No user {user!r} in split {split!r} of {sequences.path!r}. "
        + (f"Users there: {some}" if others else "The split holds no user.")
    )
