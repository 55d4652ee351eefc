"""States come back equal, and of the same types; what cannot is told or refused."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trackside.callbacks._util.exact_data import exact, returned
from trackside.callbacks._util.plain_data import ARRAY_LIMIT
from trackside.callbacks.errors import NotPlainError

NOW = datetime.datetime(2026, 11, 30, 12, 30, 1, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
Pair = namedtuple("Pair", ["one", "two"])


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int
    seen: tuple[int, ...]


def stored(value, **options):
    return returned(json.loads(json.dumps(exact(value, "a state", **options))))


def same(one, two):
    if isinstance(one, (np.ndarray, np.generic)):
        return type(one) is type(two) and one.dtype == two.dtype and one.shape == two.shape and bool((one == two).all())
    if isinstance(one, dict):
        return type(one) is type(two) and list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


@pytest.mark.parametrize(
    "value",
    [
        {"n": 1, "big": 2**80, "x": 0.1, "text": "é", "none": None, "flag": True, "items": [1, [2]]},
        {1: "a", (2, "b"): {3.5: None}, None: 0, False: 1, "1": 2},
        {"trackside": "tuple", "items": [1]},
        OrderedDict(b=1, a=2),
        Counter("aab"),
        defaultdict(int, {"a": 1}),
        defaultdict(None, {1: 2}),
        (1, (2, [3])),
        {1, "a", (2, 3)},
        frozenset({1, 2}),
        deque([1, 2], maxlen=5),
        range(1, 9, 2),
        b"\x00\xff",
        bytearray(b"ab"),
        1 + 2j,
        Path("a/b"),
        NOW,
        NOW.date(),
        NOW.timetz(),
        datetime.timedelta(days=-1, microseconds=7),
        Decimal("0.10"),
        Fraction(1, 3),
        uuid.UUID(int=5),
        np.float32(0.1),
        np.int64(3),
        np.bool_(True),
        np.array(3.5),
        np.zeros((0, 3), np.int8),
        np.arange(6, dtype=">i4").reshape(2, 3).T,
        np.array(["a", "bcd"]),
        np.array(["2026-11-30"], "M8[D]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_equal_and_of_the_same_type(value):
    told = []

    again = stored(value, tell=lambda *change: told.append(change))

    assert same(again, value)
    assert told == []


@pytest.mark.parametrize(
    ("value", "comes_back", "told"),
    [
        (Color.RED, "red", "Color, and comes back from a checkpoint as str"),
        (Level.LOW, 1, "and comes back from a checkpoint as int"),
        (Point(1, (2, 3)), {"x": 1, "seen": (2, 3)}, "and comes back from a checkpoint as dict"),
        (Pair(1, 2), (1, 2), "and comes back from a checkpoint as tuple"),
        (defaultdict(lambda: 5, a=1), {"a": 1}, "is a defaultdict, and comes back from a checkpoint without its"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_comes_back_as_another_one_is_told_with_its_place(value, comes_back, told):
    places = {}

    again = stored({"at": [value]}, tell=places.__setitem__)

    assert again["at"][0] == comes_back
    assert list(places) == ["a state['at'][0]"]
    assert told in places["a state['at'][0]"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"f": lambda: 0}, r"a state\['f'\] is of type function"),
        ({"ema": np.zeros(ARRAY_LIMIT + 1)}, rf"a state\['ema'\] holds {ARRAY_LIMIT + 1} values"),
        ({(1, 2): object()}, r"a state\[\(1, 2\)\] is of type object"),
        ({"o": np.array([object()])}, r"a state\['o'\]\[0\] is of type object"),
    ],
)
def test_a_value_without_any_form_is_refused_with_its_place(value, message):
    with pytest.raises(NotPlainError, match=message):
        exact(value, "a state")


@pytest.mark.parametrize(
    "value",
    [
        {"trackside": "module"},
        {"trackside": "os.system", "items": ["true"]},
        {"trackside": "array", "dtype": "O", "shape": [1], "data": "AAAAAAAAAAA="},
        {"trackside": "defaultdict", "items": ["eval", {}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_but_values_is_made_of_what_a_file_says(value):
    with pytest.raises((ValueError, KeyError, TypeError)):
        returned(value)
