"""Attaching callbacks from a map of names to options: a config file's, TrainingArguments' and report_to's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..bus.attachment import attachment_of
from ..bus.dispatcher import Dispatcher
from ..errors import CallbackOrderError, TracksideError
from .callback_config import CallbackConfig, parse_callback_map


def attach_from_map(dispatcher: Dispatcher, callbacks: Mapping[str, Any]) -> None:
    """Attach every callback of a map from name to options, in its order.

    All entries are checked before the first callback is made, so that nothing is attached if one is wrong.

    Args:
        dispatcher: The dispatcher to attach them to.
        callbacks: An entry is a map of options, true or nothing for none, or false to leave the callback out. The keys
            of `ENTRY_KEYS` in `callback_config` say how it is attached; an option of the callback that has the same
            name goes into ``init_args``.
            A `trackside.callbacks.config.callback_config.CallbackMap` also knows where the entries were written.

    Raises:
        ConfigError: If a name, an option or a value is not known; the message names location, key, value and the
            nearest.
        CallbackOrderError: If ``before`` and ``after`` contradict each other, or name what is not attached.
    """
    configs = parse_callback_map(callbacks)
    made = [(_make(config), config.attach_options) for config in configs]
    try:
        dispatcher.attach_all(made)
    except CallbackOrderError as error:
        raise CallbackOrderError(f"{', '.join(_locations(configs, error.names))}: {error}", error.names) from error


def _locations(configs: Iterable[CallbackConfig], names: Iterable[str]) -> list[str]:
    """Return where the order of the callbacks in ``names`` was written."""
    asked = [(item, key) for item in configs for key in ("before", "after") if getattr(item.attach_options, key)]
    return list(dict.fromkeys(item.location_of(key) for item, key in asked if item.name in names))


def _make(config: CallbackConfig) -> Any:
    """Return the callback of an entry, after a check that it can be attached."""
    try:
        callback = config.make(**config.options)
        attachment_of(callback, config.attach_options, taken={})
        return callback
    except (TracksideError, TypeError, ValueError) as error:
        raise config.refused(error) from error
