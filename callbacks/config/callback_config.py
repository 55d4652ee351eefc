"""Reading a map from names to options, in which a config file or TrainingArguments lists callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import registry
from .._util.imports import import_from
from ..errors import ArgumentError, ConfigError, TracksideError, UnknownNameError, did_you_mean
from ..events import EVENTS

PLACEMENT = ("before", "after", "on", "every", "role", "on_error", "background", "timeout_s")
"""Keys of an entry that `trackside.callbacks.bus.dispatcher.Dispatcher.attach` knows too."""

ENTRY_KEYS = ("enabled", "class_path", "init_args", *PLACEMENT)
"""What an entry may say about how its callback is attached; every other key is an option of the callback itself."""

IN_PYTHON = "TrainingArguments"
"""Where an entry was written that is in no file."""


class CallbackMap(dict[str, Any]):
    """A map of names to options that knows where its entries were written.

    Attributes:
        origins: The place of each entry by its name, and of each option by "name.option".
        registered_only: Refuse entries with a ``class_path``.
    """

    origins: Mapping[str, str] = {}
    registered_only = False


@dataclass
class Entry:
    """One callback that is to be attached: what to call, with which options, and where it stands in the order.

    Attributes:
        written_at: The keys within the entry under which each option is written.
        places: Where the map and its options were written, as in `CallbackMap.origins`.
        where: The place of the entry.
        origin: That, and the package that the callback is from.
    """

    name: str
    make: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    written_at: dict[str, tuple[str, ...]] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    on: tuple[str, ...] | None = None
    every: int = 1
    role: str | None = None
    on_error: str | None = None
    background: bool | None = None
    timeout_s: float | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    origin: str = ""

    @property
    def placement(self) -> dict[str, Any]:
        """The options of `trackside.callbacks.bus.dispatcher.Dispatcher.attach`."""
        return {name: getattr(self, name) for name in ("name", *PLACEMENT, "origin")}

    def place_of(self, option: str) -> str:
        """Return where an option was written, or one of `ENTRY_KEYS`."""
        return _place(self.places, ".".join((self.name, *self.written_at.get(option, (option,)))))

    def refused(self, error: Exception) -> ConfigError:
        """Return the error of the constructor as one that says where in the map the cause is."""
        option = getattr(error, "field", None)
        if isinstance(error, ArgumentError) and option in self.written_at:
            key = ".".join((self.name, *self.written_at[option]))
            shown = f"callbacks.{key}={self.options[option]!r} is not allowed: {error.allowed}"
            return ConfigError(f"{self.place_of(option)}: {shown}")
        given = ", ".join(f"{keys[-1]}={self.options[name]!r}" for name, keys in self.written_at.items())
        return ConfigError(f"{self.where}: callbacks.{self.name}: {error}" + (f" (given: {given})" if given else ""))


def read_entries(
    callbacks: Mapping[str, Any], *, registered_only: bool = False, origins: Mapping[str, str] | None = None
) -> list[Entry]:
    """Return the enabled entries of a map, checked, with their classes imported and nothing called.

    Raises:
        ConfigError: See `attach_from_map`.
    """
    if not isinstance(callbacks, Mapping):
        raise ConfigError(f"callbacks={callbacks!r}: a map from names to options is needed")
    places = origins if origins is not None else getattr(callbacks, "origins", {})
    registered_only = registered_only or getattr(callbacks, "registered_only", False)
    _check_names_left_out(callbacks, places)
    return [
        _Reader(name, _as_map(name, value, places), places, registered_only).read()
        for name, value in callbacks.items()
        if not is_disabled(value)
    ]


def is_disabled(value: Any) -> bool:
    """Return whether an entry leaves its callback out."""
    return value is False or (isinstance(value, Mapping) and value.get("enabled") is False)


def _check_names_left_out(callbacks: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """See to it that an entry that says nothing but "leave it out" names something that there is.

    One that has options too was written by somebody who knows the callback, whether it is installed here or not.
    """
    known = [*registry.claims_by_name(), *(name for name, value in callbacks.items() if not is_disabled(value))]
    for name, value in callbacks.items():
        if name not in known and value in (False, {"enabled": False}):
            near = did_you_mean(name, known)
            raise _error(places, name, False, f"there is no callback of that name to leave out.{near}")


def _as_map(name: str, value: Any, places: Mapping[str, str]) -> Mapping[str, Any]:
    if value is None or value is True:
        return {}
    if isinstance(value, Mapping):
        return value
    raise _error(places, name, value, "the options of a callback are a map; true, false and nothing also do")


def _error(places: Mapping[str, str], key: str, value: Any, message: str) -> ConfigError:
    shown = "" if isinstance(value, Mapping) else f"={value!r}"
    return ConfigError(f"{_place(places, key)}: callbacks.{key}{shown}: {message}")


def _place(places: Mapping[str, str], key: str) -> str:
    return places.get(key) or places.get(key.split(".")[0], IN_PYTHON)


@dataclass
class _Reader:
    """Reads one entry."""

    name: str
    entry: Mapping[str, Any]
    places: Mapping[str, str]
    registered_only: bool

    def read(self) -> Entry:
        self._check_enabled()
        make, source = self._target()
        where = self.places.get(self.name, IN_PYTHON)
        given, at = self._options()
        names = {key: self._option_name(make, (*at, key), value) for key, value in given.items()}
        return Entry(
            name=self.name,
            make=make,
            options={names[key]: value for key, value in given.items()},
            written_at={names[key]: (*at, key) for key in given},
            before=self._names("before"),
            after=self._names("after"),
            on=self._events(),
            every=self._every(),
            role=self._choice("role", ("control", "observer")),
            on_error=self._choice("on_error", ("raise", "warn", "detach")),
            background=self._background(),
            timeout_s=self._timeout_s(),
            places=self.places,
            where=where,
            origin=f"{where}, {source}",
        )

    def error(self, key: str, value: Any, message: str) -> ConfigError:
        return _error(self.places, f"{self.name}.{key}", value, message)

    def _check_enabled(self) -> None:
        enabled = self.entry.get("enabled", True)
        if enabled is not True:
            raise self.error("enabled", enabled, "true or false is needed")

    def _target(self) -> tuple[Callable[..., Any], str]:
        """Return what makes the callback, and which package it is from."""
        path = self.entry.get("class_path")
        if path is None:
            return self._registered()
        if self.registered_only:
            raise self.error("class_path", path, "only registered callbacks are allowed here (registered only)")
        try:
            target = import_from(path)
        except ConfigError as error:
            raise self.error("class_path", path, str(error)) from error
        if not callable(target):
            raise self.error("class_path", path, f"a class is needed, not {target!r}")
        return target, f"class_path {path}"

    def _registered(self) -> tuple[Callable[..., Any], str]:
        try:
            registration = registry.find(self.name)
            return registration.load(), f"{registration.package} {registration.version}"
        except UnknownNameError as error:
            hint = "" if self.registered_only else " For a class of your own add its class_path."
            raise _error(self.places, self.name, self.entry, f"{error}{hint}") from None
        except TracksideError as error:
            raise _error(self.places, self.name, self.entry, str(error)) from error

    def _options(self) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        plain = {key: value for key, value in self.entry.items() if key not in ENTRY_KEYS}
        init_args = self.entry.get("init_args")
        if init_args is None:
            return plain, ()
        if not isinstance(init_args, Mapping):
            raise self.error("init_args", init_args, "a map from options to values is needed")
        if plain:
            key, value = next(iter(plain.items()))
            raise self.error(
                key, value, f"where there is init_args, options go into it.{did_you_mean(key, ENTRY_KEYS)}"
            )
        return init_args, ("init_args",)

    def _option_name(self, make: Callable[..., Any], keys: tuple[str, ...], value: Any) -> str:
        """Return the option that is meant; early_stopping's early_stopping_patience may be written as patience."""
        known, key = option_names(make), keys[-1]
        if known is None or key in known:
            return key
        stem = f"{self.name}_"
        if f"{stem}{key}" in known:
            return f"{stem}{key}"
        short = [name.removeprefix(stem) for name in known]
        near = did_you_mean(key, [*short, *ENTRY_KEYS])
        raise self.error(".".join(keys), value, f"there is no such option.{near} Options: {', '.join(short) or 'none'}")

    def _names(self, key: str) -> tuple[str, ...]:
        value = self.entry.get(key) or ()
        names = (value,) if isinstance(value, str) else value
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise self.error(key, value, "a name or a list of names is needed")
        return tuple(names)

    def _events(self) -> tuple[str, ...] | None:
        if self.entry.get("on") is None:
            return None
        names = self._names("on")
        for name in names:
            if name not in EVENTS:
                raise self.error("on", name, f"there is no such event.{did_you_mean(name, EVENTS)}")
        return names

    def _every(self) -> int:
        every = self.entry.get("every", 1)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise self.error("every", every, "a whole number from 1 is needed")
        return every

    def _background(self) -> bool | None:
        value = self.entry.get("background")
        if value is not None and not isinstance(value, bool):
            raise self.error("background", value, "true or false is needed")
        return value

    def _timeout_s(self) -> float | None:
        value = self.entry.get("timeout_s")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise self.error("timeout_s", value, "a number of seconds above 0 is needed")
        return value

    def _choice(self, key: str, allowed: Sequence[str]) -> str | None:
        value = self.entry.get(key)
        if value is not None and value not in allowed:
            raise self.error(key, value, f"{' or '.join(allowed)} is needed.{did_you_mean(str(value), allowed)}")
        return value


def option_names(make: Callable[..., Any]) -> list[str] | None:
    """Return the names of the options that a callback class takes; None where it takes any."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        return None
    return [item.name for item in parameters if item.kind not in (item.POSITIONAL_ONLY, item.VAR_POSITIONAL)]
