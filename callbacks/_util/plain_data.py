"""Plain data: what JSON keeps. The one door for values that records, states and checkpoints hold.

Plain data consists of None, booleans, numbers, text, lists, and dicts with text as keys. A value that has an obvious
plain form is converted; every other value is an error that names its place, so that nothing is lost silently.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from typing import Any

from ..errors import NotPlainError, describe
from ..secrets import MASK, Secret

SCALARS = frozenset({type(None), bool, int, float, str})
"""Types that are plain already."""

ARRAY_LIMIT = 65_536
"""The largest number of values of an array or a tensor that becomes a list."""

DEPTH_LIMIT = 100
"""The deepest nesting of lists and dicts."""

INT_DIGITS = 4300
"""The longest whole number that Python reads from text."""

ALLOWED = (
    "numbers, text, true, false, None, lists and dicts of them, and what has such a form: scalars and small arrays of "
    "numpy and of frameworks, paths, dates, enums, sets, dataclasses"
)

COLLECTIONS = (collections.abc.Sequence, collections.abc.Set, collections.abc.ValuesView, collections.deque)

Rest = Callable[[Any], Any]
"""Returns the plain form of a value that has no obvious one."""


def plain(value: Any, what: str, *, rest: Rest | None = None) -> Any:
    """Return ``value`` as plain data that shares no list or dict with it.

    Scalars of numpy and of frameworks become numbers, and their arrays lists; NaN and infinities remain. Paths, dates
    and UUIDs become text, a duration its seconds, an enum its value, a dataclass a dict, every other collection a list
    (sets are sorted), and keys that are numbers their text. Plain data returns equal.

    Args:
        what: The name of the value, for the error.
        rest: Applied to a value without a plain form, instead of raising.

    Raises:
        NotPlainError: If a value has no plain form; the message has its place, its type, and what is allowed.

    Example:
        >>> plain({"size": (2, 3), 1: float("inf")}, "an example")
        {'size': [2, 3], '1': inf}
        >>> plain({"made": [object]}, "the state")
        Traceback (most recent call last):
        ...
        trackside.callbacks.errors.NotPlainError: the state['made'][0] is of type type, ...
    """
    return Conversion(what, rest).convert(value, ())


def plain_items(values: Mapping[str, Any], what: str) -> tuple[dict[str, Any], list[NotPlainError]]:
    """Return the items of ``values`` that have a plain form, as plain data, and the errors of the others."""
    kept: dict[str, Any] = {}
    errors = []
    for key, value in values.items():
        try:
            kept.update(plain({key: value}, what))
        except NotPlainError as error:
            errors.append(error)
    return kept, errors


def sanitized(values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return values as trackers take them: truth values, numbers and text as they are, all others as text.

    Example:
        >>> sanitized({"seed": 1, "debug": [], "data_seed": None})
        {'seed': 1, 'debug': '[]', 'data_seed': 'None'}
    """
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in values.items()
    }


def copy_plain(value: Any) -> Any:
    """Return a copy of plain data that shares no list or dict with it."""
    if type(value) is dict:
        return {key: item if type(item) in SCALARS else copy_plain(item) for key, item in value.items()}
    return [copy_plain(item) for item in value] if type(value) is list else value


