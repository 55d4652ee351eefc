"""Text of the command line, whose meaning the type of its option decides."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trackside.callbacks._util.conversion import choices_of, kind_of, members_of
from trackside.config.yaml_reader import read_text

NULLS = ("", "~", "null", "Null", "NULL")
"""Texts that YAML reads as null."""

TEXT_TYPES = (str, Path, os.PathLike, types.NoneType)
"""Types of options that take texts only."""


class Text(str):
    """A value as typed on the command line; the type of the option or argument decides what it means."""

    __slots__ = ()


class Switch(Text):
    """What an option without a value means: true, for an option that may be true or false."""

    __slots__ = ()


NEEDS_VALUE = "this option needs a value"


def read_as_yaml(value: object) -> Any:
    """Return ``value`` with every `Text` in it read as YAML.

    Raises:
        ConfigError: See `trackside.config.yaml_reader.read_text`.
    """
    return _each_text(value, read_text)


def as_written(value: object) -> Any:
    """Return ``value`` with every `Text` in it as it was typed."""
    return _each_text(value, str)


def readings(value: object, hint: Any, *, may_be_none: bool = False) -> list[Any]:
    """Return what ``value`` may mean for an option of the type ``hint``, the likeliest first.

    On the command line, a text for an option that takes texts stays as it was typed. What YAML reads as null is None
    where None is allowed.

    Args:
        may_be_none: Whether None is allowed whatever ``hint`` says.

    Example:
        >>> readings(Text("5"), str), readings(Text("5"), str | int), readings(Text("null"), str | None)
        (['5'], [5, '5'], [None])
    """
    members = members_of(hint)
    if isinstance(value, Text):
        if value in NULLS and (may_be_none or types.NoneType in members):
            return [None]
        if all(kind_of(item) in TEXT_TYPES or choices_of(item) for item in members):
            return [str(value)]
    found = read_as_yaml(value)
    return [str(value)] if isinstance(found, str) and str in members else [found, as_written(value)]


def needs_value(value: object, hint: Any) -> bool:
    """Return whether ``value`` is a `Switch` for an option of a type that is known, and is not true or false.

    Example:
        >>> [needs_value(Switch("true"), hint) for hint in (bool | None, int, Any)]
        [False, True, False]
    """
    open_or_bool = any(kind in (bool, Any, object, None) or isinstance(kind, TypeVar) for kind in members_of(hint))
    return isinstance(value, Switch) and not open_or_bool and True not in choices_of(hint).values()


def _each_text(value: object, read: Callable[[str], Any]) -> Any:
    if isinstance(value, Text):
        return read(str(value))
    if isinstance(value, Mapping):
        return {key: _each_text(item, read) for key, item in value.items()}
    return [_each_text(item, read) for item in value] if isinstance(value, list) else value
