"""Callback configuration: a map from names to options, as in a config file or in TrainingArguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .. import registry
from .._util.conversion import convert, members_of
from .._util.environment import has_reference, resolved
from .._util.imports import import_from
from .._util.options import Options
from .._util.user_code import told
from ..bus.attachment import AttachOptions
from ..errors import ArgumentError, ConfigError, TracksideError, TracksideValueError, UnknownNameError, did_you_mean
from ..secrets import Secret, masked, remember, scrub

ATTACH_KEYS = tuple(item.name for item in fields(AttachOptions) if item.name not in ("name", "origin"))
"""Keys of an entry that say how its callback is attached; name and origin follow from where the entry is."""

ENTRY_KEYS = ("enabled", "class_path", "init_args", *ATTACH_KEYS)
"""All keys of an entry that are not options of the callback itself."""

IN_PYTHON = "TrainingArguments"
"""The location of an entry that is not in a file."""


class CallbackMap(dict[str, Any]):
    """A map of names to options that knows where its entries were written.

    Attributes:
        origins: The location of each entry by its name, and of each option by "name.option".
        registered_only: Refuse entries with a ``class_path``.
    """

    origins: Mapping[str, str] = {}
    registered_only = False


@dataclass
class CallbackConfig:
    """One callback that is to be attached.

    Attributes:
        name: The key of its entry.
        make: The class, or what else makes the callback.
        options: The arguments of ``make``.
        written_at: The keys within the entry under which each option is written.
        attach_options: How it is attached.
        overruled: The keys within the entry that a later source gives under another name of the option.
        locations: The locations of the whole map, as in `CallbackMap.origins`.
    """

    name: str
    make: Callable[..., Any]
    options: dict[str, Any]
    written_at: dict[str, tuple[str, ...]]
    attach_options: AttachOptions
    overruled: list[tuple[str, ...]] = field(default_factory=list)
    locations: Mapping[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """The location of the entry."""
        return self.locations.get(self.name, IN_PYTHON)

    def location_of(self, option: str) -> str:
        """Return the location of an option, or of one of `ENTRY_KEYS`."""
        return _location(self.locations, ".".join((self.name, *self.written_at.get(option, (option,)))))

    def shown(self, option: str) -> Any:
        """Return the value of an option as it may be shown: a secret is masked."""
        return masked(self.options[option], option)

    def arguments(self) -> dict[str, Any]:
        """Return the options as the constructor gets them, with references to the environment resolved.

        Raises:
            ConfigError: If a variable is not set; the message has the place and the name.
        """
        return {name: self._resolved(name, value) for name, value in self.options.items()}

    def _resolved(self, name: str, value: Any) -> Any:
        if not has_reference(value):
            return value
        try:
            return convert(resolved(value), Options(self.make).hints.get(name, Any))
        except TracksideValueError as error:
            key = ".".join((self.name, *self.written_at[name]))
            raise _error(self.locations, key, value, str(error)) from None

    def refused(self, error: Exception) -> ConfigError:
        """Return an error of the constructor as one that tells the location in the map."""
        option = getattr(error, "field", None)
        if isinstance(error, ArgumentError) and option in self.written_at:
            key = ".".join((self.name, *self.written_at[option]))
            shown = (
                f"callbacks.{key}={masked(self.options[option], f'callbacks.{key}')!r} is not allowed: {error.allowed}"
            )
            return ConfigError(scrub(f"{self.location_of(option)}: {shown}"))
        given = ", ".join(f"{keys[-1]}={self.shown(name)!r}" for name, keys in self.written_at.items())
        hint = f" (given: {given})" if given else ""
        is_own = isinstance(error, TracksideError) or str(self.make.__module__).startswith("trackside.")
        text = f"{error}{hint}" if is_own else told(error, hint)
        return ConfigError(scrub(f"{self.location}: callbacks.{self.name}: {text}"))


def parse_callback_map(callbacks: Mapping[str, Any]) -> list[CallbackConfig]:
    """Return the enabled entries of a map, checked, with their classes imported and nothing called.

    An entry that only leaves a callback out must name one that is known. One that has options too was meant for that
    callback, whether it is installed here or not.

    Raises:
        ConfigError: See `trackside.callbacks.config.attach.attach_from_map`.
    """
    if not isinstance(callbacks, Mapping):
        raise ConfigError(f"callbacks={callbacks!r}: a map from names to options is needed")
    callbacks = callbacks if isinstance(callbacks, CallbackMap) else CallbackMap(callbacks)
    enabled = {name: value for name, value in callbacks.items() if not is_disabled(value)}
    claims = registry.claims_by_name()
    known = [*claims, *enabled]
    for name, value in callbacks.items():
        if name not in known and value in (False, {"enabled": False}):
            near = did_you_mean(name, known)
            raise _error(
                callbacks.origins, name, False, f"this is not the name of a callback, which is to be left out.{near}"
            )
    return [_parsed(name, value, callbacks, claims) for name, value in enabled.items()]


def _parsed(
    name: str, value: Any, callbacks: CallbackMap, claims: Mapping[str, list[registry.Registration]]
) -> CallbackConfig:
    """Return one entry of ``callbacks``, checked."""
    if value is not None and value is not True and not isinstance(value, Mapping):
        message = "the options of a callback are a map; true, false and nothing also do"
        raise _error(callbacks.origins, name, value, message)
    entry = _Entry(name, value if isinstance(value, Mapping) else {}, callbacks.origins)
    if entry.values.get("enabled", True) is not True:
        raise entry.error("enabled", message="true or false is needed")
    make, source = entry.target(claims, callbacks.registered_only)
    options = Options(make)
    keys, overruled = entry.keys_of(options)
    if missing := options.missing(keys):
        raise entry.error(message=f"{options.name} needs the option {', '.join(missing)}")
    remember(entry.options)
    remember({key: Secret(value) for key, value in _marked(options, keys, entry.options)})
    return CallbackConfig(
        name=name,
        make=make,
        options={option: entry.options[key] for option, key in keys.items()},
        written_at={option: (*entry.above, key) for option, key in keys.items()},
        overruled=[(*entry.above, key) for key in overruled],
        attach_options=entry.attach_options(f"{callbacks.origins.get(name, IN_PYTHON)}, {source}"),
        locations=callbacks.origins,
    )


def _marked(options: Options, keys: Mapping[str, str], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options that the class marks as secrets, with their values."""
    for option, key in keys.items():
        if Secret in members_of(options.hints.get(option)) and isinstance(given[key], str):
            yield key, given[key]


