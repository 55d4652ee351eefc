"""Exact data: JSON from which a value comes back equal, and of the same type. The one door for states.

What JSON knows stays as it is. Another value of a known type becomes a dict with the key ``trackside``, the name of the
type, and what it is made of again. Reading calls nothing but the constructors in this file.
"""

from __future__ import annotations

import base64
import datetime
import pathlib
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .plain_data import ARRAY_LIMIT, DEPTH_LIMIT, SCALARS, Conversion, sorted_plain, type_name

TAG = "trackside"
"""The key of a dict that stands for a value that JSON does not know."""

Tell = Callable[[str, str], None]
"""Called with the place of a value that comes back as another one, and with what a warning says of it."""

KINDS_OF_ARRAYS = "biufcmMSU"
"""Kinds of numpy's types whose bytes are the values."""

FACTORIES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple)}
"""What a defaultdict may make."""


def exact(value: Any, what: str, *, tell: Tell | None = None, limit: int | None = ARRAY_LIMIT) -> Any:
    """Return ``value`` as JSON values; `returned` gives back the same value, and of the same type.

    These are numbers, text, bytes, paths, dates, UUIDs, scalars and arrays of numpy, and lists, tuples, sets, deques
    and dicts of them, with keys of any of these types. What has a plain form only, such as an enum or a dataclass,
    comes back as that form, and a tensor as an array of numpy; ``tell`` is called for it.

    Args:
        what: The name of the value, for an error.
        limit: The most values of an array; None for any number.

    Raises:
        NotPlainError: If a value has no plain form either; the message has its place and its type.

    Example:
        >>> returned(exact({"best": (1, float("inf")), 3: {"a"}}, "an example"))
        {'best': (1, inf), 3: {'a'}}
    """
    return Exact(what, tell, limit).convert(value, ())


def returned(value: Any) -> Any:
    """Return the value that `exact` was given.

    Raises:
        ValueError, TypeError, KeyError, ...: If ``value`` is not from `exact`.
    """
    if isinstance(value, list):
        return [returned(item) for item in value]
    if not isinstance(value, dict):
        return value
    return made_again(value, returned) if TAG in value else {key: returned(item) for key, item in value.items()}


def made_again(value: dict[str, Any], read: Callable[[Any], Any]) -> Any:
    """Return the value for which a dict with `TAG` stands; ``read`` is applied to what it consists of.

    Raises:
        ValueError, TypeError, KeyError, ...: See `returned`.
    """
    kind = value[TAG]
    if kind in ("array", "scalar"):
        return _array(**value)
    if kind not in BY_NAME:
        raise ValueError(f"{kind!r} is not a type of values that checkpoints keep")
    return BY_NAME[kind](read(value["items"]))


