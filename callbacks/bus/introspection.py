"""Introspection of callbacks: their ``on_*`` methods, role, name and source location."""

from __future__ import annotations

import inspect
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from .._util.signatures import misfit, never_runs, place_of
from ..errors import CallbackError, TracksideError, did_you_mean
from ..events import EVENTS
from ..types import Context, keywords_of

FOREIGN_EVENTS = frozenset({"on_push_begin"})
"""Events of other trainers that trackside does not send; a callback may have methods for them."""

_locations: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()

_parsing = threading.RLock()
"""Held while inspect parses a source file: Python 3.11 raises SystemError if two threads do so at once."""


def instantiate(cls: type) -> Any:
    """Call a callback class that was given instead of an instance.

    Raises:
        CallbackError: If it cannot be called without arguments.
    """
    try:
        return cls()
    except TracksideError:
        raise
    except TypeError as error:
        raise CallbackError(f"{cls.__name__} cannot be made without arguments ({error}); give an instance") from error


def overridden_events(callback: Any) -> Iterator[str]:
    """Yield the events for which ``callback`` has a method of its own.

    One that is inherited from a base class named TrainerCallback (ours or that of transformers) does nothing.
    """
    for event in EVENTS:
        method = getattr(callback, event, None)
        if callable(method) and not _does_nothing(event, method):
            yield event


def _does_nothing(name: str, method: Any) -> bool:
    return getattr(method, "__qualname__", "") == f"TrainerCallback.{name}"


ADAPTERS = {
    "KerasCallbackAdapter": ("set_model", "set_params", "on_train_batch_end"),
    "LightningLoggerAdapter": ("log_hyperparams", "log_metrics", "finalize"),
}
"""The methods by which a callback, or a logger, of another library is recognized, and the adapter that takes it."""


def check_adapted(callback: Any) -> None:
    """Check that a callback, an instance or a class, is not a name, or one that needs an adapter.

    Raises:
        CallbackError: If it is; the message names the adapter, or where names belong.
    """
    if isinstance(callback, str):
        raise CallbackError(
            f"callbacks takes instances and classes, not the name {callback!r}; names go into the training arguments: "
            f"callbacks={{{callback!r}: {{}}}}, with the options of the callback"
        )
    if hasattr(callback, "role"):
        return
    for adapter, methods in ADAPTERS.items():
        if all(callable(getattr(callback, method, None)) for method in methods):
            name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
            raise CallbackError(
                f"{name} ({location_of(callback if isinstance(callback, type) else type(callback))}) is not called by "
                f"trackside as it is; wrap it: callbacks=[{adapter}({name}(...))], from trackside import {adapter}"
            )


METHODS = {
    **{event: (("args", "state", "control"), tuple(keywords_of(event))) for event in EVENTS},
    "metrics_to_log": (("args", "state"), (*Context.__annotations__, "used_groups")),
    "loss_not_finite": (("args", "state", "control"), ("step", "loss")),
    "accepts_state": (("args", "state"), ()),
    "state_dict": ((), ()),
    "load_state_dict": (("state",), ()),
}
"""The methods of a callback that are called, each with what it gets by position and by keyword."""


def check_hooks(target: Any) -> None:
    """Check that a callback, an instance or a class, has ``on_...`` methods, and that each is that of an event.

    Raises:
        CallbackError: If not; the message names the nearest event.
    """
    cls = target if isinstance(target, type) else type(target)
    for fault in wrong_hooks(target).values():
        raise CallbackError(fault)
    names = (*(name for name in dir(target) if name.startswith("on_")), *EVENTS)  # a proxy lists only its own
    if not any(callable(getattr(target, name, None)) for name in names):
        raise CallbackError(f"{cls.__name__} is not a callback: it has none of the methods {', '.join(EVENTS)}")


def wrong_hooks(target: Any) -> dict[str, str]:
    """Return the ``on_...`` methods of a callback that are not those of events, each with a sentence that says so."""
    cls = target if isinstance(target, type) else type(target)
    found = {}
    for name in (name for name in dir(target) if name.startswith("on_")):
        if name in EVENTS or name in FOREIGN_EVENTS or _is_of_another_interface(cls, name):
            continue
        if callable(getattr(target, name, None)):
            near, known = did_you_mean(name, EVENTS), ", ".join(EVENTS)
            place = place_of(getattr(target, name)) if name in getattr(target, "__dict__", ()) else location_of(cls)
            found[name] = f"{cls.__name__}.{name} ({place}) is not an event.{near} Events: {known}"
    return found


def _is_of_another_interface(cls: type, name: str) -> bool:
    """Return whether a base class without any event declares the method: a tool calls it, not a trainer."""
    return any(name in vars(base) and not any(hasattr(base, event) for event in EVENTS) for base in cls.__mro__[1:])


def check_calls(callback: Any) -> None:
    """Check that each method of a callback can be called as it will be, and that the call runs its body.

    Raises:
        CallbackError: If not; the message has the file and line of the method.
    """
    for fault in wrong_calls(callback).values():
        raise CallbackError(fault)


def wrong_calls(callback: Any) -> dict[str, str]:
    """Return the methods of a callback that cannot be called as they will be, each with a sentence that says why."""
    found = {}
    for name in METHODS:
        method = getattr(callback, name, None)
        if method is not None and not _does_nothing(name, method) and (fault := _misfit(name, method)):
            found[name] = (
                f"{type(callback).__name__}.{name} ({place_of(method) or location_of(type(callback))}) {fault}"
            )
    return found


def _misfit(name: str, method: Any) -> str:
    positional, keywords = METHODS[name]
    if not callable(method):
        return f"is {method!r}, not a method; give the attribute another name"
    if kind := never_runs(method):
        return f"is {kind}, so that a call would not run its body; make it a plain function"
    is_open = "trainer" in keywords  # further ones may come with any version
    reason = misfit(method, len(positional), [*keywords, "others"] if is_open else keywords)
    if not reason:
        return ""
    call = ", ".join([*positional, "**kwargs"] if is_open else [*positional, *keywords])
    given = f"; it gets {', '.join(keywords)} and others by keyword" if is_open else ""
    return f"cannot be called as {name}({call}): {reason}{given}"


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raise CallbackError unless ``value`` is one of ``choices``."""
    if value not in choices:
        allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise CallbackError(f"{option}={value!r} is not allowed: {allowed}.{did_you_mean(str(value), choices)}")


def foreign_role(callback: Any) -> str:
    """Return the role of a callback that does not declare one: "observer" for the trackers that transformers ships."""
    return "observer" if type(callback).__module__.startswith("transformers.integrations") else "control"


def snake_case(class_name: str) -> str:
    """Return the name of a callback class in the form used in configs.

    Example:
        >>> snake_case("EarlyStoppingCallback"), snake_case("TerminateOnNaNCallback"), snake_case("CSVLogger")
        ('early_stopping', 'terminate_on_nan', 'csv_logger')
    """
    stem = class_name.removesuffix("Callback") or class_name
    stem = stem.replace("NaN", "Nan")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()


def location_of(cls: type) -> str:
    """Return file and line of ``cls``, or its module if the source cannot be found."""
    with _parsing:
        if cls not in _locations:  # inspect parses the whole file
            try:
                _locations[cls] = f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
            except (OSError, TypeError):
                _locations[cls] = cls.__module__
        return _locations[cls]
