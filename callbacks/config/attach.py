"""Attaching callbacks from a map of names to options: a config file's, TrainingArguments' and report_to's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import registry
from ..bus.attachment import attachment_of
from ..bus.dispatcher import Dispatcher
from ..errors import CallbackOrderError, TracksideError
from .callback_config import Entry, read_entries


def attach_from_map(
    dispatcher: Dispatcher,
    callbacks: Mapping[str, Any],
    *,
    registered_only: bool = False,
    origins: Mapping[str, str] | None = None,
) -> None:
    """Attach every callback of a map from name to options, in its order.

    All entries are checked before the first callback is made, so that a wrong one leaves nothing behind.

    Args:
        callbacks: An entry is a map of options, true or nothing for none, or false to leave the callback out. The keys
            of `ENTRY_KEYS` in `callback_config` say how it is attached; an option of the callback that has the same
            name goes into ``init_args``.
        registered_only: Refuse entries with a ``class_path``, for maps from elsewhere.
        origins: Where entries and options were written; without it, what a
            `trackside.callbacks.config.callback_config.CallbackMap` knows of itself.

    Raises:
        ConfigError: If a name, an option or a value is not known; the message names place, key, value and the nearest.
        CallbackOrderError: If ``before`` and ``after`` contradict each other, or name what is not attached.
    """
    entries = read_entries(callbacks, registered_only=registered_only, origins=origins)
    made = [(_make(entry), entry.placement) for entry in entries]
    try:
        dispatcher.attach_all(made)
    except CallbackOrderError as error:
        raise CallbackOrderError(f"{', '.join(_places(entries, error.names))}: {error}", error.names) from error


def _places(entries: Iterable[Entry], names: Iterable[str]) -> list[str]:
    """Return where the order of the callbacks in ``names`` was written."""
    asked = [(entry, key) for entry in entries for key in ("before", "after") if getattr(entry, key)]
    return list(dict.fromkeys(entry.place_of(key) for entry, key in asked if entry.name in names))


def _make(entry: Entry) -> Any:
    """Return the callback of an entry, seen to be one that can be attached."""
    try:
        callback = registry.build(entry.make, entry.options)
        attachment_of(callback, taken={}, **entry.placement)
        return callback
    except (TracksideError, TypeError, ValueError) as error:
        raise entry.refused(error) from error
