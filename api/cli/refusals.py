"""Errors that the command line tells in a sentence, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trackside.callbacks.errors import ConfigError, TracksideError


@contextmanager
def told_plainly(*also: type[Exception]) -> Iterator[None]:
    """Turn errors of trackside, and those of other classes that are given, into a ConfigError with their text."""
    kinds: tuple[type[Exception], ...] = (TracksideError, *also)
    try:
        yield
    except (ConfigError, BrokenPipeError):  # the second is not an error: what reads the output has enough
        raise
    except kinds as error:
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
