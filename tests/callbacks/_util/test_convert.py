"""Values that are converted to declared types."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks._util.convert import convert, describe
from trackside.callbacks.errors import ConfigError


class Mode(Enum):
    FAST = "f"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("8", int, 8),
        (8.0, int, 8),
        ("1e4", int, 10_000),
        (np.int64(3), int, 3),
        (3, float, 3.0),
        ("inf", float, float("inf")),
        ("TRUE", bool, True),
        (Path("a"), str, "a"),
        ("5", int | str, 5),
        ("x", int | str, "x"),
        (None, int | None, None),
        (["1", 2.0], list[int], [1, 2]),
        (np.array([1, 2]), list[int], [1, 2]),
        (("a",), Sequence[str], ["a"]),
        ([1, "x"], list, [1, "x"]),
        ([1, 2], tuple[int, float], (1, 2.0)),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        (["a", "a"], set[str], {"a"}),
        ({"a": "1"}, dict[str, int], {"a": 1}),
        ({"a": 1}, Mapping[str, typing.Any], {"a": 1}),
        ("b", typing.Literal["a", "b"], "b"),
        ("FAST", Mode, Mode.FAST),
        ("f", Mode, Mode.FAST),
        (Mode.FAST, Mode | None, Mode.FAST),
        ("x", Path, Path("x")),
        ("x", Mode | Path | None, Path("x")),
        ("x", os.PathLike[str], Path("x")),
        (len, Callable[..., int], len),
        (int, type, int),
        ("anything", typing.Any, "anything"),
        ("anything", "NameOfAnUnknownType", "anything"),
    ],
)
def test_a_value_that_is_or_spells_the_type_becomes_it(value, hint, expected):
    found = convert(value, hint)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "a whole number is needed"),
        (1.5, int | None, "a whole number, or None is needed"),
        (True, float, "a number is needed"),
        ("yes", bool, "True or False is needed"),
        (3, str, "a string is needed"),
        ("ab", list[str], "a list of strings is needed"),
        ([1, 2, 3], tuple[int, int], "a list is needed"),
        ({1: "a"}, dict[str, str], "a mapping from names to values is needed"),
        ("c", typing.Literal["a", "b"], "one of a, b is needed"),
        ("slow", Mode, "one of FAST is needed"),
        ("x", int | float, "a number is needed"),
        (3, Callable[[], None], "a function is needed"),
    ],
)
def test_a_value_that_is_not_is_refused_with_what_is_needed(value, hint, message):
    with pytest.raises(TypeError) as caught:
        convert(value, hint)

    assert str(caught.value) == message


def test_an_object_is_made_by_who_asks_and_what_goes_wrong_is_told():
    class Part:
        pass

    def make(kind, value):
        if value == "nothing":
            raise ConfigError("there is nothing")
        return kind() if value == "part" else value

    assert type(convert("part", Part, make)) is Part
    assert [type(item) for item in convert(["part"], list[Part], make)] == [Part]
    with pytest.raises(TypeError, match="Part, or None is needed"):
        convert(3, Part | None, make)
    with pytest.raises(ConfigError, match="there is nothing"):
        convert("nothing", Part | None, make)


def test_a_number_that_may_be_whole_is_called_a_number():
    assert describe(int | float | None, ", at least 1") == "a number, at least 1, or None"


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text())
def test_what_has_the_type_already_stays_what_it_is(value):
    assert convert(value, type(value)) == value
