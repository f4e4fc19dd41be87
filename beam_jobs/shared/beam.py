"""Imports of Beam without its warnings about packages that are not needed here."""

from __future__ import annotations

import logging
from contextlib import contextmanager


@contextmanager
def quiet():
    """Suppresses log lines up to WARNING inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
