"""Checking options against the signature of what they are given to, before it is called."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from trackside.callbacks.errors import did_you_mean
from trackside.config.source import Source, Text


class Options:
    """The options that a class or a function takes.

    Args:
        target: What will be called with them. ``**kwargs`` that it hands on to a base class are followed there.
    """

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target = target
        try:
            _, self.names = _parser(target, ())
        except ValueError:  # a class written in C shows no signature
            self.names = []
        self.takes_any = _takes_any(target)
        self.required = [name for name in _required(target) if name in self.names]

    def checked(self, source: Source, keys: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``given`` with every value brought to the type of its option.

        Args:
            keys: Where in ``source`` they stand.

        Raises:
            ConfigError: If there is no such option, a value has the wrong type, or one that is needed is missing.
        """
        checked = {name: self.checked_one(source, (*keys, name), name) for name in given}
        self.check_missing(source, keys, checked)
        return checked

    def checked_one(self, source: Source, keys: tuple[str, ...], name: str) -> Any:
        """Return the value that stands at ``keys``, brought to the type of the option ``name``.

        Raises:
            ConfigError: See `checked`.
        """
        value = source.at(keys)
        if name not in self.names:
            if self.takes_any:
                return plain(value)
            near = did_you_mean(name, self.names)
            known = ", ".join(self.names) or "none"
            raise source.error(keys, f"{_name(self.target)} has no such option.{near} Options: {known}")
        try:
            return self._parsed(name, value)
        except (ArgumentError, TypeError, ValueError) as error:
            raise source.error(keys, _reason(error)) from None

    def check_missing(self, source: Source, keys: tuple[str, ...], given: Mapping[str, Any]) -> None:
        """Raise ConfigError if an option that has no default is not among ``given``."""
        missing = [name for name in self.required if name not in given]
        if missing:
            raise source.error(keys, f"{_name(self.target)} also needs {', '.join(missing)}")

    def _parsed(self, name: str, value: Any) -> Any:
        if not isinstance(value, Text):
            return self._typed(name, plain(value))
        try:
            return self._typed(name, value.plain())
        except (ArgumentError, TypeError, ValueError):  # 5 is a number, unless the option is a text
            return self._typed(name, str(value))

    def _typed(self, name: str, value: Any) -> Any:
        parser, _ = _parser(self.target, [other for other in self.names if other != name])
        parsed = parser.instantiate(parser.parse_object({name: value}))[name]
        if isinstance(parsed, str) and not isinstance(value, str):  # a path takes the text of anything
            raise TypeError("a text is needed")
        return value if type(value) is int and type(parsed) is float else parsed


def _parser(target: Callable[..., Any], skip: Iterable[str]) -> tuple[ArgumentParser, list[str]]:
    """Return a parser of the options of ``target`` without those in ``skip``, and the names of the options."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add = parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
    added = add(target, None, fail_untyped=False, skip=set(skip))
    return parser, list(dict.fromkeys(name.split(".")[0] for name in added))


def plain(value: Any) -> Any:
    """Return ``value`` without any `Text` in it."""
    if isinstance(value, Text):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _takes_any(target: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _required(target: Callable[..., Any]) -> list[str]:
    if dataclasses.is_dataclass(target):
        return []
    try:
        parameters = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [item.name for item in parameters if item.default is item.empty and item.kind in kinds]


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", None) or repr(target)


def _reason(error: Exception) -> str:
    """Return the one line of jsonargparse's message that says what was expected."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    expected = [line for line in lines if line.startswith("Expected")]
    subtypes = [line.removeprefix("Subtypes: ") for line in lines if line.startswith("Subtypes")]
    if subtypes:
        return f"one of {_types(subtypes[0].strip('[]'))} is needed"
    if expected:
        return f"{_types(expected[0].removeprefix('Expected a ').split('. Got value')[0])} is needed"
    return lines[-1]


def _types(text: str) -> str:
    for old, new in (("<class '", ""), ("'>", ""), ("typing.", ""), ("NoneType", "null")):
        text = text.replace(old, new)
    return text