class Exact(Conversion):
    """One call of `exact`."""

    def __init__(self, what: str, tell: Tell | None = None, limit: int | None = None) -> None:
        super().__init__(what, None)
        self.tell = tell
        self.limit = limit

    def convert(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind in SCALARS or len(path) > DEPTH_LIMIT:
            return super().convert(value, path)
        if kind is list:
            return [self.convert(item, (*path, place)) for place, item in enumerate(value)]
        if kind is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: self.convert(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, dict) and kind in KINDS:
            return self._pairs(value, path)
        if kind in KINDS:
            parts = KINDS[kind][1](value)
            items = [self.convert(item, (*path, place)) for place, item in enumerate(parts)]
            return {TAG: KINDS[kind][0], "items": sorted_plain(items) if kind in (set, frozenset) else items}
        if self._is_exact_array(value):
            return self._bytes_of(value)
        made = self.convert(tuple(value), path) if isinstance(value, tuple) else super().convert(value, path)
        form = type_name(returned(made))
        self._tell_of(path, f"is of type {type_name(value)}, and comes back from a checkpoint as {form}")
        return made

    def _array(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Return an array or a tensor of a framework as one of numpy, unless numpy does not know its type."""
        import numpy as np

        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        except (TypeError, RuntimeError):
            return super()._array(value, path)
        array = array if array.ndim else array[()]
        return self._bytes_of(array) if self._is_exact_array(array) else super()._array(value, path)

    def _tell_of(self, path: tuple[Any, ...], change: str) -> None:
        if self.tell is not None:
            self.tell(self.what + self.place(path), change)

    def _pairs(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Return a dict of another kind, or with keys that are not text."""
        pairs = [[self.convert(key, (*path, key)), self.convert(item, (*path, key))] for key, item in value.items()]
        if type(value) is not defaultdict:
            return {TAG: KINDS[type(value)][0], "items": pairs}
        name = getattr(value.default_factory, "__name__", None)
        is_known = value.default_factory is None or FACTORIES.get(str(name)) is value.default_factory
        if not is_known:
            self._tell_of(path, "is a defaultdict, and comes back from a checkpoint without its function")
        return {TAG: "defaultdict", "items": [name if is_known else None, {TAG: "dict", "items": pairs}]}

    def _is_exact_array(self, value: Any) -> bool:
        numpy: Any = sys.modules.get("numpy")
        is_array = numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic))
        is_small = is_array and (self.limit is None or value.size <= self.limit)
        return is_small and value.dtype.kind in KINDS_OF_ARRAYS

    def _bytes_of(self, value: Any) -> Any:
        import numpy as np

        kind = "array" if type(value) is np.ndarray else "scalar"
        data = base64.b64encode(np.asarray(value, order="C").tobytes()).decode()
        return {TAG: kind, "dtype": value.dtype.str, "shape": list(value.shape), "data": data}


def _array(*, trackside: str, dtype: str, shape: list[int], data: str) -> Any:
    import numpy as np

    array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
    return array if trackside == "array" else array[()]


def _defaultdict(parts: list[Any]) -> Any:
    name, items = parts
    return defaultdict(None if name is None else FACTORIES[name], items)


Kind = tuple[str, Callable[[Any], Any], Callable[[list[Any]], Any]]

KINDS: dict[type, Kind] = {
    **{kind: (kind.__name__, list, kind) for kind in (tuple, set, frozenset)},
    **{kind: (kind.__name__, list, kind) for kind in (dict, OrderedDict)},
    Counter: ("Counter", list, lambda pairs: Counter(dict(pairs))),
    defaultdict: ("defaultdict", list, _defaultdict),
    deque: ("deque", lambda value: [list(value), value.maxlen], lambda parts: deque(*parts)),
    range: ("range", lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    complex: ("complex", lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    **{
        kind: (kind.__name__, lambda value: [base64.b64encode(value).decode()], read)
        for kind, read in (
            (bytes, lambda parts: base64.b64decode(parts[0])),
            (bytearray, lambda parts: bytearray(base64.b64decode(parts[0]))),
        )
    },
    **{
        kind: (kind.__name__, lambda value: [value.isoformat()], read)
        for kind, read in (
            (datetime.datetime, lambda parts: datetime.datetime.fromisoformat(*parts)),
            (datetime.date, lambda parts: datetime.date.fromisoformat(*parts)),
            (datetime.time, lambda parts: datetime.time.fromisoformat(*parts)),
        )
    },
    datetime.timedelta: (
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    Decimal: ("Decimal", lambda value: [str(value)], lambda parts: Decimal(*parts)),
    Fraction: ("Fraction", lambda value: [str(value)], lambda parts: Fraction(*parts)),
    uuid.UUID: ("UUID", lambda value: [str(value)], lambda parts: uuid.UUID(*parts)),
    type(pathlib.Path()): ("Path", lambda value: [str(value)], lambda parts: pathlib.Path(*parts)),
}
"""Types that JSON does not know, each with its name there, what it consists of, and how it is made of that again."""

BY_NAME: dict[str, Callable[[list[Any]], Any]] = {name: make for name, _, make in KINDS.values()}
