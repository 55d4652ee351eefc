"""Attaching callbacks from a map of names to options: a config file's, TrainingArguments' and report_to's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._util.environment import has_reference
from ..bus.attachment import attachment_of
from ..bus.dispatcher import Dispatcher
from ..bus.introspection import check_hooks
from ..errors import CallbackOrderError, ConfigError
from ..events import EVENTS
from .callback_config import CallbackConfig, parse_callback_map


def attach_from_map(
    dispatcher: Dispatcher, callbacks: Mapping[str, Any], make: Callable[[CallbackConfig], Any] | None = None
) -> None:
    """Attach every callback of a map from name to options, in its order.

    All entries are checked before the first callback is made, so that nothing is attached if one is wrong.

    Args:
        dispatcher: The dispatcher to attach them to.
        callbacks: An entry is a map of options, true or nothing for none, or false to leave the callback out. The keys
            of `ENTRY_KEYS` in `callback_config` say how it is attached; an option of the callback that has the same
            name goes into ``init_args``.
            A `trackside.callbacks.config.callback_config.CallbackMap` also knows where the entries were written.
        make: Makes the callback of an entry; None: its class does, with its options.

    Raises:
        ConfigError: If a name, an option or a value is not known; the message names location, key, value and the
            nearest.
        CallbackOrderError: If ``before`` and ``after`` contradict each other, or name what is not attached.
    """
    configs = parse_callback_map(callbacks)
    made = [(_checked(config, make or _made), config.attach_options) for config in configs]
    try:
        dispatcher.attach_all(made)
    except CallbackOrderError as error:
        raise CallbackOrderError(f"{', '.join(_locations(configs, error.names))}: {error}", error.names) from error


def _locations(configs: Iterable[CallbackConfig], names: Iterable[str]) -> list[str]:
    """Return where the order of the callbacks in ``names`` was written."""
    asked = [(item, key) for item in configs for key in ("before", "after") if getattr(item.attach_options, key)]
    return list(dict.fromkeys(item.location_of(key) for item, key in asked if item.name in names))


def _made(config: CallbackConfig) -> Any:
    if isinstance(config.make, type):
        check_hooks(config.make)  # before it is called: it may be any class
    return config.make(**config.arguments())


def _checked(config: CallbackConfig, make: Callable[[CallbackConfig], Any]) -> Any:
    """Return the callback of an entry, after a check that it can be attached."""
    try:
        callback = make(config)
        attachment_of(callback, config.attach_options)
        return callback
    except ConfigError:
        raise
    except Exception as error:
        raise config.refused(error) from error


# -- without calling anything -----------------------------------------------------------------------------------------

OWN = ("trackside.callbacks.builtin.", "trackside.integrations.")
"""The packages of the classes that are made in any case, since they only keep their options."""


def stand_in(config: CallbackConfig) -> Any:
    """Return an object that shows how the callback of an entry would be attached, without a call of its class.

    It has the methods, role and other declarations that the class itself has; what a function would return is unknown.
    """
    cls = config.make
    if not isinstance(cls, type):
        return type(getattr(cls, "__name__", config.name), (UnknownCallback,), _place_of(cls))()
    if cls.__module__.startswith(OWN) and not has_reference(config.options):
        return _made(config)
    check_hooks(cls)
    declared = {name: inspect.getattr_static(cls, name) for name in dir(cls) if name in DECLARED or name in EVENTS}
    plain = {name: value for name, value in declared.items() if name in EVENTS or isinstance(value, SIMPLE)}
    return type(cls.__name__, (), {**plain, **_place_of(cls)})()


DECLARED = ("role", "on_error", "name", "background", "timeout_s")
"""Attributes by which a class says how it is attached."""

SIMPLE = (str, bool, int, float, type(None))
"""Types of values that can be read without a call."""


class UnknownCallback:
    """What a function will return: a callback of which nothing is known before."""

    def on_init_end(self, *args: Any, **kwargs: Any) -> None:
        """Make it a callback."""


def _place_of(target: Any) -> dict[str, str]:
    names = ("__module__", "__qualname__")
    return {name: value for name in names if isinstance(value := getattr(target, name, None), str)}
