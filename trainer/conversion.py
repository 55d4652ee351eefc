"""Bringing each field of TrainingArguments to its declared type, and checking its rule."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from ..callbacks.errors import ArgumentError
from .options import Argument, Rule, refusal
from .plain import PlainData


def convert_fields(args: PlainData) -> None:
    """Convert each field of ``args`` to its declared type and check its rule.

    A field that a subclass declares is left as it is where its type is not one of `KINDS`, or its value the default.

    Raises:
        ArgumentError: If one cannot be, or breaks its rule; the message has field, value and what is allowed.
    """
    cls: Any = type(args)  # the class can be hashed, although arguments cannot
    for item, kinds in _convertible(cls):
        value = args.given(item.name)
        if isinstance(item, Argument) or value is not item.default:
            setattr(args, item.name, _converted(item, kinds, value))


@functools.cache
def _convertible(cls: type[PlainData]) -> list[tuple[dataclasses.Field[Any], tuple[type, ...]]]:
    """Return the fields of ``cls`` that can be converted, and the types of each in the order in which to try them."""
    hints = _hints(cls)
    kinds = {item.name: getattr(item, "kinds", ()) or _members(hints[item.name]) for item in cls.fields()}
    return [(item, kinds[item.name]) for item in cls.fields() if KINDS.keys() >= set(kinds[item.name])]


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of ``cls`` and its bases; as text where a class names what only type checkers import."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        try:
            hints |= inspect.get_annotations(base, eval_str=True)
        except NameError:
            hints |= inspect.get_annotations(base)
    return hints


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return tuple(GENERIC.get(member, member) for member in (typing.get_args(hint) if is_union else (hint,)))


def _converted(item: dataclasses.Field[Any], kinds: tuple[type, ...], value: Any) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    rule: Rule | None = getattr(item, "rule", None)
    reads: Callable[[str], Any] | None = getattr(item, "reads", None)
    try:
        typed = _typed(reads, kinds, value)
    except (TypeError, ValueError) as error:
        why = f" ({error})" if isinstance(value, str) and reads else ""
        raise ArgumentError(item.name, value, _allowed(kinds, rule, value) + why) from None
    if rule is not None and not rule.holds(typed):
        raise ArgumentError(item.name, value, _allowed(kinds, rule, typed))
    return typed if rule is None else rule.becomes(typed)


def _typed(reads: Callable[[str], Any] | None, kinds: tuple[type, ...], value: Any) -> Any:
    if reads is not None and isinstance(value, str | os.PathLike):
        value = reads(_read_str(value))
    elif type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    for kind in kinds:
        try:
            return KINDS[kind][1](value)
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError


def _allowed(kinds: tuple[type, ...], rule: Rule | None, value: Any) -> str:
    if rule is not None and rule.choices:
        return refusal(rule, value)
    left_out = {types.NoneType} | ({int} if float in kinds else set()) | ({str} if dict in kinds else set())
    names = " or ".join(KINDS[kind][0] for kind in kinds if kind not in left_out)
    optional = ", or None" if types.NoneType in kinds else ""
    return names + (f", {rule.allowed}" if rule else "") + optional


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
    """Return ``value`` as a finite float if it is a number or spells one: YAML reads 3e-4 as a string."""
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise TypeError
    number = float(value)
    if number - number != 0.0:  # NaN or infinite
        raise ValueError
    return number


def _read_str(value: Any) -> str:
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    return path


def _read_list(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError
    return list(value)


def _read_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return dict(value)


def _read_none(value: Any) -> None:
    if value is not None:
        raise TypeError


KINDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("True or False", read_bool),
    int: ("a whole number", read_int),
    float: ("a finite number", read_float),
    str: ("a string", _read_str),
    list: ("a list of strings", _read_list),
    dict: ("a mapping from names to values, or text that spells one", _read_dict),
    types.NoneType: ("None", _read_none),
}

# the parametrised types that `KINDS` converts to; what is in any other list or dict is not known to it
GENERIC: dict[Any, type] = {list[str]: list, dict[str, Any]: dict}
