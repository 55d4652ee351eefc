from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks._util.plain_data import ARRAY_LIMIT, copy_plain, plain, plain_items, to_json
from trackside.callbacks.errors import NotPlainError


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Best:
    value: Any
    step: int = 3


Point = collections.namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(2.5), 2.5),
        (np.longdouble(1.5), 1.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(2.5), 2.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.ones((0, 3)), []),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (np.array(["2020-01-02"], "datetime64[D]"), ["2020-01-02"]),
        (np.timedelta64(5, "m"), 300.0),
        (np.timedelta64("NaT"), None),
        (np.array([None, np.int8(1)], dtype=object), [None, 1]),
        (decimal.Decimal("0.5"), 0.5),
        (fractions.Fraction(1, 4), 0.25),
        (10**100, 10**100),
        (Path("a/b"), "a/b"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3), "2020-01-02T03:00:00"),
        (datetime.timedelta(minutes=1), 60.0),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Color.RED, "red"),
        (Best(np.float32(1.5)), {"value": 1.5, "step": 3}),
        (Point(1, np.int8(2)), [1, 2]),
        ({3, 10, 2}, [2, 3, 10]),
        (frozenset({"b", 1}), [1, "b"]),
        (collections.deque([(1, 2)]), [[1, 2]]),
        (range(2), [0, 1]),
        ({"a": 1}.values(), [1]),
        ({1: "a", 2.5: "b", None: "c", Color.RED: "d"}, {"1": "a", "2.5": "b", "null": "c", "red": "d"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_with_a_plain_form_gets_it(value, expected):
    made = plain(value, "the value")

    assert made == expected
    assert type(made) is type(expected)
    assert json.loads(json.dumps(made)) == expected


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), decimal.Decimal("nan")])
def test_what_is_not_a_number_stays_so(value):
    assert math.isnan(plain(value, "the value"))


def test_infinities_come_back():
    assert json.loads(to_json({"best": -math.inf, "high": np.float32("inf")}, "x")) == {
        "best": -math.inf,
        "high": math.inf,
    }


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


endless: dict[str, Any] = {}
endless["itself"] = endless


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, object()]}, "the state['a'][1] is of type object, which has no plain form. Allowed: numbers, text"),
        ({"made": (item for item in ())}, "the state['made'] is of type generator"),
        ({"rule": lambda: 0}, "the state['rule'] is of type function"),
        ({"kind": Color}, "the state['kind'] is of type enum.EnumType"),
        (b"bytes", "the state is of type bytes"),
        (np.bytes_(b"x"), "the state is of type bytes"),
        (1j, "the state is of type complex"),
        (np.array([1j]), "the state[0] is of type complex"),
        (10**5000, "the state has more than 4300 digits"),
        (fractions.Fraction(10**400), "the state is of type fractions.Fraction, which cannot be read: OverflowError"),
        ({"ema": np.zeros(ARRAY_LIMIT + 1)}, f"the state['ema'] holds {ARRAY_LIMIT + 1} values; at most {ARRAY_LIMIT}"),
        ({(1, 2): 3}, "the state has the key (1, 2); keys are text or numbers"),
        ({1: "a", "1": "b"}, "the state has two keys that are both '1' as text"),
        (endless, "the state['itself']['itself']['itself'] is nested deeper than 100 levels, or contains itself"),
        (deep(500), "is nested deeper than 100 levels"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_rest_is_told_with_its_place(value, told):
    with pytest.raises(NotPlainError) as raised:
        plain(value, "the state")

    assert told in str(raised.value)


def test_rest_takes_what_has_no_plain_form_wherever_it_is():
    values = {"a": [object], (1, 2): 1, "big": 10**5000, "endless": endless}

    made = plain(values, "x", rest=lambda value: type(value).__name__)

    assert made.pop("endless")["itself"]
    assert made == {"a": ["type"], "tuple": 1, "big": "int"}


def test_each_item_without_a_plain_form_costs_only_itself():
    kept, errors = plain_items({"loss": np.float32(0.5), "figure": object(), "by": {"a": object()}}, "log()")

    assert kept == {"loss": 0.5}
    assert [error.place for error in errors] == ["['figure']", "['by']['a']"]


def test_a_copy_shares_no_container():
    value = {"a": [{"b": 1}]}

    for made in (plain(value, "x"), copy_plain(value)):
        assert made == value
        made["a"][0]["b"] = 2
        assert value == {"a": [{"b": 1}]}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY = st.recursive(
    SCALARS
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.timedeltas()
    | st.floats(width=32).map(np.float32)
    | st.lists(st.integers(-100, 100)).map(lambda items: np.array(items, np.int16)),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(ANY)
def test_what_comes_out_is_json_and_stays_as_it_is(value):
    made = plain({"value": value}, "x", rest=repr)

    text = json.dumps(made)
    assert json.dumps(json.loads(text)) == text
    assert json.dumps(plain(made, "x")) == text
    assert json.dumps(copy_plain(made)) == text
