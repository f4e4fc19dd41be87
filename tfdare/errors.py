"""Errors that a person can mend, told without a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """Something the person at the terminal can mend; shown without a traceback, exit code 2."""
