"""The error for arguments, files and folders that a user can correct."""

from __future__ import annotations


class UsageError(Exception):
    """An argument, file or folder that cannot be used.

    Messages name arguments in backquotes; commands show those as options, print the message
    without a traceback, and end with exit code 2 (see :func:`tfdare.commands.parser.run`).
    """
