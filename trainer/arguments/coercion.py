"""Conversion of each field of TrainingArguments to its declared type, and the check of its rule."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import math
import os
from collections.abc import Callable
from types import NoneType
from typing import Any

from trackside.callbacks._util.conversion import convert, hints_of, in_words, members_of, read_str
from trackside.callbacks._util.environment import has_reference, resolved
from trackside.callbacks.errors import ArgumentError, TracksideValueError
from trackside.callbacks.secrets import is_secret_name

from .fields import Argument, Rule, refusal
from .serialization import SerializableArguments

CONVERTED = (bool, int, float, str, NoneType, list[str], dict[str, Any])

NEAR = 0.88
"""Likeness from which on the name of an attribute is taken for that of a field, misspelt."""

logger: logging.Logger = logging.getLogger("trackside.trainer")

LARGEST = 2**63 - 1
"""The largest whole number that frameworks take."""


def convert_fields(args: SerializableArguments) -> dict[str, Any]:
    """Convert each field of ``args`` to its declared type and check its rule; return those that name the environment.

    A reference such as ``${ENV:NAME}`` becomes the value of the variable.

    A field that a subclass declares is left unchanged if its type is not made of `CONVERTED`, or its value is the
    default.

    Raises:
        ArgumentError: If a field cannot be converted, or breaks its rule; the message has the field, the value and the
            allowed values.
    """
    references = {}
    cls: Any = type(args)  # the class is hashable; an instance is not
    for item, kinds in _convertible(cls):
        value = written = args.given(item.name)
        if item.name != "callbacks" and has_reference(written):
            references[item.name] = written
            value = _from_environment(item.name, written)
        if isinstance(item, Argument) or value is not item.default:
            setattr(args, item.name, _converted(item, kinds, value))
    return references


def converted(cls: Any, name: str, value: Any) -> Any:
    """Return ``value`` as the field of that name would have it.

    Raises:
        ArgumentError: If it cannot be converted, or breaks the rule of the field.
    """
    return next(_converted(item, kinds, value) for item, kinds in _convertible(cls) if item.name == name)


def check_set(args: SerializableArguments) -> None:
    """Convert and check the fields of ``args`` once more, some of which may have been set after its construction.

    An attribute that is not a field, but nearly has the name of one, is warned of, since nothing reads it.

    Raises:
        ArgumentError: As `convert_fields`.
    """
    cls: Any = type(args)
    for item, kinds in _convertible(cls):
        value = getattr(args, item.name)
        if isinstance(item, Argument) or value is not item.default:
            typed = _converted(item, kinds, value)
            if type(typed) is not type(value) or typed != value:
                setattr(args, item.name, typed)
    names = [item.name for item in cls.fields()]
    for name in vars(args):
        if not name.startswith("_") and name not in names and not hasattr(cls, name):
            near = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
            if near:
                logger.warning(
                    "args has %r, which is not a field of it and has no effect. Did you mean %r?", name, near[0]
                )


def _from_environment(name: str, value: Any) -> Any:
    try:
        return resolved(value, is_secret=is_secret_name(name))
    except TracksideValueError as error:
        raise ArgumentError(name, value, str(error)) from None


@functools.cache
def _convertible(cls: type[SerializableArguments]) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of ``cls`` that can be converted, and the type of each."""
    hints = hints_of(cls)
    found = [(item, getattr(item, "kinds", None) or hints.get(item.name)) for item in cls.fields()]
    return [(item, hint) for item, hint in found if all(kind in CONVERTED for kind in members_of(hint))]


def _converted(item: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    if value is None and NoneType in members_of(hint):
        return None
    rule: Rule | None = getattr(item, "rule", None)
    reads: Callable[[str], Any] | None = getattr(item, "reads", None)
    try:
        typed = convert(reads(read_str(value)) if reads and isinstance(value, str | os.PathLike) else value, hint)
    except (TypeError, ValueError) as error:
        why = f" ({error})" if isinstance(value, str) and reads else ""
        raise ArgumentError(item.name, value, _allowed(hint, rule, value) + why) from None
    is_too_large = isinstance(typed, int) and abs(typed) > LARGEST
    is_finite = not isinstance(typed, float) or math.isfinite(typed)
    if is_too_large or not is_finite or not (rule is None or rule.holds(typed)):
        raise ArgumentError(item.name, value, _allowed(hint, rule, typed))
    return typed if rule is None else rule.becomes(typed)


def _allowed(hint: Any, rule: Rule | None, value: Any) -> str:
    if rule is not None and rule.choices:
        return refusal(rule, value)
    return in_words(hint, f", {rule.allowed}" if rule else "", none="None").replace("a number", "a finite number")
