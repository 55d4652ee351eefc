"""Costs counted in calls, which are the same on every machine, instead of seconds."""

from __future__ import annotations

import cProfile
import gc
from collections.abc import Callable
from typing import Any


def calls_of(action: Callable[[], Any]) -> int:
    """How many functions, of Python and of C, an action calls on this thread."""
    profile = cProfile.Profile()
    gc.collect()
    gc.disable()
    profile.enable()
    try:
        action()
    finally:
        profile.disable()
        gc.enable()
    return sum(entry.callcount for entry in profile.getstats())


def assert_linear(calls: Callable[[int], int], number: int) -> None:
    """Check that each one between ``2 * number`` and ``4 * number`` costs about what those before cost."""
    calls(1)  # what is made once in a process
    few, some, many = (calls(factor * number) for factor in (1, 2, 4))
    assert (many - some) / (2 * number) < 1.3 * (some - few) / number
