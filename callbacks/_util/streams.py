"""The standard streams may be full, closed, or without a reader any more: what is shown there is lost, nothing else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger: logging.Logger = logging.getLogger("trackside")

_told: set[tuple[str, str]] = set()
"""The streams that could not be written, each with the reason that was told."""


@contextmanager
def as_far_as_possible(stream: Any) -> Iterator[None]:
    """Return a context for writing to ``stream`` which tells once that it cannot be written, and goes on."""
    try:
        yield
    except (OSError, ValueError) as error:  # the second of a closed one
        name = stream_name(stream)
        told = (name, getattr(error, "strerror", None) or str(error))
        if told not in _told:
            _told.add(told)
            logger.warning("%s cannot be written (%s): the run goes on, and what it shows there is lost", *told)


def stream_name(stream: Any) -> str:
    """Return what a stream is called in a message."""
    return {id(sys.stdout): "the standard output", id(sys.stderr): "the standard error stream"}.get(
        id(stream), f"the output {type(stream).__name__}"
    )