def overruled_names(names: Sequence[str], origins: Mapping[str, str]) -> list[str]:
    """Return those names of one option that were written in an earlier source than the last of them.

    Args:
        names: The names under which it was written.
        origins: The location of each name, in the order of writing.

    Example:
        >>> overruled_names(["csv.path", "csv.csv_path"], {"csv.csv_path": "a.yaml:1", "csv.path": "b.yaml:1"})
        ['csv.csv_path']
    """
    written = [name for name in origins if name in names]
    if len(written) < max(len(names), 2):
        return []
    *earlier, last = written
    file = _file(origins[last])
    return [name for name in earlier if not file or _file(origins[name]) != file]


def _file(origin: str) -> str:
    """Return the file of a location; empty for the command line, where each option is a source of its own."""
    return origin.rpartition(":")[0]


def is_disabled(value: Any) -> bool:
    """Return whether an entry leaves its callback out."""
    return value is False or (isinstance(value, Mapping) and value.get("enabled") is False)


def _error(locations: Mapping[str, str], key: str, value: Any, message: str) -> ConfigError:
    shown = "" if isinstance(value, Mapping) else f"={masked(value, f'callbacks.{key}')!r}"
    return ConfigError(scrub(f"{_location(locations, key)}: callbacks.{key}{shown}: {message}"))


def _location(locations: Mapping[str, str], key: str) -> str:
    return locations.get(key) or locations.get(key.split(".")[0], IN_PYTHON)


