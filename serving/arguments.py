"""Kinds of number that the folder's commands take on the command line."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """An argument that must be an integer of at least 1."""
    return at_least(text, 1)


def non_negative_int(text: str) -> int:
    """An argument that must be an integer of at least 0."""
    return at_least(text, 0)


def at_least(text: str, minimum: int) -> int:
    """``text`` as an integer of at least ``minimum``.

    Raises:
        argparse.ArgumentTypeError: it is not one.
    """
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < minimum:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least {minimum}. Received: {text!r}"
        )
    return value
