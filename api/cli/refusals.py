"""Errors that the command line tells in a sentence, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from trackside.callbacks._util.streams import stream_name
from trackside.callbacks.errors import ConfigError, TracksideError

FAILED = 1
"""The exit code of a command whose output cannot be written."""


@contextmanager
def told_plainly(*also: type[Exception]) -> Iterator[None]:
    """Turn errors of trackside, and those of other classes that are given, into a ConfigError with their text."""
    kinds: tuple[type[Exception], ...] = (TracksideError, *also)
    try:
        yield
    except ConfigError:
        raise
    except kinds as error:
        if isinstance(error, OSError) and is_of_output(error):
            raise
        raise ConfigError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    """Return the text of an error; of one of the system, the file and the reason.

    Example:
        >>> _sentence(FileNotFoundError(2, "No such file or directory", "out/run.yaml"))
        'out/run.yaml: No such file or directory'
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


# -- the standard streams ---------------------------------------------------------------------------------------------


def is_of_output(error: OSError) -> bool:
    """Return whether an error is that of the standard output, which then still cannot be written."""
    return error.filename is None and type(error) is type(_failure_of(sys.stdout, "\n"))


def complain(text: str) -> None:
    """Write a line to the standard error stream, if there is one that can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"trackside: error: {text}", file=sys.stderr, flush=True)


def ended(code: int, error: OSError | None = None) -> int:
    """Return the exit code of a command that ends with ``code``, after all that it showed has been written.

    A stream that cannot be written is let go of, since the interpreter would write to it once more, with a traceback.

    Args:
        error: That of the standard output, with which the command ended.
    """
    for stream in (sys.stdout, sys.stderr):  # the second may hold what is said of the first
        failure = (error if stream is sys.stdout else None) or _failure_of(stream)
        if failure is None:
            continue
        with suppress(AttributeError, OSError, ValueError):  # an object in its place has no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(failure, BrokenPipeError) and stream is sys.stdout:  # what reads the output has enough
            code = 128 + signal.SIGPIPE
        elif stream is sys.stdout:
            complain(f"{stream_name(stream)} cannot be written: {_sentence(failure)}")
            code = code or FAILED
    return code


def _failure_of(stream: Any, text: str = "") -> OSError | None:
    """Return the error with which ``text`` cannot be written to a stream; None if it can be, or is missing."""
    try:
        if stream is not None and not getattr(stream, "closed", False):
            print(text, end="", file=stream, flush=True)
    except OSError as error:
        return error
    return None
