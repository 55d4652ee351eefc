"""Plain values become what a type hint allows, or an error says what that is."""

from __future__ import annotations

import enum
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks._util.conversion import convert, hints_of, in_words
from trackside.callbacks.errors import TracksideValueError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("8", int, 8),
        (8.0, int, 8),
        ("1e4", int, 10000),
        (1, float, 1.0),
        ("inf", float, float("inf")),
        ("True", bool, True),
        (np.bool_(True), bool, True),
        (np.int64(3), int, 3),
        (Path("a"), str, "a"),
        ("a", Path, Path("a")),
        ("a", str | os.PathLike[str] | None, "a"),
        (None, int | None, None),
        ("1", int | str, 1),
        ("a", int | str, "a"),
        ([1, "2"], list[int], [1, 2]),
        ([1, "x"], list, [1, "x"]),
        (np.array([1, 2]), list[int], [1, 2]),
        (np.float64(0.5), Any, 0.5),
        ((1, 2), Sequence[float], [1.0, 2.0]),
        ([1, "a"], tuple[int, str], (1, "a")),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1, 1], set[int], {1}),
        ({"a": "1"}, Mapping[str, int], {"a": 1}),
        ({"a": 1}, dict[str, Any], {"a": 1}),
        ("blue", Colour, Colour.BLUE),
        ("BLUE", Colour, Colour.BLUE),
        (Colour.BLUE, Colour | None, Colour.BLUE),
        ("x", Colour | Path | None, Path("x")),
        ("on", Literal["on", 3], "on"),
        ("3", Literal["on", 3], 3),
        ("json.JSONEncoder", type, __import__("json").JSONEncoder),
        ("2024-12-31", date, date(2024, 12, 31)),
        ("2024-12-31T18:00", date | datetime, datetime(2024, 12, 31, 18)),
        ("18:00", time, time(18)),
        ("90", timedelta | None, timedelta(seconds=90)),
        (timedelta(1), timedelta, timedelta(1)),
        (len, Callable[[list[int]], int], len),
        (int, type, int),
        ("1", Any, "1"),
        ("1", "NameOfAnUnknownType", "1"),
        ([1], TypeVar("T"), [1]),
    ],
)
def test_a_value_becomes_what_the_hint_allows(value, hint, expected):
    converted = convert(value, hint)

    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "a whole number is needed"),
        (1.5, int, "a whole number is needed"),
        ("inf", int, "a whole number is needed"),
        (True, float | None, "a number or null is needed"),
        ("x", int | float, "a number is needed"),
        ("yes", bool, "true or false is needed"),
        (1, str | os.PathLike[str], "a text is needed"),
        (1, Path, "a path is needed"),
        ("12", list[int], "a list (each item: a whole number) is needed"),
        ([1, "a", 2], tuple[int, str], "a list of 2 items (a whole number, a text) is needed"),
        ([1], tuple[int, str], "a list of 2 items (a whole number, a text) is needed"),
        ({1: "a"}, dict[str, Any], "a map is needed"),
        ({"a": "x"}, dict[str, int], "a map (each value: a whole number) is needed"),
        ("grean", Literal["red", "green"], "red or green is needed. Did you mean 'green'?"),
        ("rad", Colour | None, "red or blue or null is needed. Did you mean 'red'?"),
        ("json.Nothing", type, "type is needed (json has no 'Nothing'.)"),
        ("31.12.2024", date, "a date (such as 2024-12-31) is needed"),
        (20241231, date | None, "a date (such as 2024-12-31) or null is needed"),
        ("1h", timedelta, "a number of seconds is needed"),
        (3, Callable[[], None], "a function is needed"),
        (3, Colour, "red or blue is needed"),
        (3, types.NoneType, "null is needed"),
    ],
)
def test_a_value_that_the_hint_does_not_allow_is_refused_with_what_is_allowed(value, hint, message):
    with pytest.raises(TracksideValueError) as caught:
        convert(value, hint)

    assert str(caught.value) == message
    assert message.startswith(in_words(hint))


def test_the_limits_of_a_value_and_the_word_for_none_are_part_of_what_is_allowed():
    assert in_words(int | float | None, ", at least 1", none="None") == "a number, at least 1, or None"
    assert in_words(list[str] | None, none="None") == "a list (each item: a text) or None"


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text())
def test_a_value_that_has_the_type_already_is_unchanged(value):
    assert convert(value, type(value)) == value


def test_hints_that_cannot_be_resolved_are_left_out():
    def function(first: int, second: Missing, third: [int]):  # noqa: F821
        """Take options."""

    assert hints_of(function) == {"first": int}


def test_the_fields_of_a_dataclass_and_of_its_bases_are_found_although_one_cannot_be_resolved():
    @dataclass
    class Base:
        first: int
        second: Missing  # noqa: F821

    @dataclass
    class Derived(Base):
        third: Path

    assert hints_of(Derived) == {"first": int, "third": Path}


def test_a_class_written_in_c_has_no_hints():
    assert hints_of(Colour.__class__.__mro__[-1]) == {}
    assert hints_of(dict) == {}
