"""Errors of requests and of the start, and their gRPC codes. Does not import TensorFlow."""

from __future__ import annotations

import grpc

MAX_MESSAGE = 1024
"""Characters of an error message that are sent; gRPC sends it in the trailing headers."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StartError(Exception):
    """The server cannot start as configured: no folder, no version, or one that does not load."""


class LoadError(StartError):
    """A version cannot be loaded, or its warm-up fails.

    Args:
        message: str. What went wrong.
        code: grpc.StatusCode. What ``GetModelStatus`` reports. Defaults to UNKNOWN.
    """

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN):
        super().__init__(message)
        self.code = code


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        code: grpc.StatusCode. The code to answer with.
        message: str. What went wrong, in TensorFlow Serving's wording where it has one.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RequestError:
    """Makes a RequestError with INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def code_of(number: int) -> grpc.StatusCode:
    """Converts TensorFlow's error code to gRPC's of the same number, or UNKNOWN."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


def shortened(message: str) -> str:
    """Shortens a message: no stack traces of TensorFlow's Python code, MAX_MESSAGE characters."""
    for mark in ("\n\nOriginal stack trace", "\n\nErrors may have originated", "\nDefined at"):
        message = message.partition(mark)[0]
    message = message.removeprefix("Graph execution error:").strip()
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + "...TRUNCATED"
    return message
