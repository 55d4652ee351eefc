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
    except ConfigError:
        raise
    except kinds as error:
        raise ConfigError(str(error)) from error
