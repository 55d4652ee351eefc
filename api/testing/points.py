"""Points: what a tracker has to show of a run's records, compared with what its reader found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trackside.callbacks.errors import ArgumentError
from trackside.integrations._base.metric_names import numbers_in, rewrite_logs

from .findings import shorten
from .odd_values import is_odd

Points = dict[str, list[tuple[int, float]]]
"""The points of each curve, in the order of the records: steps and values."""

Names = str | Callable[[Mapping[str, Any]], Mapping[str, Any]]

Found = Mapping[tuple[str, int], Any] | Iterable[tuple[str, int, Any]]
"""What a reader returns."""

TOLERANCE = 1e-6

HUGE = 1e37
"""A value from which a tool that has no infinity shows the largest number that it has."""

NAMES: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "grouped": rewrite_logs,
    "record": lambda record: {name: value for name, value in record.items() if name != "step"},
}
"""Ways in which trackers name the values of a record."""


def shown_names(names: Names) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return the function that maps a record to what is shown of it.

    Raises:
        ArgumentError: If ``names`` is neither such a function nor the name of one.
    """
    if callable(names):
        return names
    if names not in NAMES:
        raise ArgumentError("names", names, f"{' or '.join(NAMES)}, or a function of a record")
    return NAMES[names]


def points_of(records: Iterable[tuple[int, Mapping[str, Any]]], names: Names) -> Points:
    """Return the points of records, each with its step, odd values left out."""
    shown = shown_names(names)
    return _curves(
        (name, step, value)
        for step, record in records
        for name, value in numbers_in(shown(record)).items()
        if not is_odd(name)
    )


def points_found(found: Found) -> Points:
    """Return the points that a reader found, without those that are None.

    Raises:
        ArgumentError: If it is not as a reader has to return it.
    """
    rows = [(*key, value) for key, value in found.items()] if isinstance(found, Mapping) else list(found)
    if not all(isinstance(row, tuple | list) and len(row) == 3 and isinstance(row[0], str) for row in rows):
        raise ArgumentError("read", rows[:1], "a function that returns {(name, step): value}, or (name, step, value)s")
    return _curves((name, int(step), float(value)) for name, step, value in rows if value is not None)


def differences(expected: Points, found: Points) -> Iterator[tuple[str, str]]:
    """Yield what a tracker shows otherwise than it has to, and what to do about it; one sentence for each kind."""
    found = {name: points for name, points in found.items() if not is_odd(name)}
    if unknown := sorted(found.keys() - expected.keys()):
        yield f"shows {_several(unknown)}, which was not logged", f"what has to be shown: {', '.join(sorted(expected))}"
    for kind, (where, advice) in KINDS.items():
        names: list[str] = []
        steps = ""
        for name in sorted(expected):
            due = Counter(step for step, _ in expected[name])
            shown = Counter(step for step, _ in found.get(name, ()))
            at = {
                "missing": due.keys() - shown.keys(),
                "twice": (shown - due).keys() & due,
                "extra": shown.keys() - due,
            }
            if at[kind]:
                names, steps = [*names, name], steps or _listed(at[kind])
        if names:
            yield where.format(names=_several(names), steps=steps), advice
    wrong = [item for name in sorted(expected.keys() & found.keys()) for item in _wrong(name, expected, found)]
    for what in wrong[:MOST_VALUES]:
        yield what, "write values as they are"


def _wrong(name: str, expected: Points, found: Points) -> list[str]:
    """Return a sentence about the first value of a curve that is wrong; empty if there is none."""
    values = dict(expected[name])
    pairs = [(step, values[step], value) for step, value in dict(found[name]).items() if step in values]
    wrong = [item for item in pairs if not is_close(item[1], item[2])]
    return [f"shows {shown!r} for {name} at step {step}, where {due!r} was logged" for step, due, shown in wrong[:1]]


MOST_VALUES = 3
"""Curves of which a wrong value is told."""

KINDS = {
    "missing": ("does not show {names} of {steps}", "write every number of every record"),
    "twice": (
        "shows {names} twice at {steps}",
        "write no step again that the run of the tool holds, and begin a new run where state.global_step is 0",
    ),
    "extra": (
        "shows {names} at {steps}, where this run did not log it",
        "take the step from state.global_step, and begin a new run in on_train_begin where that is 0",
    ),
}
"""Kinds of differences between the steps of a curve: what is wrong, and what to do about it."""


def odd_differences(logged: Mapping[str, Any], found: Points, names: Names) -> Iterator[tuple[str, str]]:
    """Yield which odd values a tracker shows as numbers that they are not."""
    shown = shown_names(names)
    for record in ({name: value} for name, value in logged.items()):
        for name, value in shown(record).items():
            number = _as_number(value)
            for _, other in found.get(name, []):
                if not _stands_for(number, other):
                    what = f"shows {other!r} for {name}, where {shorten(value)} was logged"
                    yield what, "leave out what is not a number"


def is_close(value: float, other: float) -> bool:
    """Return whether two values are the same but for the rounding to 32 bits; NaN is the same as NaN."""
    return math.isclose(value, other, rel_tol=TOLERANCE) or (math.isnan(value) and math.isnan(other))


def _stands_for(value: float | None, shown: float) -> bool:
    if math.isnan(shown):  # as tools show what they do not know
        return value is None or math.isnan(value)
    if value is None or math.isnan(value):
        return False
    if abs(value) >= HUGE:
        return abs(shown) >= HUGE and (shown > 0) == (value > 0)
    return math.isclose(value, shown, rel_tol=TOLERANCE, abs_tol=1e-37)


def _as_number(value: Any) -> float | None:
    """Return an odd value as a number, as which a tool may show it; None if it is not one."""
    try:
        return float(value)  # of text, too: a text file does not tell one from the other
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _listed(steps: Iterable[int]) -> str:
    text = ", ".join(str(step) for step in sorted(steps))
    return f"{'steps' if ',' in text else 'step'} {text}" if text else ""


def _curves(points: Iterable[tuple[str, int, float]]) -> Points:
    curves: Points = {}
    for name, step, value in points:
        curves.setdefault(name, []).append((step, value))
    return curves
