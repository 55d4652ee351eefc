"""Conversion of plain values, as YAML, JSON and command lines give them, to the type hint of an option or argument."""

from __future__ import annotations

import collections.abc
import contextlib
import datetime
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..errors import TracksideValueError, did_you_mean
from ..secrets import Secret
from .imports import import_from


def convert(value: object, hint: Any) -> Any:
    """Return ``value`` as the type hint allows it: text that spells a number becomes a number, a list a tuple.

    The members of a union are tried in their order. Arrays and scalars of numpy become Python's lists and numbers. A
    hint that does not name a type (``Any``, a type variable) allows every value.

    Raises:
        TracksideValueError: If the hint does not allow the value; the message says what is allowed.

    Example:
        >>> convert("3e-4", float | None), convert([1, "2"], tuple[int, ...])
        (0.0003, (1, 2))
    """
    try:
        return _converted(value, hint)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f" ({error})" if isinstance(error, TracksideValueError) else ""
        near = did_you_mean(value, choices_of(hint)) if isinstance(value, str) else ""
        raise TracksideValueError(f"{in_words(hint)} is needed{reason}{'.' if near else ''}{near}") from None


def in_words(hint: Any, limits: str = "", none: str = "null") -> str:
    """Return in words what a type hint allows.

    Args:
        limits: More that a value must satisfy.
        none: The word for None: "null" for YAML and the command line, "None" for Python.

    Example:
        >>> in_words(int | None), in_words(list[str]), in_words(int | float | None, ", at least 1", none="None")
        ('a whole number or null', 'a list (each item: a text)', 'a number, at least 1, or None')
    """
    members = members_of(hint)
    kinds = [member for member in members if member is not types.NoneType and WIDER.get(kind_of(member)) not in members]
    text = " or ".join(dict.fromkeys(map(_words, kinds))) + limits
    if types.NoneType not in members:
        return text
    return f"{text}{',' if limits else ''} or {none}" if kinds else none


def _words(hint: Any) -> str:
    """Return in words what a type hint that is not a union allows."""
    kind, parts = kind_of(hint), typing.get_args(hint)
    if choices := choices_of(hint):
        return " or ".join(choices)
    if kind in SCALARS:
        return SCALARS[kind][0]
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return f"a list of {len(parts)} items ({', '.join(map(in_words, parts))})"
    if kind in SEQUENCES:
        return f"a list (each item: {in_words(parts[0])})" if parts else "a list"
    if kind in MAPS:
        return "a map" if parts[-1:] in ((), (Any,)) else f"a map (each value: {in_words(parts[1])})"
    return "a function" if kind is collections.abc.Callable else getattr(kind, "__qualname__", str(kind))


def members_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or ``hint`` as the only one; ``Annotated`` is taken off."""
    if typing.get_origin(hint) is typing.Annotated:
        return members_of(typing.get_args(hint)[0])
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def kind_of(hint: Any) -> Any:
    """Return a hint without its parameters."""
    return typing.get_origin(hint) or hint


def choices_of(hint: Any) -> dict[str, Any]:
    """Return the values of the enums and ``Literal`` types in ``hint``, by their text.

    Example:
        >>> choices_of(typing.Literal["online", "offline"] | None)
        {'online': 'online', 'offline': 'offline'}
    """
    found: dict[str, Any] = {}
    for member in members_of(hint):
        if typing.get_origin(member) is typing.Literal:
            found |= {str(value): value for value in typing.get_args(member)}
        elif isinstance(member, type) and issubclass(member, Enum):
            found |= {str(item.value): item for item in member}
    return found


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type hints of the parameters of a class or function, without those that cannot be resolved.

    Those of a dataclass are the hints of its fields.
    """
    function: Any = target
    if inspect.isclass(target) and not hasattr(target, "__dataclass_fields__"):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    try:
        hints = typing.get_type_hints(function)
    except UNRESOLVED:
        hints = {}
        for owner in reversed(getattr(function, "__mro__", (function,))):
            names = vars(sys.modules[owner.__module__])
            for name, annotation in inspect.get_annotations(owner).items():
                with contextlib.suppress(*UNRESOLVED):
                    hints |= typing.get_type_hints(types.SimpleNamespace(__annotations__={name: annotation}), names)
    return {name: hint for name, hint in hints.items() if isinstance(hint, collections.abc.Hashable)}


UNRESOLVED = (NameError, AttributeError, TypeError, SyntaxError)
"""Errors of an annotation such as a name that only type checkers import."""


# -- one type ---------------------------------------------------------------------------------------------------------