def to_json(value: Any, what: str, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; what `json.dumps` does not take is converted by `plain`.

    Raises:
        NotPlainError: See `plain`.
    """
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(plain(value, what), indent=indent)


class Conversion:
    """One call of `plain`.

    Args:
        what: The name of the value, for the error.
        rest: See `plain`.
    """

    def __init__(self, what: str, rest: Rest | None) -> None:
        self.what = what
        self.rest = rest

    def convert(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind in SCALARS and (kind is not int or -(2**63) <= value < 2**63):
            return value
        try:
            return self._converted(value, path)
        except NotPlainError:
            raise
        except Exception as error:  # of the value's own methods: a tensor without values, a lazy one
            reason = f"is of type {type_name(value)}, which cannot be read: {describe(error)}"
            return self._refuse(value, path, reason)

    def _converted(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > DEPTH_LIMIT:
            return self._refuse(value, path[:3], f"is nested deeper than {DEPTH_LIMIT} levels, or contains itself")
        if isinstance(value, Enum):
            return self.convert(value.value, path)
        if isinstance(value, Secret):
            return MASK
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, Mapping):
            return self._dict(value, path)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dict({item.name: getattr(value, item.name) for item in dataclasses.fields(value)}, path)
        if _is_array(value):
            return self._array(value, path)
        if isinstance(value, Integral | Real | Decimal):
            return self._number(value, path)
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, COLLECTIONS) and not isinstance(value, bytes | bytearray | memoryview):
            items = [self.convert(item, (*path, number)) for number, item in enumerate(value)]
            return sorted_plain(items) if isinstance(value, collections.abc.Set) else items
        return self._refuse(value, path, f"is of type {type_name(value)}, which has no plain form")

    def _dict(self, value: Mapping[Any, Any], path: tuple[Any, ...]) -> Any:
        made: dict[str, Any] = {}
        for key, item in value.items():
            text = self._key(key, path)
            if text in made:
                return self._refuse(value, path, f"has two keys that are both {text!r} as text")
            made[text] = self.convert(item, (*path, key))
        return made

    def _key(self, key: Any, path: tuple[Any, ...]) -> str:
        text = key if type(key) is str else self.convert(key, (*path, key))
        if isinstance(text, list | dict):
            text = self._refuse(key, path, f"has the key {key!r}; keys are text or numbers")
        return text if isinstance(text, str) else json.dumps(text)

    def _array(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Return an array or a tensor as nested lists, a scalar as a number, without knowing the framework."""
        size = math.prod(getattr(value, "shape", None) or (1,))
        if size > ARRAY_LIMIT:
            reason = f"holds {size} values; at most {ARRAY_LIMIT} are kept here, write more to a file of their own"
            return self._refuse(value, path, reason)
        if not hasattr(value, "tolist"):
            return self.convert(value.numpy() if hasattr(value, "numpy") else value.__array__(), path)
        kind = getattr(value.dtype, "kind", "") if hasattr(value, "dtype") else ""
        if kind == "M":
            value = value.astype(str)
        if kind == "m":
            value = value.astype("timedelta64[us]")
        found = value.tolist()
        return self._number(value, path) if type(found) is type(value) else self.convert(found, path)

    def _number(self, value: Any, path: tuple[Any, ...]) -> Any:
        if not isinstance(value, Integral):
            return float(value)
        number = int(value)
        if abs(number) >= 10**INT_DIGITS:
            return self._refuse(value, path, f"has more than {INT_DIGITS} digits")
        return number

    def _refuse(self, value: Any, path: tuple[Any, ...], reason: str) -> Any:
        if self.rest is not None:
            return self.rest(value)
        raise NotPlainError(self.what, self.place(path), f"{reason}. Allowed: {ALLOWED}")

    @staticmethod
    def place(path: tuple[Any, ...]) -> str:
        """Return where a value is, as Python writes it."""
        return "".join(f"[{key!r}]" for key in path)


def _is_array(value: Any) -> bool:
    """Return whether ``value`` is an array, a tensor, or a scalar of one, of any framework."""
    if isinstance(value, type) or not (hasattr(value, "dtype") or hasattr(value, "typecode")):
        return False
    return any(hasattr(value, method) for method in ("tolist", "numpy", "__array__"))


def sorted_plain(items: list[Any]) -> list[Any]:
    """Return plain values in an order that does not depend on that of a set."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=lambda item: (type(item).__name__, json.dumps(item)))


def type_name(value: Any) -> str:
    """Return the name of the type of a value, with its module unless that is Python's own."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