@dataclass(frozen=True)
class _Entry:
    """One entry of the map, as it was written."""

    name: str
    values: Mapping[str, Any]
    locations: Mapping[str, str]

    def error(self, *keys: str, message: str) -> ConfigError:
        """Return an error about the value under ``keys``, or about the whole entry."""
        value: Any = self.values
        for key in keys:
            value = value[key]
        return _error(self.locations, ".".join((self.name, *keys)), value, message)

    def target(
        self, claims: Mapping[str, list[registry.Registration]], registered_only: bool
    ) -> tuple[Callable[..., Any], str]:
        """Return what makes the callback, and which package it is from."""
        path = self.values.get("class_path")
        if path is None:
            return self._registered(claims, registered_only)
        if registered_only:
            raise self.error("class_path", message="only registered callbacks are allowed here (registered only)")
        try:
            target = import_from(path)
        except ConfigError as error:
            raise self.error("class_path", message=str(error)) from error
        if not callable(target):
            raise self.error("class_path", message=f"a class is needed, not {target!r}")
        return target, f"class_path {path}"

    def _registered(
        self, claims: Mapping[str, list[registry.Registration]], registered_only: bool
    ) -> tuple[Callable[..., Any], str]:
        try:
            registration = registry.find(self.name, claims)
            return registration.load(), f"{registration.package} {registration.version}"
        except TracksideError as error:
            is_unknown = isinstance(error, UnknownNameError) and not registered_only
            hint = " For a class of your own add its class_path." if is_unknown else ""
            raise self.error(message=f"{error}{hint}") from error

    @property
    def above(self) -> tuple[str, ...]:
        """The key under which the options of the callback itself are."""
        return () if self.values.get("init_args") is None else ("init_args",)

    @functools.cached_property
    def options(self) -> Mapping[str, Any]:
        """The options of the callback itself."""
        plain = {key: value for key, value in self.values.items() if key not in ENTRY_KEYS}
        if not self.above:
            return plain
        init_args: Any = self.values["init_args"]
        if not isinstance(init_args, Mapping):
            raise self.error("init_args", message="a map from options to values is needed")
        for key in plain:
            near = did_you_mean(key, ENTRY_KEYS)
            raise self.error(key, message=f"where there is init_args, options go into it.{near}")
        return init_args

    def keys_of(self, options: Options) -> tuple[dict[str, str], list[str]]:
        """Return the key under which each option is written last, and the keys that are overruled by it."""
        names: dict[str, list[str]] = {}
        for key in self.options:
            names.setdefault(self.option_name(options, key), []).append(key)
        overruled = []
        stem = ".".join((self.name, *self.above, ""))
        for keys in names.values():
            dropped = overruled_names([stem + key for key in keys], self.locations)
            overruled += [key for key in keys if stem + key in dropped]
            keys[:] = [key for key in keys if stem + key not in dropped]
            if len(keys) > 1:
                written = " and as ".join(map(repr, keys))
                raise self.error(*self.above, keys[-1], message=f"the same option is given as {written}; keep one")
        return {option: keys[0] for option, keys in names.items()}, overruled

    def option_name(self, options: Options, key: str) -> str:
        """Return the option that is meant; early_stopping's early_stopping_patience may be written as patience."""
        stem, known = f"{self.name}_", options.parameters
        if key in known or options.takes_any:
            return key
        if f"{stem}{key}" in known:
            return f"{stem}{key}"
        short = [option.removeprefix(stem) for option in known]
        near = did_you_mean(key, [*short, *ENTRY_KEYS])
        message = f"this is not an option.{near} Options: {', '.join(short) or 'none'}"
        raise self.error(*self.above, key, message=message)

    def attach_options(self, origin: str) -> AttachOptions:
        """Return how the callback is attached."""
        given = {key: self.values[key] for key in ATTACH_KEYS if key in self.values}
        for key, value in given.items():
            try:
                AttachOptions(**{key: value})
            except TracksideError as error:
                message = str(error).removeprefix(f"{key}={value!r} is not allowed: ")
                raise self.error(key, message=message) from error
        return AttachOptions(name=self.name, origin=origin, **given)
