"""Compatibility layer: the only modules that use private parts or private file formats of other tools.

A tool may change these in any release. Each module therefore has one test that the private part is still as expected,
and one fall-back: a function whose result cannot be read returns None, which means "unknown", and logs one warning.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger: logging.Logger = logging.getLogger("trackside.integrations")

Params = ParamSpec("Params")
Result = TypeVar("Result")


def none_if_unreadable(read: Callable[Params, Result]) -> Callable[Params, Result | None]:
    """Decorate a function that reads private data of a tool: return None instead of raising an exception.

    Args:
        read: Function to decorate. Its module names the tool in the warning.

    Returns:
        A function that returns what ``read`` returns, or None after logging a warning.
    """

    @functools.wraps(read)
    def read_or_none(*args: Params.args, **kwargs: Params.kwargs) -> Result | None:
        try:
            return read(*args, **kwargs)
        except Exception as error:
            source = read.__module__.rpartition(".")[2]
            logger.warning("%s.%s failed, its result is unknown: %r", source, read.__name__, error)
            return None

    return read_or_none
