"""Checking options against the signature of what they are given to, before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks._util.convert import convert
from trackside.callbacks.errors import ConfigError, did_you_mean
from trackside.callbacks.imports import import_from
from trackside.config_source import Source, Text


class Options:
    """The options that a class or a function takes.

    Args:
        target: What will be called with them. ``**kwargs`` of a class are those of the class that it derives from.
    """

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target
        self.parameters = _parameters(target)
        own = _signature(target)
        self.takes_any = _takes_any(own)
        self.required = [item.name for item in own or [] if item.default is item.empty and item.name in self.parameters]

    def checked(self, source: Source, keys: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``given`` with every value converted to the type of its option.

        Args:
            keys: Where in ``source`` they stand.

        Raises:
            ConfigError: If there is no such option, a value has the wrong type, or one that is needed is missing.
        """
        checked = {name: self.checked_one(source, (*keys, name), name) for name in given}
        self.check_missing(source, keys, checked)
        return checked

    def checked_one(self, source: Source, keys: tuple[str, ...], name: str) -> Any:
        """Return the value that stands at ``keys``, converted to the type of the option ``name``.

        Raises:
            ConfigError: See `checked`.
        """
        try:
            return self.converted(name, source.at(keys))
        except (ConfigError, TypeError) as error:
            raise source.error(keys, str(error)) from None

    def check_missing(self, source: Source, keys: tuple[str, ...], given: Mapping[str, Any]) -> None:
        """Raise ConfigError if an option that has no default is not among ``given``."""
        missing = [name for name in self.required if name not in given]
        if missing:
            raise source.error(keys, f"{_name(self.target)} also needs {', '.join(missing)}")

    def converted(self, name: str, value: Any) -> Any:
        """Return ``value`` converted to the type of the option ``name``.

        Raises:
            ConfigError: If there is no such option.
            TypeError: If it has the wrong type.
        """
        if name not in self.parameters:
            if self.takes_any:
                return plain(value)
            near, known = did_you_mean(name, self.parameters), ", ".join(self.parameters) or "none"
            raise ConfigError(f"{_name(self.target)} has no such option.{near} Options: {known}")
        hint = self.parameters[name]
        if isinstance(value, Text):
            try:
                return convert(value.plain(), hint, _object)
            except (ConfigError, TypeError):  # 5 is a number, unless the option is a string
                return convert(str(value), hint, _object)
        return None if value is None else convert(plain(value), hint, _object)


def plain(value: Any) -> Any:
    """Return ``value`` without any `Text` in it."""
    if isinstance(value, Text):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _object(kind: Any, value: Any) -> Any:
    """Return the object that ``value`` describes by its path, or by ``class_path`` and ``init_args``.

    Where an instance of the class ``kind`` is wanted, its subclass alone is enough, and so are the options alone.
    """
    is_class = inspect.isclass(kind) and kind not in (Any, object, type) and not inspect.isabstract(kind)
    if isinstance(value, str) and kind is not Any:
        made = import_from(value)
        return _called(made, {}) if is_class and inspect.isclass(made) and issubclass(made, kind) else made
    if isinstance(value, Mapping) and "class_path" in value:
        return _called(import_from(value["class_path"]), value.get("init_args") or {})
    return _called(kind, value) if isinstance(value, Mapping) and is_class else value


def _called(make: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    options = Options(make)
    try:
        return make(**{name: options.converted(name, value) for name, value in given.items()})
    except Exception as error:
        raise ConfigError(f"{_name(make)}: {error}") from error


def _parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type of each option that ``target`` takes by name; ``**kwargs`` of a class are those of its base."""
    found: dict[str, Any] = {}
    for part in inspect.getmro(target)[:-1] if inspect.isclass(target) else [target]:
        parameters = _signature(part) or []
        for item in parameters:
            if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY):
                found.setdefault(item.name, Any if item.annotation is item.empty else item.annotation)
        if not _takes_any(parameters):
            break
    return found


def _signature(target: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of ``target``; None where it shows none, as a class written in C."""
    for eval_str in (True, False):  # a type that only type checkers import stays text
        try:
            return list(inspect.signature(target, eval_str=eval_str).parameters.values())
        except (NameError, AttributeError):
            continue
        except (ValueError, TypeError):
            break
    return None


def _takes_any(parameters: list[inspect.Parameter] | None) -> bool:
    return parameters is None or any(item.kind is item.VAR_KEYWORD for item in parameters)


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", None) or repr(target)