def _converted(value: Any, hint: Any) -> Any:
    """Return ``value`` as the first member of ``hint`` that allows it."""
    why: Exception = TypeError()
    for member in members_of(hint):
        try:
            return _as(value, member)
        except TracksideValueError as error:
            why = error
        except (TypeError, ValueError, OverflowError):
            continue
    raise why


def _as(value: Any, hint: Any) -> Any:
    """Return ``value`` as a hint that is not a union allows it."""
    kind, parts = kind_of(hint), typing.get_args(hint)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if choices := choices_of(hint):
        return _choice(value, kind, choices)
    if kind in SCALARS:
        return SCALARS[kind][1](value)
    if kind in SEQUENCES:
        return _sequence(value, SEQUENCES[kind], parts)
    if kind in MAPS and isinstance(value, Mapping):
        key_hint, item_hint = parts or (Any, Any)
        return {_converted(key, key_hint): _converted(item, item_hint) for key, item in value.items()}
    if kind is type and isinstance(value, str):
        value = import_from(value)
    if not _is_instance(value, kind):
        raise TypeError
    return value


def _choice(value: Any, kind: Any, choices: Mapping[str, Any]) -> Any:
    names: Mapping[str, Any] = {} if kind is typing.Literal else kind.__members__
    text, texts = str(getattr(value, "value", value)), {**names, **choices}
    if text not in texts:
        raise ValueError
    return texts[text]


def _sequence(value: Any, make: Callable[[Any], Any], parts: tuple[Any, ...]) -> Any:
    if isinstance(value, str | Mapping) or not isinstance(value, collections.abc.Iterable):
        raise TypeError
    items = list(value)
    if make is not tuple or parts[1:] == (Ellipsis,):
        parts = parts[:1] * len(items)
    hints = parts or (Any,) * len(items)
    return make([_converted(item, hint) for item, hint in zip(items, hints, strict=True)])


def _is_instance(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type):  # Any, or a type variable
        return True
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that is not checked at run time
        return True


# -- scalars ----------------------------------------------------------------------------------------------------------


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
    if isinstance(value, Integral):
        return int(value)
    number = read_float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def read_float(value: Any) -> float:
    """Return ``value`` as a float if it is a number or spells one."""
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise TypeError
    return float(value)


def read_str(value: Any) -> str:
    """Return ``value`` as text if it is text or a path."""
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError
    return text


def read_path(value: Any) -> Path:
    """Return ``value`` as a path if it is text or a path; ``~`` is the home folder."""
    return Path(os.path.expanduser(read_str(value)))


def read_iso(kind: Any, value: Any) -> Any:
    """Return ``value`` if it is a date or a time of the class ``kind``, or text in the form of ISO 8601."""
    if isinstance(value, kind):
        return value
    return kind.fromisoformat(value)


def read_timedelta(value: Any) -> datetime.timedelta:
    """Return ``value`` if it is a duration, or a number of seconds."""
    return value if isinstance(value, datetime.timedelta) else datetime.timedelta(seconds=read_float(value))


def read_secret(value: Any) -> Secret:
    """Return ``value`` as a secret if it is text."""
    return Secret(read_str(value))


SCALARS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", read_bool),
    int: ("a whole number", read_int),
    float: ("a number", read_float),
    str: ("a text", read_str),
    Secret: ("a text", read_secret),
    **dict.fromkeys((Path, os.PathLike), ("a path", read_path)),
    datetime.date: ("a date (such as 2024-12-31)", partial(read_iso, datetime.date)),
    datetime.datetime: ("a date with a time (such as 2024-12-31T18:00)", partial(read_iso, datetime.datetime)),
    datetime.time: ("a time of the day (such as 18:00)", partial(read_iso, datetime.time)),
    datetime.timedelta: ("a number of seconds", read_timedelta),
}
"""Types of one value, each with what it is in words and with the function that reads it."""

WIDER = {int: float, Path: str, os.PathLike: str}
"""Types that need not be described beside one that allows the same and more."""

SEQUENCES: dict[Any, Callable[[Any], Any]] = {
    **dict.fromkeys((list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection), list),
    tuple: tuple,
    **dict.fromkeys((set, collections.abc.Set), set),
    frozenset: frozenset,
}
"""Types of several values, each with what is made for it."""

MAPS: set[Any] = {dict, collections.abc.Mapping, collections.abc.MutableMapping}

PLAIN: set[Any] = {*SCALARS, *SEQUENCES, *MAPS, types.NoneType, type, object}
"""Types that no class path is needed for."""
