"""Findings of a check: sentences that name the callback, the hook, its file and line, and what to do."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from trackside.callbacks._util.signatures import place_of
from trackside.callbacks.bus.introspection import location_of
from trackside.callbacks.errors import TracksideError, describe


class ConformanceError(TracksideError, AssertionError):
    """A callback breaks rules that hold for every callback; the message lists all faults.

    Attributes:
        faults: The faults, one sentence each.
    """

    def __init__(self, name: str, faults: Sequence[str], kind: str = "callback") -> None:
        self.faults: list[str] = list(faults)
        super().__init__(f"{name} is not a good {kind}:\n" + "\n".join(f"- {fault}" for fault in faults))


class Finding(NamedTuple):
    """A fault, and where it was found."""

    what: str
    advice: str
    phases: list[str]
    frameworks: list[str]

    def __str__(self) -> str:
        when = f", in {' and '.join(self.phases)}" if self.phases else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.what}{when}{advice}" + (f" (on {' and '.join(self.frameworks)})" if self.frameworks else "")


class Findings:
    """The faults that were found so far; one that was found several times is one sentence.

    Attributes:
        framework: The framework of the run that is checked; "" where there is none.
        phase: What the run is doing.
        advice: What a callback that fails in this phase has to do.
    """

    def __init__(self) -> None:
        self.framework: str = ""
        self.phase: str = ""
        self.advice: str = ""
        self._found: dict[str, Finding] = {}
        self._raised: dict[tuple[str, type], str] = {}

    def begin(self, phase: str, advice: str = "") -> None:
        """Note what the run does next."""
        self.phase, self.advice = phase, advice

    def add(self, what: str, advice: str = "", *, with_phase: bool = True) -> None:
        """Add a fault: what is wrong, what to do about it, and whether it matters what the run is doing."""
        finding = self._found.setdefault(what, Finding(what, advice, [], []))
        for seen, value in ((finding.phases, self.phase if with_phase else ""), (finding.frameworks, self.framework)):
            if value and value not in seen:
                seen.append(value)

    def raised(self, callback: Any, hook: str, error: BaseException, given: str = "") -> None:
        """Add that a method of a callback raised; the place is the line of the callback's file that did."""
        place = _raising_line(callback, error)
        where = f"{type(callback).__name__}.{hook} ({place})" if place else named(callback, hook)
        what = self._raised.setdefault((where, type(error)), f"{where} raised {describe(error)}{given}")
        self.add(what, self.advice)

    def sentences(self) -> list[str]:
        """Return all faults."""
        return [str(finding) for finding in self._found.values()]


def named(callback: Any, hook: str) -> str:
    """Return how a finding names a hook: class, method, file and line; the class's own where it inherits the method."""
    cls = type(callback)
    own = next((vars(base)[hook] for base in cls.__mro__ if hook in vars(base)), None)
    is_own = getattr(own, "__module__", "") == cls.__module__
    return f"{cls.__name__}.{hook} ({(place_of(own) if callable(own) and is_own else '') or location_of(cls)})"


def shorten(value: object) -> str:
    """Return the text of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _raising_line(callback: Any, error: BaseException) -> str:
    try:
        file = inspect.getsourcefile(type(callback))
    except (OSError, TypeError):  # of a notebook, or of code that was executed as a text
        return ""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
