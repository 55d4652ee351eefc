"""Conversion of values, often text, to the types that fields, options and parameters declare."""

from __future__ import annotations

import collections.abc
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..errors import TracksideError

Make = Callable[[Any, Any], Any]


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union in their order, or the type alone."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def convert(value: Any, hint: Any, make: Make = lambda kind, value: value) -> Any:
    """Return ``value`` as the first type of ``hint`` that it is, or that it spells.

    Numbers and booleans are read from text, whole numbers from floats, sequences and maps item by item, members of an
    enum from their name or value. What numpy holds becomes Python's.

    Args:
        hint: A type as `typing.get_type_hints` returns it; one that is not known lets everything through.
        make: Called with a class and the value where the type is none of Python's own, to make an object of what
            describes one; a value is taken as it is if not given.

    Raises:
        TypeError: If it is none of them; the message says what is needed.
        TracksideError: As ``make``.

    Example:
        >>> convert("3e-4", float), convert(["1", 2.0], list[int]), convert("x", int | Path)
        (0.0003, [1, 2], PosixPath('x'))
    """
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    told: TracksideError | None = None
    for kind in members(hint):
        try:
            return _as(kind, value, make)
        except TracksideError as error:
            told = error
        except (TypeError, ValueError, OverflowError):
            continue
    raise told or TypeError(f"{describe(hint)} is needed")


def describe(hint: Any, limits: str = "") -> str:
    """Return the words for a type, as they stand in messages.

    Args:
        limits: More that a value must keep.

    Example:
        >>> describe(list[int] | None), describe(int | float, ", at least 1")
        ('a list of whole numbers, or None', 'a number, at least 1')
    """
    kinds = members(hint)
    left_out = {types.NoneType, *({int} if float in kinds else ())}
    names = " or ".join(_words(kind) for kind in kinds if kind not in left_out)
    return names + limits + (", or None" if types.NoneType in kinds else "")


def _words(kind: Any) -> str:
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, parts))}"
    if isinstance(origin, type) and issubclass(origin, Enum):
        return f"one of {', '.join(origin.__members__)}"
    if origin is list and parts in PLURALS:
        return f"a list of {PLURALS[parts]}"
    return WORDS[origin] if origin in WORDS else getattr(origin, "__name__", str(origin))


def _as(kind: Any, value: Any, make: Make) -> Any:
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in READERS:
        return READERS[origin](value)
    if origin is typing.Literal:
        if value not in parts:
            raise ValueError
        return value
    if origin in CONTAINERS:
        return CONTAINERS[origin](value, parts, make)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return value if isinstance(value, origin) else origin.__members__.get(value) or origin(value)
    made = make(origin, value)
    if isinstance(origin, type) and origin is not Any and not isinstance(made, origin):
        raise TypeError
    return made


# -- readers of plain values ------------------------------------------------------------------------------------------


def read_bool(value: Any) -> bool:
    """Return ``value`` if it is a bool or spells one."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError
    return value


def read_int(value: Any) -> int:
    """Return ``value`` as an int if it is a whole number or spells one, as "8", 8.0 and "1e4" do."""
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int | Integral):
        return int(value)
    number = read_float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def read_float(value: Any) -> float:
    """Return ``value`` as a float if it is a number or spells one: YAML reads 3e-4 as a string."""
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise TypeError
    return float(value)


def read_str(value: Any) -> str:
    """Return a string or a path as a string."""
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    return path


def _read_none(value: Any) -> None:
    if value is not None:
        raise TypeError


READERS: dict[Any, Callable[[Any], Any]] = {
    bool: read_bool,
    int: read_int,
    float: read_float,
    str: read_str,
    types.NoneType: _read_none,
    Path: lambda value: Path(read_str(value)),
    os.PathLike: lambda value: Path(read_str(value)),
}


# -- containers -------------------------------------------------------------------------------------------------------


def _items(value: Any, parts: tuple[Any, ...], make: Make) -> Iterable[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError
    return [convert(item, parts[0], make) for item in value] if parts else value


def _as_tuple(value: Any, parts: tuple[Any, ...], make: Make) -> tuple[Any, ...]:
    if not parts or parts[-1] is ...:
        return tuple(_items(value, parts[:1], make))
    return tuple(convert(item, part, make) for item, part in zip(_items(value, (), make), parts, strict=True))


def _as_dict(value: Any, parts: tuple[Any, ...], make: Make) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    key_hint, item_hint = parts or (Any, Any)
    return {convert(key, key_hint): convert(item, item_hint, make) for key, item in value.items()}


CONTAINERS: dict[Any, Callable[[Any, tuple[Any, ...], Make], Any]] = {
    list: lambda value, parts, make: list(_items(value, parts, make)),
    set: lambda value, parts, make: set(_items(value, parts, make)),
    frozenset: lambda value, parts, make: frozenset(_items(value, parts, make)),
    tuple: _as_tuple,
    dict: _as_dict,
    collections.abc.Sequence: lambda value, parts, make: list(_items(value, parts, make)),
    collections.abc.Mapping: _as_dict,
}

WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    os.PathLike: "a path",
    list: "a list",
    collections.abc.Sequence: "a list",
    tuple: "a list",
    set: "a list",
    dict: "a mapping from names to values",
    collections.abc.Mapping: "a mapping from names to values",
    collections.abc.Callable: "a function",
}
PLURALS = {(str,): "strings", (int,): "whole numbers", (float,): "numbers"}
