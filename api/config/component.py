"""Components: objects that a configuration names by ``class_path``, with options checked against the signature."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from trackside.callbacks._util.conversion import MAPS, PLAIN, SEQUENCES, convert, in_words, kind_of, members_of
from trackside.callbacks._util.environment import has_reference, is_set, resolved
from trackside.callbacks._util.imports import import_from
from trackside.callbacks._util.options import Options
from trackside.callbacks._util.user_code import told
from trackside.callbacks.errors import ConfigError, TracksideValueError, did_you_mean
from trackside.callbacks.secrets import masked, scrub
from trackside.config.command_text import NEEDS_VALUE, as_written, needs_value, read_as_yaml, readings
from trackside.config.source import Source
from trackside.config.yaml_reader import Keys

FUNCTIONS = ("loss_fn", "compute_metrics", "data_collator")
"""Components that are called during the run: a function is used as it is, with its init_args bound."""

SPECIFICATION = ("class_path", "init_args")
"""Keys of a map that names an object."""


@dataclass
class Component:
    """An object that a configuration describes by ``class_path`` and ``init_args``.

    Attributes:
        key: The keys of its entry, joined by dots.
        target: The class or function.
        init_args: The options, converted; other components among them are built first.
        where: File and line of the entry.
        is_bound: Whether the result is ``target`` with its options bound, instead of what ``target`` returns.
    """

    key: str
    target: Callable[..., Any]
    init_args: dict[str, Any]
    where: str
    is_bound: bool = False

    def build(self) -> Any:
        """Return the object.

        Raises:
            ConfigError: If its class or function raises; the message names the entry, and the lines of that code.
        """
        init_args = {name: built(value) for name, value in self.init_args.items()}
        if self.is_bound:
            return functools.partial(self.target, **init_args) if init_args else self.target
        try:
            return self.target(**init_args)
        except Exception as error:
            raise ConfigError(scrub(f"{self.where}: {self.key}: {told(error)}")) from error


@dataclass
class FromEnvironment:
    """An option with references such as ``${ENV:NAME}``, which are resolved when its component is made.

    Attributes:
        written: The option as written.
        converted: Converts the resolved value to the type of the option.
        where: Place and keys of the option, for errors.
    """

    written: Any
    converted: Callable[[Any], Any]
    where: str

    def build(self) -> Any:
        """Return the value.

        Raises:
            ConfigError: If a variable is not set, or the option does not allow its value.
        """
        try:
            return built(self.converted(resolved(self.written)))
        except ConfigError:
            raise
        except TracksideValueError as error:
            raise ConfigError(f"{self.where}: {error}") from None


def built(value: object) -> Any:
    """Return ``value`` with every component in it built."""
    if isinstance(value, list):
        return [built(item) for item in value]
    if isinstance(value, dict):
        return {key: built(item) for key, item in value.items()}
    return value.build() if isinstance(value, (Component, FromEnvironment)) else value


def read_component(source: Source, keys: Keys, value: object, *, is_called_later: bool = False) -> Component:
    """Import what the entry at ``keys`` names, and check its options.

    Args:
        value: The entry: a class path, or a map with the keys of `SPECIFICATION`.
        is_called_later: Whether a callable is needed: of a function only the options are bound.

    Raises:
        ConfigError: If the entry, the path or an option is wrong.
    """
    written_at = keys if isinstance(value, str) else (*keys, "class_path")
    if isinstance(value, str):
        value = {"class_path": str(value)}
    if not isinstance(value, Mapping) or "class_path" not in value:
        raise source.error(keys, "class_path is needed, and init_args where it takes options")
    for key in value:
        if key not in SPECIFICATION:
            near = did_you_mean(key, SPECIFICATION)
            raise source.error((*keys, key), f"only class_path and init_args go here; options go into init_args.{near}")
    try:
        target = import_from(str(value["class_path"]))
    except ConfigError as error:
        raise source.error(written_at, str(error)) from error
    if not callable(target):
        raise source.error(written_at, f"a class or a function is needed, not {type(target).__name__}")
    given = {} if value.get("init_args") is None else value["init_args"]
    if not isinstance(given, Mapping):
        raise source.error((*keys, "init_args"), "a map from options to values is needed")
    return _checked(source, keys, (*keys, "init_args"), target, given, is_called_later)


def _checked(
    source: Source, keys: Keys, above: Keys, target: Callable[..., Any], given: Mapping[str, Any], is_called_later: bool
) -> Component:
    """Return ``target`` with the options ``given``, which stand below the keys ``above``, checked and converted."""
    options = Options(target)
    is_bound = is_called_later and not (inspect.isclass(target) and _is_subclass(target, [collections.abc.Callable]))
    init_args = {name: checked_option(source, (*above, name), value, options, name) for name, value in given.items()}
    if not is_bound and (missing := options.missing(init_args)):
        raise source.error(above, f"{options.name} also needs {', '.join(missing)}")
    return Component(".".join(keys), target, init_args, source.where(*keys), is_bound)


def checked_option(source: Source, keys: Keys, value: object, options: Options, name: str) -> Any:
    """Return ``value``, which stands at ``keys``, converted to the type of the option ``name``.

    Raises:
        ConfigError: If the option is unknown, or does not allow the value.
    """
    if name not in options.parameters:
        if options.takes_any and has_reference(value):
            source.set(keys, as_written(value))
            return FromEnvironment(as_written(value), lambda item: item, f"{source.where(*keys)}: {'.'.join(keys)}")
        if options.takes_any:
            source.set(keys, read_as_yaml(value))
            return read_as_yaml(value)
        known = ", ".join(options.parameters) or "none"
        near = did_you_mean(name, options.parameters)
        raise source.error(keys, f"{options.name} does not take this option.{near} Options: {known}")
    hint, may_be_none = options.hints.get(name, Any), options.parameters[name].default is None
    if has_reference(written := as_written(value)):
        source.set(keys, written)
        where = f"{source.where(*keys)}: {'.'.join(keys)}={masked(written, keys[-1])!r}"
        found = FromEnvironment(written, lambda item: _converted(source, keys, item, hint), where)
        if is_set(written):
            found.build()  # to check it before anything is made
        return found
    if needs_value(value, hint):
        raise source.error(keys, NEEDS_VALUE)
    for candidate in readings(value, hint, may_be_none=may_be_none):
        source.set(keys, candidate)  # from now on as the option reads it
        if candidate is None and may_be_none:
            return None
        try:
            return _converted(source, keys, candidate, hint)
        except ConfigError:
            raise
        except TracksideValueError as error:
            reason = str(error)
    raise source.error(keys, reason)


# -- one option -------------------------------------------------------------------------------------------------------


def _converted(source: Source, keys: Keys, value: object, hint: Any) -> Any:
    """Return ``value`` as ``hint`` allows it; where it names an object, as a `Component`."""
    members = members_of(hint)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        lists = (item for item in members if SEQUENCES.get(typing.get_origin(item)) is list)
        (item_hint,) = typing.get_args(next(lists, list[Any]))
        if item_hint is not Any or any(map(_names_an_object, value)):
            return [_converted(source, (*keys, str(index)), item, item_hint) for index, item in enumerate(value)]
    kinds = [kind_of(member) for member in members]
    is_open = any(kind is Any or isinstance(kind, typing.TypeVar) for kind in kinds)
    made = [kind for kind in kinds if isinstance(kind, type) and kind is not Any and kind not in PLAIN]
    classes: list[Any] = [kind for kind in made if not issubclass(kind, Enum)]
    if is_open and _names_an_object(value):
        return read_component(source, keys, value)
    if classes and isinstance(value, Mapping) and not MAPS.intersection(kinds):
        return _object(source, keys, value, classes)
    try:
        return convert(value, hint)
    except TracksideValueError:
        if classes and isinstance(value, str) and "." in value and value.replace(".", "").isidentifier():
            return _object(source, keys, value, classes)
        raise


def _names_an_object(value: object) -> bool:
    return isinstance(value, Mapping) and "class_path" in value and set(value) <= set(SPECIFICATION)


def _object(source: Source, keys: Keys, value: str | Mapping[str, Any], classes: Sequence[Any]) -> Component:
    """Return what ``value`` names; a map without a class path holds the options of the only class that is allowed."""
    if isinstance(value, Mapping) and "class_path" not in value and not any(map(inspect.isabstract, classes)):
        return _checked(source, keys, keys, classes[0], value, is_called_later=False)
    found = read_component(source, keys, value, is_called_later=any(cls is collections.abc.Callable for cls in classes))
    if inspect.isclass(found.target) and not found.is_bound and not _is_subclass(found.target, classes):
        raise source.error(keys, f"{' or '.join(map(in_words, classes))} is needed")
    return found


def _is_subclass(cls: type, classes: Sequence[Any]) -> bool:
    try:
        return issubclass(cls, tuple(classes))
    except TypeError:  # a protocol that is not checked at run time
        return True
