"""Rules that a class follows or breaks before any run: its module, its methods, and its state."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trackside.callbacks._util.exact_data import exact, returned
from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.bus.attachment import attachment_of
from trackside.callbacks.bus.introspection import METHODS, location_of, wrong_calls, wrong_hooks
from trackside.callbacks.errors import NotPlainError, TracksideError, describe

from .findings import Findings, named, shorten
from .watch import same, set_method

FRAMEWORK_MODULES = ("torch", "tensorflow", "keras", "jax")


def check_methods(callback: Any, findings: Findings) -> tuple[str, ...] | None:
    """Add the methods that are not events or cannot be called.

    Returns:
        The methods that must not be called; None if the callback cannot be attached, whatever is left out.
    """
    wrong = {**wrong_hooks(callback), **wrong_calls(callback)}
    for fault in wrong.values():
        findings.add(fault)
    try:
        attachment_of(mute(callback, wrong))
    except TracksideError as error:
        findings.add(f"{type(callback).__name__} ({location_of(type(callback))}) cannot be attached: {error}")
        return None
    return tuple(wrong)


def mute(callback: Any, methods: Iterable[str]) -> Any:
    """Return ``callback``, whose ``methods`` are never called from now on, since a fault of them is known."""
    for name in methods:
        set_method(callback, name, _nothing if name in METHODS else None)
    return callback


def _nothing(*args: Any, **kwargs: Any) -> Any:
    return None


def check_state(make: Callable[[], Any], callback: Any, when: str, findings: Findings) -> None:
    """Add what a checkpoint loses of a callback's state, which goes into another callback of the class."""
    if not hasattr(callback, "state_dict"):
        return
    what, loads = named(callback, "state_dict"), named(callback, "load_state_dict")
    state, kept = _taken(callback, f"{what} {when}", findings)
    if kept is None:
        return
    other = make()
    try:
        for _ in range(2):  # a checkpoint may be restored into a callback that has a state
            if kept:
                other.load_state_dict(copy.deepcopy(kept))
        again = other.state_dict()
    except Exception as error:
        findings.add(f"{loads} {when} raised {describe(error)}", f"it is given {shorten(kept)}")
        return
    if not _same_state(again, state):
        advice = f"restore all of it; it is given {shorten(kept)}"
        findings.add(f"{loads} {when} loses state: {shorten(state)} becomes {shorten(again)}", advice)


def states_of_new(make: Callable[[], Any]) -> list[Any]:
    """Return the states of two new callbacks; none if they have no state, or cannot tell it."""
    try:
        return [copy.deepcopy(make().state_dict()) for _ in range(2)] if hasattr(make(), "state_dict") else []
    except Exception:  # which check_state has found
        return []


def check_state_is_own(make: Callable[[], Any], before: Sequence[Any], findings: Findings) -> None:
    """Add that a run of one callback has changed the state of a new one.

    Args:
        make: Makes a new callback.
        before: The states of new callbacks before the run; nothing is checked if they differ.
    """
    after = states_of_new(make)
    if before and after and _same_state(*before) and not _same_state(before[0], after[0]):
        advice = "keep it on the instance: set it in __init__, not in the class body"
        findings.add(f"{named(make(), 'state_dict')} returns state that all callbacks of the class share", advice)


def _taken(callback: Any, what: str, findings: Findings) -> tuple[Any, Any]:
    """Return the state as it is, and as a checkpoint keeps it; None if it cannot."""
    try:
        state = callback.state_dict()
        if not isinstance(state, Mapping):
            findings.add(f"{what} returns {shorten(state)}", "return a dict, an empty one for nothing")
            return state, None
        return state, returned(json.loads(json.dumps(exact(dict(state), "state_dict()"))))
    except NotPlainError as error:
        findings.add(f"{what} is not JSON: {error}", "return what can be written, and build the rest from it")
    except Exception as error:
        findings.add(f"{what} raised {describe(error)}", "it is called before, in and after runs")
    return None, None


def _same_state(one: Any, other: Any) -> bool:
    """Return whether two states are equal, and of the same types, but for the classes of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same_state, one, other))
    one_plain, other_plain = plain(one, "a state"), plain(other, "a state")
    numbers = (bool, int, float)
    are_numbers = isinstance(one_plain, numbers) and isinstance(other_plain, numbers)
    return same(one_plain, other_plain) and (are_numbers or type(one) is type(other))


def check_module(cls: type, findings: Findings) -> None:
    """Add the frameworks that importing the module of ``cls`` loads, as seen by a fresh interpreter."""
    module = cls.__module__
    if not _has_file(module):
        return  # the class of a notebook or a test, which another process cannot import
    code = f"import sys, {module}; print(*[name for name in {FRAMEWORK_MODULES!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if done.returncode:
        error, parts = done.stderr.strip().splitlines()[-1], module.split(".")
        if any(error.endswith(f"No module named {'.'.join(parts[:length])!r}") for length in range(1, len(parts) + 1)):
            return  # it was imported from where another process does not look
        findings.add(f"importing {module} fails: {error}")
    for name in done.stdout.split():
        findings.add(f"importing {module} imports {name}", "import it where it is needed, inside a function")


def _has_file(module: str) -> bool:
    """Return whether a module was found as one, instead of being made by hand or run as a program."""
    try:
        return module != "__main__" and importlib.util.find_spec(module.partition(".")[0]) is not None
    except ValueError:
        return False
