"""Watch: the methods of a callback, wrapped so that what breaks a rule becomes a finding and the run goes on."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from trackside.callbacks._util.plain_data import copy_plain
from trackside.callbacks.bus.introspection import METHODS, overridden_events
from trackside.callbacks.events import EVENTS

from .findings import Findings, named, shorten
from .odd_values import odd_part

if TYPE_CHECKING:
    from trackside.callbacks.state import TrainerControl, TrainerState

PAYLOAD = ("logs", "metrics")

DEFAULTS: Mapping[str, Any] = {"metrics_to_log": {}, "accepts_state": True, "state_dict": {}}
"""What a method that raised is taken to have returned."""


class Watch:
    """Adds to ``findings`` what a callback does wrong.

    Attributes:
        loaded: The states that callbacks were given, as JSON values.
        is_background: Whether they are called in another thread while training goes on.
    """

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.loaded: list[Any] = []
        self.is_background: bool = False

    def on(self, callback: Any, role: str) -> Any:
        """Return ``callback``, watched from now on.

        Args:
            role: The role with which it is attached.
        """
        events = set(overridden_events(callback))
        for name in METHODS:
            method = getattr(callback, name, None)
            if not callable(method) or (name in EVENTS and name not in events):
                continue
            watched = (
                self._event(callback, name, method, role == "observer")
                if name in EVENTS
                else self._method(callback, name, method)
            )
            set_method(callback, name, functools.update_wrapper(watched, method))
        return callback

    def _event(self, callback: Any, name: str, method: Callable[..., Any], is_observer: bool) -> Callable[..., Any]:
        def watch(args: object, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
            given = {key: copy_plain(kwargs[key]) for key in PAYLOAD if key in kwargs}
            numbers = random_state() if is_observer and not self.is_background else None
            history, flags = copy_plain(list(state.log_history)), copy.copy(control)
            try:
                return method(args, state, control, **kwargs)
            except Exception as error:
                self.findings.raised(callback, name, error, _about(given))
            finally:
                for key, value in given.items():
                    if not same(kwargs[key], value):
                        self._add(callback, name, f"changes {key}", f"work on a copy: dict({key})")
                if not same(list(state.log_history), history):
                    advice = "a monitor's metrics_to_log adds values to records, trainer.log adds a record"
                    self._add(callback, name, "changes state.log_history", advice)
                if numbers is not None and numbers != random_state():
                    advice = "use a generator of its own: random.Random(), numpy.random.default_rng()"
                    self._add(callback, name, "draws from the global random numbers, which training uses", advice)
                if is_observer and vars(control) != vars(flags):
                    advice = 'a callback that sets flags declares role = "control"'
                    self._add(callback, name, 'steers the run, but its role is "observer"', advice)
            return None

        return watch

    def _method(self, callback: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **kwargs: Any) -> Any:
            if name == "load_state_dict":
                self.loaded.append(copy.deepcopy(args[0]))
            try:
                return method(*args, **kwargs)
            except Exception as error:
                self.findings.raised(callback, name, error)
                return copy.copy(DEFAULTS.get(name))

        return watch

    def _add(self, callback: Any, hook: str, what: str, advice: str) -> None:
        self.findings.add(f"{named(callback, hook)} {what}", advice, with_phase=False)


def set_method(callback: Any, name: str, function: Callable[..., Any] | None) -> None:
    """Set a method on a callback; if its class allows no attributes, the callback gets one derived from it."""
    try:
        object.__setattr__(callback, name, function)  # also where a dataclass is frozen
    except AttributeError:
        cls: Any = type(callback)
        body = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        metaclass: Any = type(cls)
        derived = metaclass(cls.__name__, (cls,), {**body, name: function and staticmethod(function)})
        object.__setattr__(callback, "__class__", derived)


def random_state() -> tuple[Any, ...]:
    """Return the state of the global random numbers of Python and NumPy."""
    import numpy as np

    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    return random.getstate(), name, keys.tobytes(), *rest


def same(one: object, other: object) -> bool:
    """Return whether two values are equal; NaN equals NaN."""
    try:
        if one == other:
            return True
    except Exception:  # of the values' own comparison, such as that of arrays
        pass
    try:
        return repr(one) == repr(other)
    except Exception:
        return False


def _about(payload: Mapping[str, Any]) -> str:
    """Return which odd values an event had."""
    odd = {name: value for values in payload.values() for name, value in odd_part(values).items()}
    return f", given {shorten(odd)}" if odd else ""
