"""A silent moment, for imports that warn about what is not installed and not needed."""

from __future__ import annotations

import logging
from contextlib import contextmanager


@contextmanager
def quiet():
    """No log line up to WARNING inside."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
