"""Errors of code that other people wrote, told without the code that called it."""

from __future__ import annotations

import traceback

CALLERS = ("trackside", "importlib", "_frozen_importlib", "_frozen_importlib_external")
"""Packages whose lines are left out."""


def told(error: BaseException, hint: str = "") -> str:
    """Return the type and the text of an error, and below them the lines of code that led to it, if any.

    Lines of trackside, and of Python's own import, are left out.

    Args:
        hint: What follows the text.
    """
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in CALLERS
    ]
    lines = "".join(traceback.StackSummary.extract(iter(frames)).format()).rstrip()
    return f"{type(error).__name__}: {error}{hint}" + (f"\n{lines}" if lines else "")
